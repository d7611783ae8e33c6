"""Who takes part in a decode step, as vLLM V1 schedules: running rollouts first, then the queue, preemption when KV runs out.

Each function decides and books; none looks at the clock but to note when.
"""

import numpy as np

from simulator.compiled import compiled
from simulator.engine.blocks import extend, found, publish, release, take_in
from simulator.engine.state import (
    NO_LIMIT,
    Core,
    Pool,
    Rollout,
    Slot,
    arrivals_of,
    departures_of,
    drafts_of,
    pool_of,
    queue_of,
    rollouts_of,
    slots_of,
    turns_of,
)
from simulator.records import as_int


@compiled
def schedule(core: Core, live: bool | None) -> None:
    """Decide who takes part in the next step; `live`: as in `kernel.decode`."""
    preempted = core.preempted
    receive(core)
    left = schedule_running(core, live)
    if core.preempted == preempted:
        admit(core, left)
    core.stale |= core.preempted > preempted or core.admitted > 0 or core.scheduled < core.decoding
    if core.async_scheduling:
        release_departed(core)


@compiled
def receive(core: Core) -> None:
    """Move the rollouts that have arrived into the queue; with async scheduling a step is scheduled when the last one begins."""
    rollouts, arrivals, queue = rollouts_of(core), arrivals_of(core), queue_of(core)
    now_s = core.visible_s if core.async_scheduling else core.now_s
    while core.next_arrival < arrivals.size and rollouts[arrivals[core.next_arrival]].arrival_s <= now_s:
        number = arrivals[core.next_arrival]
        core.next_arrival += 1
        queue[core.tail] = number
        core.tail += 1
        if np.isnan(rollouts[number].queued_s):
            rollouts[number].queued_s = now_s


@compiled
def expect(core: Core, number: int, arrival_s: float) -> None:
    """Let a rollout arrive (again) at `arrival_s`; `arrivals` stays sorted by time, then number."""
    rollouts, arrivals = rollouts_of(core), arrivals_of(core)
    rollouts[number].arrival_s = arrival_s
    core.next_arrival -= 1
    i = core.next_arrival
    while i + 1 < arrivals.size:
        other = arrivals[i + 1]
        other_s = rollouts[other].arrival_s
        if other_s > arrival_s or (other_s == arrival_s and other > number):
            break
        arrivals[i] = other
        i += 1
    arrivals[i] = number


@compiled
def known_tokens(slot: Slot) -> int:
    """Tokens whose KV must be there before the slot emits the next one."""
    return slot.position - slot.base


@compiled
def leave(core: Core, slot: Slot, rollout: Rollout) -> None:
    """Book what a slot did since it entered the batch.

    Each step that counts emitted a bonus token, but for a last one whose drafts completed the stay: `position` went one past.
    """
    steps = core.steps - slot.since
    rollout.accepted += slot.position - slot.entry - (steps - rollout.steps)
    rollout.steps = steps
    rollout.drafted = slot.drafted


@compiled
def put_back_last(core: Core) -> Rollout:
    """Send the rollout admitted last back to the head of the queue, without its KV; returns it."""
    last = core.live - 1
    slot = slots_of(core)[last]
    rollout = rollouts_of(core)[slot.rollout]
    leave(core, slot, rollout)
    rollout.position = slot.position
    if core.paged:
        release(pool_of(core), slot.line, slot.held)
    core.head -= 1
    queue_of(core)[core.head] = slot.rollout
    core.live = last
    core.decoding = min(core.decoding, last)
    return rollout


@compiled
def preempt_last(core: Core) -> None:
    """Preempt the rollout admitted last."""
    put_back_last(core).preempted += 1
    core.preempted += 1


@compiled
def hold(core: Core, pool: Pool, i: int, tokens: int) -> bool:
    """Give slot i blocks for `tokens` tokens, preempting from the end of the batch; False if it went itself."""
    slot, wanted = slots_of(core)[i], -(-tokens // pool.block_size)
    while not extend(pool, slot.line, slot.held, wanted):
        preempt_last(core)
        if core.live <= i:
            return False
    slot.held = wanted
    return True


@compiled
def publish_until(core: Core, pool: Pool, slot: Slot, tokens: int) -> None:
    """Let others find the slot's blocks that are full with `tokens` tokens."""
    if tokens >= (slot.keyed + 1) * pool.block_size:
        rollout = rollouts_of(core)[slot.rollout]
        full = min(tokens // pool.block_size, rollout.kept_blocks)
        if full > slot.keyed:
            publish(pool, rollout, slot.line, slot.keyed, full)
            slot.keyed = full


@compiled
def schedule_running(core: Core, live: bool | None) -> int:
    """Schedule the running rollouts in order; returns the tokens left for the queue."""
    left = core.max_num_batched_tokens
    slots, pool = slots_of(core), pool_of(core)
    core.scheduled = 0
    while core.scheduled < core.decoding and left > 0:
        slot = slots[core.scheduled]
        known = known_tokens(slot)
        wanted = 1 + wanted_drafts(core, slot, live)
        slot.take = min(wanted, core.max_model_len - known, left)
        if core.trees and slot.take < wanted:
            slot.take = 1
        if core.paged:
            needed = known - 1 + slot.take + pool.lookahead
            if needed > slot.held * pool.block_size and not hold(core, pool, core.scheduled, needed):
                return 0
            publish_until(core, pool, slot, known)
        left -= slot.take
        core.scheduled += 1
    for i in range(core.decoding, core.live):  # at most one: a chunk that is not the last one fills the step
        slot = slots[i]
        slot.take = min(known_tokens(slot) - slot.computed, left)
        if core.paged and slot.take > 0:
            after = slot.computed + slot.take
            if not hold(core, pool, i, after + pool.lookahead):
                return 0
            publish_until(core, pool, slot, after)
        left -= slot.take
    return left


@compiled
def wanted_drafts(core: Core, slot: Slot, live: bool | None) -> int:
    """Drafts that a decoding slot would have verified if there were tokens enough."""
    if slot.budget == 0:
        return 0
    drafted = slot.proposed
    if live is None:
        drafted = as_int(drafts_of(core)[(slot.position + slot.shift) & core.places].drafted)
    return min(slot.budget, drafted)


@compiled
def admit(core: Core, left: int) -> None:
    """Move rollouts from the head of the queue into free slots while `left` tokens, slots and KV suffice."""
    slots, rollouts, queue, pool = slots_of(core), rollouts_of(core), queue_of(core), pool_of(core)
    while core.live + core.departed < core.max_num_seqs and core.head < core.tail and left > 0:
        number, slot = queue[core.head], slots[core.live]
        rollout = rollouts[number]
        origin = rollout.start - rollout.prompt_tokens
        base = origin - (rollout.prompt_tokens == 0)
        known, computed, hits = rollout.position - base, 0, 0
        if core.paged:
            hits, free_hits = found(pool, rollout, known)
            computed = hits * pool.block_size
        if rollout.pulled > 0 and (rollout.kept_blocks == NO_LIMIT or hits >= most_hits(core, rollout, known)):
            computed = max(computed, known - rollout.pulled)
        take = min(known - computed, left)
        if take < known - computed and not core.enable_chunked_prefill:
            break
        if core.paged:
            blocks = -(-(computed + take) // pool.block_size)
            needed = -(-known // pool.block_size) if pool.whole else blocks
            if needed - hits + free_hits > pool.free:
                break
            slot.line, slot.held, slot.keyed = take_in(pool, rollout, hits, blocks), blocks, hits
        core.head += 1
        core.live += 1
        core.admitted += 1
        left -= take
        slot.rollout, slot.origin, slot.base, slot.take, slot.computed = number, origin, base, take, computed
        enter(core, slot, rollout)
        rollout.cached += hits * pool.block_size
        rollout.pulled = 0
        if core.paged:
            publish_until(core, pool, slot, computed + take)


@compiled
def most_hits(core: Core, rollout: Rollout, known: int) -> int:
    """Leading blocks that a rollout finds of what was computed before, if none was needed elsewhere."""
    if not core.paged:
        return 0
    return min((known - rollout.pulled) // pool_of(core).block_size, rollout.kept_blocks)


@compiled
def enter(core: Core, slot: Slot, rollout: Rollout) -> None:
    """Begin a rollout's stay in a slot where it left off."""
    slot.position = slot.limit = slot.entry = rollout.position
    slot.budget = slot.shift = slot.stage = 0
    slot.drafted = rollout.drafted
    slot.since = core.steps - rollout.steps
    end = turns_of(core)[rollout.turn].end if rollout.turn < rollout.turns_end else rollout.end
    slot.stop = min(end, rollout.stay_end)
    if rollout.position > rollout.start or not np.isnan(rollout.admitted_s):
        rollout.recomputed += known_tokens(slot) - slot.computed
    if np.isnan(rollout.admitted_s):
        rollout.admitted_s = max(core.now_s, core.resume_s)


@compiled
def release_departed(core: Core) -> None:
    """Free what rollouts held that completed while the step was being scheduled."""
    core.released = core.departed
    if core.paged:
        pool, departures = pool_of(core), departures_of(core)
        for i in range(core.departed):
            release(pool, departures[i].line, departures[i].held)
    core.departed = 0
