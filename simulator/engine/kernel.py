"""The inner loop: one replica decodes step after step until somebody else must know. See `fields` for the arrays.

Everything here is exact integer arithmetic but for the clock, which adds up step times in order.
"""

import numpy as np

from simulator.budgets.view import BUDGET, DRAFTED, ORIGIN, POSITION, ROLLOUT, SINCE
from simulator.compiled import compiled
from simulator.cost.kernel import features, outside, step_time
from simulator.engine.blocks import FREE as FREE_BLOCKS
from simulator.engine.blocks import release
from simulator.engine.coasting import coast, record
from simulator.engine.fields import (
    ADMITTED,
    ARRIVAL_S,
    ASK,
    ASKED,
    ASYNC,
    COMPUTED,
    DECODING,
    END,
    EXTRAPOLATED_S,
    FINISHED_S,
    FIRST_TOKEN_S,
    FREED,
    GHOSTS,
    HEAD,
    HELD,
    IDLE,
    LIMIT,
    LINE,
    LIVE,
    LIVE_DRAFTS,
    LOG_FULL,
    LOGGED,
    NOW_S,
    NUMBER,
    PAGED,
    PENDING,
    PLAIN,
    PREEMPTED,
    R_POSITION,
    R_REPLICA,
    R_TURN,
    ROW,
    SCHEDULED,
    SHIFT,
    SLOT_FIELDS,
    STAGE,
    START,
    STEPS,
    STOP,
    TAIL,
    TAKE,
    UNEVEN,
    UNTIL,
    VISIBLE_S,
)
from simulator.engine.hearing import decode_live, propose
from simulator.engine.schedule import admit, expect, known_tokens, leave, receive, schedule_running
from simulator.engine.serving import NO_LIMIT


@compiled
def smaller(a, b):  # type: ignore[no-untyped-def]
    """Return min(a, b) without a branch: whether a draft exceeds its budget is a coin toss that costs 4 ns to miss."""
    return b + ((a - b) & ((a - b) >> 63))


@compiled
def larger(a, b):  # type: ignore[no-untyped-def]
    """Return max(a, b) without a branch."""
    return a - ((a - b) & ((a - b) >> 63))


@compiled
def draft_time(cost, asking, longest, drafted, emitted, kv, step_s):  # type: ignore[no-untyped-def]
    """Return the seconds that drafting adds to a decode step; `cost` is `drafting.drafter.DraftCost.packed`."""
    if asking == 0:
        return 0.0
    return (
        cost[0] + cost[1] * asking + (cost[2] + cost[3] * kv) * longest + cost[4] * drafted + cost[5] * emitted
        + cost[6] * step_s
    )  # fmt: skip


@compiled
def enter_stage(i, slots, rollouts, boundaries):  # type: ignore[no-untyped-def]
    """Put slot i into the stage that its emitted tokens say, and set the next position to look again."""
    rollout = slots[ROLLOUT, i]
    row, start = rollouts[ROW, rollout], rollouts[START, rollout]
    emitted, stage = slots[POSITION, i] - start, slots[STAGE, i]
    while stage < boundaries.shape[1] and boundaries[row, stage] <= emitted:
        stage += 1
    slots[STAGE, i] = stage
    limit = slots[STOP, i]
    if stage < boundaries.shape[1] and boundaries[row, stage] < limit - start:
        limit = start + boundaries[row, stage]
    slots[LIMIT, i] = limit


@compiled
def give_budgets(slots, state, rollouts, boundaries, budgets, table_of, positions):  # type: ignore[no-untyped-def]
    """Look every live rollout's budget up: by its row of the table, the stage it is in and how many are live."""
    live = min(state[LIVE], budgets.shape[2] - 1)
    for i in range(state[LIVE]):
        budget = budgets[rollouts[ROW, slots[ROLLOUT, i]], slots[STAGE, i], live]
        slots[BUDGET, i] = budget
        slots[SHIFT, i] = table_of[budget] * positions


@compiled
def retire(  # type: ignore[no-untyped-def]
    slots, state, rollouts, clock, counts, times, pending, turn_waits, pool, ghosts, rules
):
    """Record the rollouts that completed, or a turn of theirs, and close the gaps, keeping the order."""
    kept = 0
    fields = COMPUTED if rules[PLAIN] else SLOT_FIELDS
    for i in range(state[LIVE]):
        rollout = slots[ROLLOUT, i]
        if slots[POSITION, i] < slots[STOP, i]:
            if kept < i:
                for field in range(fields):
                    slots[field, kept] = slots[field, i]
            kept += 1
            continue
        leave(i, slots, state, counts)
        stop = slots[STOP, i]
        if stop == rollouts[END, rollout]:
            counts[R_REPLICA, rollout] = state[NUMBER]
            times[FINISHED_S, rollout] = clock[NOW_S]
        else:
            turn = counts[R_TURN, rollout]
            counts[R_POSITION, rollout] = stop
            counts[R_TURN, rollout] = turn + 1
            expect(state, pending, times, rollout, clock[NOW_S] + turn_waits[turn])
        if rules[ASYNC]:
            ghosts[0, state[GHOSTS]] = slots[LINE, i]
            ghosts[1, state[GHOSTS]] = slots[HELD, i]
            state[GHOSTS] += 1
        elif rules[PAGED]:
            release(pool, slots[LINE, i], slots[HELD, i])
    state[LIVE] = kept


@compiled
def release_ghosts(state, pool, ghosts, rules):  # type: ignore[no-untyped-def]
    """Free what rollouts held that completed while the step was being scheduled; returns how many there were."""
    gone = state[GHOSTS]
    if rules[PAGED]:
        for ghost in range(gone):
            release(pool, ghosts[0, ghost], ghosts[1, ghost])
    state[GHOSTS] = 0
    return gone


@compiled
def advance(  # type: ignore[no-untyped-def]
    slots, state, queue, pending, rollouts, clock, counts, times, turn_ends, turn_waits, pool, ghosts, rules, padding, overhead_s,
    tables, table_of, boundaries, budgets, meta, data, draft_cost, log, wait_when_free, until_s, asked, every, pupils, groups,
    scratch, draft_rules,
):  # fmt: skip
    """Decode until nothing is left, a slot is free for others to fill, the policy must be asked, `until_s`, or the log is full.

    tables: uint8[t, positions, 2]; boundaries, budgets: the budget table, not read when `asked`; then budgets are those in
    the slots, and the return comes when the batch changes, or `every` decode steps (0: never) after state[ASKED].
    pupils, groups, scratch, draft_rules: what `drafting.live.Desk` holds, to draft in this loop and leave the tables unread.
    """
    position, limit, budget, take = slots[POSITION], slots[LIMIT], slots[BUDGET], slots[TAKE]
    shift, origin, slot_drafted = slots[SHIFT], slots[ORIGIN], slots[DRAFTED]
    positions = tables.shape[1]
    flat = tables.reshape(-1, 2)
    plain, live_drafts = rules[PLAIN], rules[LIVE_DRAFTS]
    cap, bonus = (budget, 0) if plain else (take, 1)
    # of the sequences that decode: prompt and emitted tokens, how many may draft, the longest
    context = drafting = reach = 0
    stale = True
    while True:
        if state[LOGGED] == log.shape[0]:
            return LOG_FULL
        if clock[NOW_S] >= until_s:
            return UNTIL
        state[ADMITTED] = gone = 0
        preempted = state[PREEMPTED]
        if plain:
            admit(slots, state, queue, rollouts, clock, counts, times, turn_ends, pool, rules, NO_LIMIT)
            state[SCHEDULED] = state[DECODING]
            stale |= state[ADMITTED] > 0
        if stale and not asked:
            give_budgets(slots, state, rollouts, boundaries, budgets, table_of, positions)
        if live_drafts:
            propose(slots, state[DECODING], rollouts, pupils, groups, scratch, draft_rules)
        if not plain:
            visible_s = clock[VISIBLE_S] if rules[ASYNC] else clock[NOW_S]
            receive(state, queue, pending, times, visible_s)
            left = schedule_running(slots, state, queue, rollouts, counts, flat, pool, rules)
            if state[PREEMPTED] == preempted:
                admit(slots, state, queue, rollouts, clock, counts, times, turn_ends, pool, rules, left)
            stale |= state[PREEMPTED] > preempted or state[ADMITTED] > 0 or state[SCHEDULED] < state[DECODING]
            if rules[ASYNC]:
                gone = release_ghosts(state, pool, ghosts, rules)
                if state[LIVE] == 0 and (gone > 0 or visible_s < clock[NOW_S]):
                    clock[VISIBLE_S] = clock[NOW_S]
                    continue
            if state[LIVE] == 0 and state[HEAD] == state[TAIL] and state[PENDING] < pending.size:
                arrival_s = times[ARRIVAL_S, pending[state[PENDING]]]
                if arrival_s >= until_s:
                    return UNTIL
                clock[NOW_S] = max(clock[NOW_S], arrival_s)
                clock[VISIBLE_S] = clock[NOW_S]
                continue
        live, decoding, scheduled = state[LIVE], state[DECODING], state[SCHEDULED]
        if live == 0:
            if state[HEAD] < state[TAIL]:
                continue
            return IDLE
        if stale:
            context = drafting = reach = 0
            for i in range(scheduled):
                context += position[i] - origin[i]
                drafting += budget[i] > 0
                if rules[UNEVEN]:
                    reach = max(reach, position[i] - origin[i])
        stale = scheduled < decoding or state[PREEMPTED] > preempted  # budgets follow how many are live
        churn = not plain and (state[ADMITTED] + state[PREEMPTED] > 0)
        if drafting == 0 and scheduled == live and gone == 0 and not churn and not live_drafts:
            done = coast(
                slots, state, clock, times, pending, pool, log, context, reach, meta, data, padding, overhead_s, asked, every,
                rules, until_s,
            )  # fmt: skip
            context += done * live
            reach += done * rules[UNEVEN]
            if done > 0 and not plain:
                continue  # what would be scheduled next may have changed

        drafted = emitted = draft_pairs = ended = longest = asking = upcoming = 0
        if live_drafts:
            drafted, emitted, draft_pairs, ended, longest, asking = decode_live(
                slots, state, rollouts, pupils, groups, draft_rules, not plain
            )
        if drafting == 0 and not live_drafts:
            emitted = scheduled
            for i in range(scheduled):
                position[i] += 1
                ended += position[i] >= limit[i]
        for i in range(scheduled if drafting > 0 and not live_drafts else 0):
            p = position[i]
            at = p + shift[i]
            most = cap[i] - bonus
            right, drafts = smaller(np.int64(flat[at, 0]), most), smaller(np.int64(flat[at, 1]), most)
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
        for i in range(scheduled if rules[UNEVEN] else 0):
            upcoming = max(upcoming, position[i] - origin[i])
        accepted = emitted - scheduled
        kv, pairs, prefill, chunks, chunk_kv, chunk_pairs, firsts = context, context + draft_pairs, 0, 0, 0, 0, 0
        for i in range(decoding, live):
            chunk = take[i]
            if chunk == 0:
                continue
            before, known = slots[COMPUTED, i], known_tokens(i, slots)
            chunks += 1
            prefill += chunk
            chunk_kv += before + chunk - (position[i] == origin[i])  # a prompt of no tokens: one query token, no KV
            chunk_pairs += chunk * before + chunk * (chunk + 1) // 2
            slots[COMPUTED, i] = before + chunk
            firsts += before + chunk == known
        query = scheduled + drafted + prefill
        padded = padding[query] if query < padding.size else query

        work = features(
            scheduled + chunks, query, kv + chunk_kv, pairs + chunk_pairs, prefill, padded, chunks, chunk_kv, chunk_pairs, reach,
        )  # fmt: skip
        seconds = step_time(meta, data, work)
        extrapolated = outside(meta, data, work)
        draft_s = draft_time(draft_cost, asking, longest, drafted, emitted, context, seconds)
        seconds += draft_s + overhead_s
        row = state[LOGGED]
        record(log, state, clock, pool[FREE_BLOCKS], seconds, work, drafted, accepted, 0, extrapolated, draft_s)
        clock[VISIBLE_S] = clock[NOW_S]
        clock[NOW_S] += seconds
        if extrapolated:
            clock[EXTRAPOLATED_S] += seconds
        state[STEPS] += 1
        state[DECODING] = decoding + firsts
        context += emitted
        reach = upcoming
        for i in range(scheduled, decoding):
            slots[SINCE, i] += 1
        if decoding < live:
            stale = True
            for i in range(decoding, live):
                if take[i] == 0 or slots[COMPUTED, i] < known_tokens(i, slots):
                    slots[SINCE, i] += 1
                    continue
                if np.isnan(times[FIRST_TOKEN_S, slots[ROLLOUT, i]]):
                    times[FIRST_TOKEN_S, slots[ROLLOUT, i]] = clock[NOW_S]
                position[i] += 1
                ended += 1
        beyond = done = 0
        if ended > 0:
            for i in range(state[DECODING]):
                if position[i] >= limit[i]:
                    over = position[i] - slots[STOP, i]
                    if over >= 0:
                        beyond += over
                        position[i] -= max(over - 1, 0)
                        accepted -= max(over - 1, 0)
                        done += 1
                    else:
                        enter_stage(i, slots, rollouts, boundaries)
                    stale = True
        log[row, 7] = accepted
        log[row, 8] = emitted + firsts - beyond
        if done > 0:
            retire(slots, state, rollouts, clock, counts, times, pending, turn_waits, pool, ghosts, rules)
            state[DECODING] -= done
            if wait_when_free and state[HEAD] == state[TAIL]:
                return FREED
        if asked and (done > 0 or churn or (every > 0 and state[STEPS] - state[ASKED] >= every)):
            return ASK
