"""The inner loop: one replica decodes step after step until somebody else must know. See `replica` for the arrays.

Rollouts and slots are rows of numbers in flat arrays, because a compiled loop over plain arrays decodes a sequence in a
few nanoseconds. Everything here is exact integer arithmetic but for the clock, which adds up step times in order.
"""

import numpy as np
from numba import njit

from simulator.budgets.view import BUDGET, DRAFTED, ORIGIN, POSITION, ROLLOUT, SEEN_FIELDS, SINCE
from simulator.cost.kernel import outside, step_time
from simulator.drafting.live import enrol, hear, speak

# rows of `rollouts` (what is given): first position, end, prompt tokens, row of the budget table
START, END, PROMPT, ROW = range(4)
# rows of `counts` (what becomes of a rollout)
R_STEPS, R_DRAFTED, R_ACCEPTED, R_REPLICA = range(4)
# rows of `times`
ADMITTED_S, FINISHED_S = range(2)
# further rows of `slots`, the live rollouts: the next position at which anything but emitting happens, which a policy must
# not see; where the table of the current budget begins; the stage in the policy's table; tokens emitted in this step
LIMIT, SHIFT, STAGE, EMITTED = range(SEEN_FIELDS, SEEN_FIELDS + 4)
SLOT_FIELDS = SEEN_FIELDS + 4
# fields of `state`
LIVE, DECODING, HEAD, TAIL, STEPS, LOGGED, NUMBER, ASKED = range(8)
STATE_FIELDS = 8
# fields of `clock`
NOW_S, EXTRAPOLATED_S = range(2)
# columns of `log`, one row per decode step
LOG_COLUMNS = (
    "start_s", "duration_s", "live", "query_tokens", "kv_tokens", "prefill_tokens",
    "drafted_tokens", "accepted_tokens", "emitted_tokens", "extrapolated", "draft_s",
)  # fmt: skip
# why `advance` returned
IDLE, FREED, ASK, LOG_FULL = range(4)


@njit(cache=True)
def smaller(a, b):  # type: ignore[no-untyped-def]
    """Return min(a, b) without a branch: whether a draft exceeds its budget is a coin toss that costs 4 ns to miss."""
    return b + ((a - b) & ((a - b) >> 63))


@njit(cache=True)
def larger(a, b):  # type: ignore[no-untyped-def]
    """Return max(a, b) without a branch."""
    return a - ((a - b) & ((a - b) >> 63))


@njit(cache=True)
def draft_time(cost, asking, longest, drafted, emitted, kv, step_s):  # type: ignore[no-untyped-def]
    """Return the seconds that drafting adds to a decode step; `cost` is `drafting.drafter.DraftCost.packed`."""
    if asking == 0:
        return 0.0
    return (
        cost[0] + cost[1] * asking + (cost[2] + cost[3] * kv) * longest + cost[4] * drafted + cost[5] * emitted
        + cost[6] * step_s
    )  # fmt: skip


@njit(cache=True)
def admit(slots, state, queue, rollouts, clock, times, max_num_seqs):  # type: ignore[no-untyped-def]
    """Move rollouts from the head of the queue into free slots; they decode from the next step on."""
    live = state[LIVE]
    while live < max_num_seqs and state[HEAD] < state[TAIL]:
        rollout = queue[state[HEAD]]
        state[HEAD] += 1
        start = rollouts[START, rollout]
        slots[ROLLOUT, live] = rollout
        slots[POSITION, live] = start
        slots[LIMIT, live] = start
        slots[BUDGET, live] = 0
        slots[SHIFT, live] = 0
        slots[ORIGIN, live] = start - rollouts[PROMPT, rollout]
        slots[DRAFTED, live] = 0
        slots[SINCE, live] = state[STEPS]
        slots[STAGE, live] = 0
        times[ADMITTED_S, rollout] = clock[NOW_S]
        live += 1
    state[LIVE] = live


@njit(cache=True)
def enter_stage(i, slots, rollouts, boundaries):  # type: ignore[no-untyped-def]
    """Put slot i into the stage that its emitted tokens say, and set the next position to look again."""
    rollout = slots[ROLLOUT, i]
    row, start = rollouts[ROW, rollout], rollouts[START, rollout]
    emitted, stage = slots[POSITION, i] - start, slots[STAGE, i]
    while stage < boundaries.shape[1] and boundaries[row, stage] <= emitted:
        stage += 1
    slots[STAGE, i] = stage
    limit = rollouts[END, rollout]
    if stage < boundaries.shape[1] and boundaries[row, stage] < limit - start:
        limit = start + boundaries[row, stage]
    slots[LIMIT, i] = limit


@njit(cache=True)
def give_budgets(slots, state, rollouts, boundaries, budgets, table_of, positions):  # type: ignore[no-untyped-def]
    """Look every live rollout's budget up: by its row of the table, the stage it is in and how many are live."""
    live = min(state[LIVE], budgets.shape[2] - 1)
    for i in range(state[LIVE]):
        budget = budgets[rollouts[ROW, slots[ROLLOUT, i]], slots[STAGE, i], live]
        slots[BUDGET, i] = budget
        slots[SHIFT, i] = table_of[budget] * positions


@njit(cache=True)
def retire(slots, state, rollouts, clock, counts, times):  # type: ignore[no-untyped-def]
    """Record the completed rollouts and close the gaps, keeping the order; returns how many there were."""
    kept = 0
    for i in range(state[LIVE]):
        rollout = slots[ROLLOUT, i]
        end = rollouts[END, rollout]
        if slots[POSITION, i] < end:
            if kept < i:
                for field in range(SLOT_FIELDS):
                    slots[field, kept] = slots[field, i]
            kept += 1
            continue
        steps = state[STEPS] - slots[SINCE, i]
        # each step emits a bonus token, but for a last one whose drafts completed the rollout: POSITION went one past
        counts[R_STEPS, rollout] = steps
        counts[R_ACCEPTED, rollout] = slots[POSITION, i] - rollouts[START, rollout] - steps
        counts[R_DRAFTED, rollout] = slots[DRAFTED, i]
        counts[R_REPLICA, rollout] = state[NUMBER]
        times[FINISHED_S, rollout] = clock[NOW_S]
    gone = state[LIVE] - kept
    state[LIVE] = kept
    return gone


@njit(cache=True)
def coast(slots, state, clock, log, context, meta, data, asked, every):  # type: ignore[no-untyped-def]
    """Decode on without drafts up to the step before something happens; returns the context tokens then.

    While nobody may draft every sequence emits one token a step, so a step costs no loop over the batch. Prices, log rows
    and the clock are those of the loop in `advance`, bit for bit.
    """
    live, position, limit = state[LIVE], slots[POSITION], slots[LIMIT]
    steps = log.shape[0] - state[LOGGED]
    if asked and every > 0:
        steps = min(steps, every - (state[STEPS] - state[ASKED]))
    for i in range(live):
        steps = min(steps, limit[i] - position[i])
    for _ in range(steps - 1):
        seconds = step_time(meta, data, live, live, context, context, 0)
        extrapolated = outside(meta, data, live, live, context, context, 0)
        row = log[state[LOGGED]]
        state[LOGGED] += 1
        row[0], row[1], row[2], row[3], row[4], row[5] = clock[NOW_S], seconds, live, live, context, 0
        row[6], row[7], row[8], row[9], row[10] = 0, 0, live, extrapolated, 0
        clock[NOW_S] += seconds
        if extrapolated:
            clock[EXTRAPOLATED_S] += seconds
        context += live
    if steps > 1:
        state[STEPS] += steps - 1
        for i in range(live):
            position[i] += steps - 1
    return context


@njit(cache=True)
def decode_live(slots, decoding, live, rollouts, pupils, groups, scratch, rules):  # type: ignore[no-untyped-def]
    """Decode one step of the batch with drafts that siblings' tokens so far inform; all draft before any is heard.

    Does what `advance` does from tables, but for rollouts in their prefill, of which it only hears the first token.
    """
    drafted = emitted = draft_pairs = ended = longest = asking = 0
    for i in range(decoding):
        rollout, p = slots[ROLLOUT, i], slots[POSITION, i]
        drafts, right = speak(rollout, p - rollouts[START, rollout], slots[BUDGET, i], pupils, groups, scratch, rules)
        draft_pairs += drafts * (p - slots[ORIGIN, i])
        slots[DRAFTED, i] += drafts
        slots[EMITTED, i] = right + 1
        drafted += drafts
        emitted += right + 1
        longest = max(longest, drafts)
        asking += slots[BUDGET, i] > 0
    for i in range(live):
        rollout = slots[ROLLOUT, i]
        if i >= decoding:
            enrol(rollout, pupils, groups, rules)
            slots[EMITTED, i] = 1
        hear(rollout, slots[POSITION, i] - rollouts[START, rollout], slots[EMITTED, i], pupils, groups, rules)
        if i < decoding:
            slots[POSITION, i] += slots[EMITTED, i]
            ended += slots[POSITION, i] >= slots[LIMIT, i]
    return drafted, emitted, draft_pairs, ended, longest, asking


@njit(cache=True)
def advance(  # type: ignore[no-untyped-def]
    slots, state, queue, rollouts, clock, counts, times, tables, table_of, boundaries, budgets, meta, data, draft_cost, log,
    max_num_seqs, wait_when_free, asked, every, live_drafts, pupils, groups, scratch, rules,
):  # fmt: skip
    """Decode until the batch is empty, a slot is free for others to fill, the policy must be asked, or the log is full.

    tables: uint8[t, positions, 2]; boundaries, budgets: the budget table, not read when `asked`; then budgets are those in
    the slots, and the return comes when a rollout completes, or `every` decode steps (0: never) after state[ASKED].
    live_drafts: draft in this loop, with what `drafting.live.Desk` holds, and leave the tables unread.
    """
    position, limit, budget = slots[POSITION], slots[LIMIT], slots[BUDGET]
    shift, origin, slot_drafted = slots[SHIFT], slots[ORIGIN], slots[DRAFTED]
    positions = tables.shape[1]
    flat = tables.reshape(-1, 2)
    context = drafting = 0  # prompt and emitted tokens of the sequences that decode; how many of them may draft
    for i in range(state[DECODING]):
        context += position[i] - origin[i]
    stale = True
    while True:
        if state[LOGGED] == log.shape[0]:
            return LOG_FULL
        admit(slots, state, queue, rollouts, clock, times, max_num_seqs)
        live, decoding = state[LIVE], state[DECODING]
        if live == 0:
            return IDLE
        if not asked and (stale or decoding < live):
            give_budgets(slots, state, rollouts, boundaries, budgets, table_of, positions)
        if stale or decoding < live:
            drafting = 0
            for i in range(decoding):
                drafting += budget[i] > 0
        stale = False
        if drafting == 0 and decoding == live and not live_drafts:
            context = coast(slots, state, clock, log, context, meta, data, asked, every)

        drafted = emitted = draft_pairs = ended = longest = asking = 0
        if live_drafts:
            drafted, emitted, draft_pairs, ended, longest, asking = decode_live(
                slots, decoding, live, rollouts, pupils, groups, scratch, rules
            )
        for i in range(0 if live_drafts else decoding):
            p = position[i]
            at = p + shift[i]
            right, drafts = smaller(np.int64(flat[at, 0]), budget[i]), smaller(np.int64(flat[at, 1]), budget[i])
            draft_pairs += drafts * (p - origin[i])
            slot_drafted[i] += drafts
            drafted += drafts
            longest = larger(longest, drafts)
            asking += budget[i] > 0
            p += right + 1
            emitted += right + 1
            position[i] = p
            if p >= limit[i]:
                ended += 1
        accepted = emitted - decoding
        kv, pairs, prefill = context, context + draft_pairs, 0
        for i in range(decoding, live):
            prompt = position[i] - origin[i]
            query = max(prompt, 1)
            kv += prompt
            pairs += query * (query + 1) // 2
            prefill += query
            position[i] += 1
            ended += 1
        query = decoding + drafted + prefill

        seconds = step_time(meta, data, live, query, kv, pairs, prefill)
        extrapolated = outside(meta, data, live, query, kv, pairs, prefill)
        draft_s = draft_time(draft_cost, asking, longest, drafted, emitted, context, seconds)
        seconds += draft_s
        row = log[state[LOGGED]]
        state[LOGGED] += 1
        row[0], row[1], row[2], row[3], row[4], row[5] = clock[NOW_S], seconds, live, query, kv, prefill
        row[6], row[7], row[9], row[10] = drafted, accepted, extrapolated, draft_s
        clock[NOW_S] += seconds
        if extrapolated:
            clock[EXTRAPOLATED_S] += seconds
        state[STEPS] += 1
        state[DECODING] = live
        context = kv + emitted + live - decoding
        beyond = done = 0
        if ended > 0:
            for i in range(live):
                if position[i] >= limit[i]:
                    rollout = slots[ROLLOUT, i]
                    over = position[i] - rollouts[END, rollout]
                    if over >= 0:
                        beyond += over
                        done += 1
                        context -= position[i] - origin[i]
                    else:
                        enter_stage(i, slots, rollouts, boundaries)
                        stale = True
        row[8] = emitted + live - decoding - beyond
        if done > 0:
            retire(slots, state, rollouts, clock, counts, times)
            state[DECODING] = state[LIVE]
            stale = True
            if wait_when_free and state[HEAD] == state[TAIL]:
                return FREED
        if asked and (done > 0 or (every > 0 and state[STEPS] - state[ASKED] >= every)):
            return ASK
