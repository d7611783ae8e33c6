"""A policy's switch in the loop (`budgets.switch`): when drafting begins, what it reserves from then on, and what that costs."""

from simulator.budgets.switch import calm_steps
from simulator.compiled import compiled
from simulator.engine.blocks import forget_all
from simulator.engine.schedule import put_back_last
from simulator.engine.state import Core, pool_of


@compiled
def switch_on(core: Core) -> None:
    """Count the decode step to come, before it is scheduled, and begin to draft with it if it is time to."""
    if core.live == 0 or core.counted == core.steps:
        return
    core.counted, core.calm = core.steps, calm_steps(core.calm, core.live, core.few)
    if core.calm < core.patience:
        return
    core.on = core.stale = core.due = True
    pool_of(core).lookahead = core.lookahead
    if core.reprefill:
        recompute(core)


@compiled
def switch_off(core: Core) -> None:
    """Nothing is left in the batch or the queue: drafting must begin anew."""
    core.on, core.calm = core.patience == 0, 0
    pool_of(core).lookahead = core.lookahead if core.on else 0


@compiled
def recompute(core: Core) -> None:
    """Put everything that runs back at the head of the queue, in its order, and let nothing be found in the cache."""
    while core.live > 0:
        put_back_last(core)
    if core.paged:
        forget_all(pool_of(core))


@compiled
def wait_on(core: Core, done: int) -> None:
    """Count what was decoded without a look, the first of those steps being counted already."""
    if core.live <= core.few:
        core.calm += done - 1
