"""What a decode step costs, and its entry in the log."""

from simulator.compiled import compiled
from simulator.cost.draft_cost import draft_time
from simulator.cost.kernel import outside, step_time
from simulator.cost.work import WORK
from simulator.engine.state import Core, Step, cost_of, draft_cost_of, padding_of, passes_of, pool_of
from simulator.records import beginning


@compiled
def price(core: Core, step: Step) -> None:
    """Price the step's work, and what drafting adds to it."""
    cost = cost_of(core)
    work = beginning(step, WORK)
    seconds = step_time(cost, work)
    step.extrapolated = outside(cost)
    step.draft_s = draft_time(
        draft_cost_of(core), core.asking, passes_of(core)[core.longest_draft], step.drafted_tokens, step.emitted_tokens, work,
        seconds,
    )  # fmt: skip
    host_s = core.step_overhead_s
    if core.uneven_step_s + core.eager_step_s > 0:
        host_s += launch_time(core, step)
    step.duration_s = seconds + (step.draft_s + host_s)
    step.waited_s = 0.0


@compiled
def launch_time(core: Core, step: Step) -> float:
    """Seconds that launching a step's kernels takes longer than replaying one CUDA graph."""
    if 0 < padding_of(core).size <= step.query_tokens:
        return core.eager_step_s
    if step.prefill_seqs > 0 or step.drafted_tokens < max(core.longest_draft, 1 if core.asking > 0 else 0) * step.live:
        return core.uneven_step_s
    return 0.0


@compiled
def book(core: Core, step: Step) -> None:
    """Enter the step in the log, and move the clock."""
    step.start_s = core.now_s
    step.waiting, step.preempted, step.free_blocks = core.tail - core.head, core.preempted, pool_of(core).free
    core.preempted = 0
    core.logged += 1
    core.steps += 1
    core.visible_s = core.now_s
    core.now_s += step.duration_s
    if step.extrapolated:
        core.extrapolated_s += step.duration_s
