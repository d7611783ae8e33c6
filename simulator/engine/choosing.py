"""Budgets that a policy chooses in compiled code: when it would be asked, with what it would see.

One for the batch (`budgets.choosing`), one for each rollout (`budgets.following`), or two by priority (`budgets.sharing`).
"""

from simulator.budgets.choosing import BLOCK, NOTHING, choose
from simulator.budgets.following import follow, followed_of
from simulator.budgets.policy import BY_PRIORITY, FOR_EACH
from simulator.budgets.sharing import batch_of, share
from simulator.compiled import compiled
from simulator.engine.schedule import admit
from simulator.engine.state import (
    Core,
    chooser_of,
    drafts_of,
    follower_of,
    rollouts_of,
    sharer_of,
    slots_of,
    tables_of,
)


@compiled
def lacks_choice(core: Core) -> bool:
    """Choose budgets if it is time to; whether that takes somebody else: the policy, its random numbers, or more drafts.

    Those by priority are left to `gives_shares`, outside the innermost loop, which is as fast as it is small.
    """
    if not (core.due and core.on and core.asked):
        return False
    if core.plain:
        admit(core, core.max_num_batched_tokens)
    if core.live == 0:
        core.due = False
        return False
    if core.chooses in (0, BY_PRIORITY):
        return True
    if core.chooses == FOR_EACH:
        if not give_each(core):
            return True
    elif chooser_of(core).block != core.steps // BLOCK:
        return True
    else:
        give_chosen(core)
    core.due, core.stale, core.asked_at = False, True, core.steps
    return False


@compiled
def give_chosen(core: Core) -> None:
    """Give every live rollout what is chosen for the batch."""
    slots, rollouts = slots_of(core), rollouts_of(core)
    emitted = sequences = joined = 0
    for i in range(core.live):
        slot = slots[i]
        rollout = rollouts[slot.rollout]
        if rollout.noted == NOTHING:
            joined += 1
        elif slot.position > rollout.noted:
            sequences += 1
            emitted += slot.position - rollout.noted
        rollout.noted = slot.position
    budget = choose(chooser_of(core), core.live, emitted, sequences, joined, core.steps, core.now_s)
    shift = tables_of(core)[budget] * core.positions
    for i in range(core.live):
        slots[i].budget, slots[i].shift = budget, shift


@compiled
def give_each(core: Core) -> bool:
    """Give every live rollout what is chosen for it, wherever it was before; whether there are drafts of such budgets.

    Where there are not, doing it again gives the same.
    """
    slots, tables, follower = slots_of(core), tables_of(core), follower_of(core)
    followed, there, all_there = followed_of(follower), drafts_of(core).size, True
    for i in range(core.live):
        slot = slots[i]
        slot.budget = follow(follower, followed[slot.rollout], slot.position, slot.drafted)
        slot.shift = tables[slot.budget] * core.positions
        all_there &= 0 <= slot.shift < there
    return all_there


@compiled
def gives_shares(core: Core) -> bool:
    """Give every live rollout what is decided for it by its priority, where `lacks_choice` has left that.

    False where it has not, or where a decision or drafts are lacking; doing it again then gives the same.
    """
    if core.chooses != BY_PRIORITY:
        return False
    sharer, slots, tables = sharer_of(core), slots_of(core), tables_of(core)
    if not share(sharer, slots, core.live, core.steps):
        return False
    batch, there, all_there = batch_of(sharer), drafts_of(core).size, True
    for i in range(core.live):
        slot, budget = slots[i], batch[i].budget
        slot.budget, slot.shift = budget, tables[budget] * core.positions
        all_there &= 0 <= slot.shift < there
    if all_there:
        core.due, core.stale, core.asked_at = False, True, core.steps
    return all_there
