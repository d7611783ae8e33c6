"""The inner loop: one replica decodes step after step until somebody else must know.

Everything here is exact integer arithmetic but for the clock, which adds up step times in order.
"""

import numpy as np

from simulator.compiled import compiled
from simulator.drafting.live import catch_up, learn, propose
from simulator.engine.blocks import release
from simulator.engine.choosing import lacks_choice
from simulator.engine.coasting import coast
from simulator.engine.pricing import book, price
from simulator.engine.schedule import admit, expect, known_tokens, leave, schedule
from simulator.engine.state import (
    AGAIN,
    ASK,
    FREED,
    GOING,
    IDLE,
    LOG_FULL,
    TOLD,
    Core,
    Rollout,
    Slot,
    Step,
    arrivals_of,
    boundaries_of,
    budgets_of,
    departures_of,
    drafts_of,
    log_of,
    padding_of,
    pool_of,
    rollouts_of,
    siblings_of,
    slots_of,
    tables_of,
    told_of,
    turns_of,
)
from simulator.engine.switching import switch_off, switch_on
from simulator.records import as_int


@compiled
def decode(core: Core, live: bool | None) -> int:
    """Decode until nothing is left, a slot is free for others to fill, the policy must be asked, `until_s`, or the log is full.

    live: None where drafts are read from tables, else they are made here, from what siblings have emitted. Where budgets are
    a policy's answers they stand in the slots, and the return comes when the batch changes, or `every` decode steps (0:
    never) after `asked_at`.
    """
    log = log_of(core)
    core.evicted = core.ahead = 0
    while True:
        if core.logged == log.size:
            return LOG_FULL
        if core.now_s >= core.until_s:
            return GOING
        if not core.on:
            switch_on(core)
        if core.due and lacks_choice(core):
            return ASK
        begin_step(core, live)
        if core.live == 0:
            reason = wait(core)
            if reason == AGAIN:
                continue
            return reason
        quiet = (
            core.drafting == 0
            and core.scheduled == core.live
            and core.released == 0
            and not core.changed
            and not trails(core)
        )
        if live is None and quiet and coast(core) > 0 and looks(core):
            continue

        step, core.ahead = log[core.logged], 0
        run_step(core, step, live)
        price(core, step)
        book(core, step)
        reason = end_step(core, step)
        if reason != GOING:
            return reason


@compiled
def begin_step(core: Core, live: bool | None) -> None:
    """Form the batch of a step, which may be of nobody."""
    core.completed = core.returned = 0
    preempted = core.preempted
    form_batch(core, live)
    if core.live == 0:
        return
    if core.stale:
        survey(core)
    core.stale = core.scheduled < core.decoding or core.preempted > preempted  # budgets follow how many are live
    core.changed = not core.plain and core.admitted + core.preempted > 0


@compiled
def run_step(core: Core, step: Step, live: bool | None) -> None:
    """Let everybody emit, and count the work."""
    if live is not None:
        verify_live(core, step)
    elif core.drafting > 0:
        verify(core, step)
    else:
        emit(core, step)
    prefill(core, step)


@compiled
def end_step(core: Core, step: Step) -> int:
    """Book what the step did to each, once the clock is at its end; returns why the replica stops, or GOING."""
    settle(core, step)
    if core.completed > 0:
        retire(core)
        if core.telling > 0:
            return TOLD
        if core.wait_when_free:
            return FREED
    if core.asked and core.on and (core.completed > 0 or core.changed or 0 < core.every <= core.steps - core.asked_at):
        core.due = True
    return GOING


@compiled
def form_batch(core: Core, live: bool | None) -> None:
    """Admit, give budgets, and decide who takes part in the step."""
    core.admitted = core.released = 0
    if core.plain:
        admit(core, core.max_num_batched_tokens)
        core.scheduled = core.decoding
        core.stale |= core.admitted > 0
    if core.stale and core.on and not core.asked:
        give_budgets(core)
    if live is not None:
        propose_live(core)
    if not core.plain:
        schedule(core, live)


@compiled
def wait(core: Core) -> int:
    """Nobody is live: go on to the next arrival, or say that there is none."""
    if looks_again(core):
        return AGAIN
    switch_off(core)
    arrivals = arrivals_of(core)
    if core.next_arrival == arrivals.size:
        return IDLE
    arrival_s = rollouts_of(core)[arrivals[core.next_arrival]].arrival_s
    if arrival_s >= core.until_s:
        return GOING
    core.now_s = core.visible_s = max(core.now_s, arrival_s)
    return AGAIN


@compiled
def looks_again(core: Core) -> bool:
    """Whether who has nobody live would schedule somebody if it looked again now."""
    if core.async_scheduling and (core.released > 0 or core.visible_s < core.now_s):
        core.visible_s = core.now_s
        return True
    return core.head < core.tail


@compiled
def looks(core: Core) -> bool:
    """Whether something may have changed before the next step is formed: what is scheduled, the clock's end, the switch."""
    return not core.plain or not core.on or core.now_s >= core.until_s


@compiled
def trails(core: Core) -> bool:
    """Whether budgets change with the next step, for those of this one went by more sequences or fewer."""
    return core.trailing and core.batch != core.live


@compiled
def give_budgets(core: Core) -> None:
    """Look every live rollout's budget up: by its row of the table, the stage it is in and how many are live."""
    slots, rollouts, budgets, tables = slots_of(core), rollouts_of(core), budgets_of(core), tables_of(core)
    column = min(core.batch if core.trailing and core.batch > 0 else core.live, core.widths - 1)
    for i in range(core.live):
        slot = slots[i]
        row = rollouts[slot.rollout].row * core.stages + slot.stage
        slot.budget = budgets[row * core.widths + column]
        slot.shift = tables[slot.budget] * core.positions


@compiled
def propose_live(core: Core) -> None:
    """Draft for the sequences that decode, with what siblings have emitted so far."""
    slots, rollouts, siblings = slots_of(core), rollouts_of(core), siblings_of(core)
    if siblings.everywhere:
        for i in range(core.decoding):
            catch_up(siblings, slots[i].rollout, slots[i].position - rollouts[slots[i].rollout].start)
    for i in range(core.decoding):
        slot = slots[i]
        emitted = slot.position - rollouts[slot.rollout].start
        slot.proposed, slot.right = propose(siblings, slot.rollout, emitted, slot.budget)


@compiled
def survey(core: Core) -> None:
    """Sum up the sequences that decode."""
    slots = slots_of(core)
    context = drafting = longest = 0
    for i in range(core.scheduled):
        slot = slots[i]
        context += slot.position - slot.origin
        drafting += slot.budget > 0
        longest = max(longest, slot.position - slot.origin)
    core.context_tokens, core.drafting = context, drafting
    core.longest_context = longest if core.uneven else 0


@compiled
def smaller(a: int, b: int) -> int:
    """Return min(a, b) without a branch: whether a draft exceeds its budget is a coin toss that costs 4 ns to miss."""
    return b + ((a - b) & ((a - b) >> 63))


@compiled
def larger(a: int, b: int) -> int:
    """Return max(a, b) without a branch."""
    return a - ((a - b) & ((a - b) >> 63))


@compiled
def verify(core: Core, step: Step) -> None:
    """Verify drafts from tables: every scheduled sequence emits what is accepted and one token more."""
    slots, tables, plain = slots_of(core), drafts_of(core), core.plain
    drafted = emitted = pairs = ended = longest = asking = 0
    for i in range(core.scheduled):
        slot = slots[i]
        position = slot.position
        draft = tables[(position + slot.shift) & core.places]
        most = slot.budget if plain else slot.take - 1
        drafts = smaller(as_int(draft.drafted), most)
        right = smaller(as_int(draft.accepted), most)
        pairs += drafts * (position - slot.origin)
        slot.drafted += drafts
        drafted += drafts
        longest = larger(longest, drafts)
        asking += slot.budget > 0
        emitted += right + 1
        slot.position = position + right + 1
        ended += slot.position >= slot.limit
    core.asking, core.longest_draft, core.ended = asking, longest, ended
    step.drafted_tokens, step.emitted_tokens, step.pairs = drafted, emitted, core.context_tokens + pairs


@compiled
def verify_live(core: Core, step: Step) -> None:
    """Verify the drafts proposed, of which a token limit may have cut some; then let siblings learn what everybody emits.

    Siblings everywhere learn it when the next step begins, for other replicas may begin one before this one ends.
    """
    slots, rollouts, siblings = slots_of(core), rollouts_of(core), siblings_of(core)
    drafted = emitted = pairs = ended = longest = asking = 0
    for i in range(core.scheduled):
        slot = slots[i]
        drafts = slot.proposed
        if not core.plain:
            drafts, slot.right = min(drafts, slot.take - 1), min(slot.right, slot.take - 1)
        pairs += drafts * (slot.position - slot.origin)
        slot.drafted += drafts
        drafted += drafts
        longest = max(longest, drafts)
        asking += slot.budget > 0
        if not siblings.everywhere:
            already = slot.position - rollouts[slot.rollout].start
            learn(siblings, slot.rollout, already, min(slot.right + 1, slot.stop - slot.position))
        emitted += slot.right + 1
        slot.position += slot.right + 1
        ended += slot.position >= slot.limit
    for i in range(core.decoding, core.live):
        slot = slots[i]
        if slot.take == known_tokens(slot) - slot.computed:  # its prefill is complete with this step, and emits a token
            already = slot.position - rollouts[slot.rollout].start
            catch_up(siblings, slot.rollout, already)
            if not siblings.everywhere:
                learn(siblings, slot.rollout, already, min(1, slot.stop - slot.position))
    core.asking, core.longest_draft, core.ended = asking, longest, ended
    step.drafted_tokens, step.emitted_tokens, step.pairs = drafted, emitted, core.context_tokens + pairs


@compiled
def emit(core: Core, step: Step) -> None:
    """Let every scheduled sequence emit one token."""
    slots = slots_of(core)
    ended = 0
    for i in range(core.scheduled):
        slot = slots[i]
        slot.position += 1
        ended += slot.position >= slot.limit
    core.asking, core.longest_draft, core.ended = 0, 0, ended
    step.drafted_tokens, step.emitted_tokens, step.pairs = 0, core.scheduled, core.context_tokens


@compiled
def prefill(core: Core, step: Step) -> None:
    """Compute the scheduled chunks of prompts, and count the work of the step in all."""
    slots, padding = slots_of(core), padding_of(core)
    tokens = chunks = kv = pairs = firsts = 0
    for i in range(core.decoding, core.live):
        slot = slots[i]
        chunk, before = slot.take, slot.computed
        if chunk == 0:
            continue
        chunks += 1
        tokens += chunk
        kv += before + chunk - (slot.position == slot.origin)  # a prompt of no tokens: one query token, no KV
        pairs += chunk * before + chunk * (chunk + 1) // 2
        slot.computed = before + chunk
        firsts += slot.computed == known_tokens(slot)
    core.first_tokens = firsts
    core.stale |= core.trailing and core.batch != core.scheduled + chunks
    core.batch = core.scheduled + chunks
    query = core.scheduled + as_int(step.drafted_tokens) + tokens
    step.live, step.query_tokens = core.scheduled + chunks, query
    step.padded_tokens = step.expert_tokens = padding[query] if query < padding.size else query
    step.kv_tokens, step.pairs = core.context_tokens + kv, step.pairs + pairs
    step.prefill_tokens, step.prefill_seqs, step.prefill_kv_tokens, step.prefill_pairs = tokens, chunks, kv, pairs
    step.longest_context = core.longest_context


@compiled
def settle(core: Core, step: Step) -> None:
    """After the step: first tokens of completed prefills, ends and turns, sequences that enter another stage."""
    core.context_tokens += as_int(step.emitted_tokens)
    if core.uneven:
        core.longest_context = longest_context(core)
    give_first_tokens(core)
    step.accepted_tokens = step.emitted_tokens - core.scheduled
    step.emitted_tokens += core.first_tokens
    core.completed = 0
    if core.ended > 0:
        reach_limits(core, step)


@compiled
def longest_context(core: Core) -> int:
    """The longest context of a sequence that was scheduled."""
    slots, longest = slots_of(core), 0
    for i in range(core.scheduled):
        longest = max(longest, slots[i].position - slots[i].origin)
    return longest


@compiled
def give_first_tokens(core: Core) -> None:
    """Let prefills that were completed emit; those who did nothing in the step do not count it as one of theirs."""
    slots, rollouts = slots_of(core), rollouts_of(core)
    for i in range(core.scheduled, core.live):
        slot = slots[i]
        if i < core.decoding or slot.take == 0 or slot.computed < known_tokens(slot):
            slot.since += 1
            continue
        if np.isnan(rollouts[slot.rollout].first_token_s):
            rollouts[slot.rollout].first_token_s = core.now_s
        slot.position += 1
        core.ended += 1
    core.stale |= core.decoding < core.live
    core.decoding += core.first_tokens


@compiled
def reach_limits(core: Core, step: Step) -> None:
    """Stop sequences at their ends and turns, drafts beyond those not counted, and let the others enter their next stage."""
    slots, rollouts = slots_of(core), rollouts_of(core)
    for i in range(core.decoding):
        slot = slots[i]
        if slot.position < slot.limit:
            continue
        core.stale = True
        if slot.position < slot.stop:
            enter_stage(core, slot, rollouts[slot.rollout])
            continue
        beyond = slot.position - slot.stop
        unused = max(beyond - 1, 0)
        step.emitted_tokens -= beyond
        step.accepted_tokens -= unused
        slot.position -= unused
        core.completed += 1


@compiled
def enter_stage(core: Core, slot: Slot, rollout: Rollout) -> None:
    """Put a slot into the stage that its emitted tokens say, and set the next position to look again."""
    boundaries, later = boundaries_of(core), core.stages - 1
    row, emitted = rollout.row * later, slot.position - rollout.start
    while slot.stage < later and boundaries[row + slot.stage] <= emitted:
        slot.stage += 1
    length = slot.stop - rollout.start
    if slot.stage < later:
        length = min(length, boundaries[row + slot.stage])
    slot.limit = rollout.start + length


@compiled
def retire(core: Core) -> None:
    """Book the rollouts that completed, or a turn or stay of theirs, and close the gaps, keeping the order."""
    slots, rollouts, turns, departures = slots_of(core), rollouts_of(core), turns_of(core), departures_of(core)
    kept = 0
    for i in range(core.live):
        slot = slots[i]
        if slot.position < slot.stop:
            if kept < i:
                slots[kept] = slot
            kept += 1
            continue
        rollout = rollouts[slot.rollout]
        leave(core, slot, rollout)
        if slot.stop == rollout.end:
            rollout.replica = core.number
            rollout.finished_s = core.now_s
            tell(core, slot.rollout)
        else:
            rollout.position = slot.stop
            if rollout.turn < rollout.turns_end and slot.stop == turns[rollout.turn].end:
                rollout.turn += 1
                if slot.stop == rollout.stay_end:
                    rollout.stay_end = rollout.end
                core.returned += turns[rollout.turn - 1].wait_s == 0.0
                expect(core, slot.rollout, core.now_s + turns[rollout.turn - 1].wait_s)
            else:
                tell(core, slot.rollout)
        if core.async_scheduling:
            departures[core.departed].line, departures[core.departed].held = slot.line, slot.held
            core.departed += 1
        elif core.paged:
            release(pool_of(core), slot.line, slot.held)
    core.live = kept
    core.decoding -= core.completed


@compiled
def tell(core: Core, number: int) -> None:
    """Note that a rollout ended, or a stay of its."""
    if core.watched:
        told_of(core)[core.telling] = number
        core.telling += 1
