"""The inner loop: one replica decodes step after step until somebody else must know. See `fields` for the arrays.

Everything here is exact integer arithmetic but for the clock, which adds up step times in order.
"""

import numpy as np
from numba import njit

from simulator.budgets.view import BUDGET, DRAFTED, ORIGIN, POSITION, ROLLOUT, SINCE
from simulator.cost.kernel import features, outside, step_time
from simulator.drafting.live import enrol, hear, speak
from simulator.engine.blocks import BLOCK_SIZE, LOOKAHEAD, extend, release
from simulator.engine.blocks import FREE as FREE_BLOCKS
from simulator.engine.fields import (
    ADMITTED,
    ARRIVAL_S,
    ASK,
    ASKED,
    ASYNC,
    BASE,
    COMPUTED,
    DECODING,
    EMITTED,
    END,
    EXTRAPOLATED_S,
    FINISHED_S,
    FIRST_TOKEN_S,
    FREED,
    GHOSTS,
    HEAD,
    HELD,
    IDLE,
    KEYED,
    LIMIT,
    LINE,
    LIVE,
    LIVE_DRAFTS,
    LOG_FULL,
    LOGGED,
    NEXT_DUE,
    NOW_S,
    NUMBER,
    PAGED,
    PENDING,
    PLAIN,
    PREEMPTED,
    PROPOSED,
    R_POSITION,
    R_REPLICA,
    R_TURN,
    ROOM,
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
from simulator.engine.schedule import admit, expect, known_tokens, leave, publish_until, receive, schedule_running


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


@njit(cache=True)
def give_budgets(slots, state, rollouts, boundaries, budgets, table_of, positions):  # type: ignore[no-untyped-def]
    """Look every live rollout's budget up: by its row of the table, the stage it is in and how many are live."""
    live = min(state[LIVE], budgets.shape[2] - 1)
    for i in range(state[LIVE]):
        budget = budgets[rollouts[ROW, slots[ROLLOUT, i]], slots[STAGE, i], live]
        slots[BUDGET, i] = budget
        slots[SHIFT, i] = table_of[budget] * positions


@njit(cache=True)
def retire(  # type: ignore[no-untyped-def]
    slots, state, rollouts, clock, counts, times, pending, turn_ends, turn_waits, pool, ghosts, rules
):
    """Record the rollouts that completed, or a turn of theirs, and close the gaps, keeping the order; returns how many."""
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
    gone = state[LIVE] - kept
    state[LIVE] = kept
    return gone


@njit(cache=True)
def release_ghosts(state, pool, ghosts, rules):  # type: ignore[no-untyped-def]
    """Free what rollouts held that completed while the step was being scheduled; returns how many there were."""
    gone = state[GHOSTS]
    if rules[PAGED]:
        for ghost in range(gone):
            release(pool, ghosts[0, ghost], ghosts[1, ghost])
    state[GHOSTS] = 0
    return gone


@njit(cache=True, inline="always")
def record(  # type: ignore[no-untyped-def]
    log, state, clock, free_blocks, seconds, work, drafted, accepted, emitted, extrapolated, draft_s
):
    """Append a step to the log."""
    row = log[state[LOGGED]]
    state[LOGGED] += 1
    row[0], row[1], row[2], row[3], row[4], row[5] = clock[NOW_S], seconds, work[0], work[1], work[2], work[4]
    row[6], row[7], row[8], row[9], row[10] = drafted, accepted, emitted, extrapolated, draft_s
    row[11], row[12], row[13] = state[TAIL] - state[HEAD], state[PREEMPTED], work[6]
    row[14], row[15], row[16] = work[5], work[9], free_blocks
    row[17], row[18], row[19] = work[3], work[7], work[8]
    state[PREEMPTED] = 0


@njit(cache=True)
def rota(slots, live, pool):  # type: ignore[no-untyped-def]
    """Who needs a KV block in which of the next steps if everybody emits one token in each: int64[2, block size].

    Row 0 has how many do, row 1 the first slot; slots[NEXT_DUE] has the next one, -1 for none. After as many steps as a block
    has tokens, the same ones need one again.
    """
    block_size, ahead = pool[BLOCK_SIZE], pool[LOOKAHEAD]
    position, base, room, next_due = slots[POSITION], slots[BASE], slots[ROOM], slots[NEXT_DUE]
    when = np.zeros((2, block_size), np.int64)
    when[1] = -1
    for i in range(live - 1, -1, -1):
        step = (room[i] - ahead - position[i] + base[i] + 1) % block_size
        when[0, step] += 1
        next_due[i] = when[1, step]
        when[1, step] = i
    return when


@njit(cache=True)
def refill(slots, i, done, pool):  # type: ignore[no-untyped-def]
    """Give a block to slot i, and to those that need one in the same step; `done` steps were taken since positions moved."""
    while i >= 0:
        extend(pool, slots[LINE, i], slots[HELD, i], slots[HELD, i] + 1)
        slots[HELD, i] += 1
        slots[ROOM, i] += pool[BLOCK_SIZE]
        publish_until(i, known_tokens(i, slots) + done, slots, pool)
        i = slots[NEXT_DUE, i]


@njit(cache=True)
def coast(  # type: ignore[no-untyped-def]
    slots, state, clock, times, pending, pool, log, context, longest, meta, data, padding, overhead_s, asked, every,
    rules, until_s,
):  # fmt: skip
    """Decode on without drafts up to the step before something happens; returns how many steps that were.

    While nobody may draft every sequence emits one token a step, so a step costs no loop over the batch but when somebody
    needs a KV block. Prices, log rows and the clock are those of the loop in `advance`, bit for bit.
    """
    live, position, limit = state[LIVE], slots[POSITION], slots[LIMIT]
    steps = log.shape[0] - state[LOGGED]
    if asked and every > 0:
        steps = min(steps, every - (state[STEPS] - state[ASKED]))
    for i in range(live):
        steps = min(steps, limit[i] - position[i])
    next_s = until_s
    if state[PENDING] < pending.size:
        next_s = min(next_s, times[ARRIVAL_S, pending[state[PENDING]]])
    padded = padding[live] if live < padding.size else live
    paged = rules[PAGED]
    when = rota(slots, live, pool) if paged else np.empty((2, 1), np.int64)
    due_count, cycle = when[0], when.shape[1]
    done = 0
    while done < steps - 1 and clock[NOW_S] < next_s:
        if paged and done > 0:
            due = done % cycle
            if due_count[due] > pool[FREE_BLOCKS]:
                break
            if due_count[due] > 0:
                refill(slots, when[1, due], done, pool)
        work = features(live, live, context, context, 0, padded, 0, 0, 0, longest)
        seconds = step_time(meta, data, work) + overhead_s
        extrapolated = outside(meta, data, work)
        record(log, state, clock, pool[FREE_BLOCKS], seconds, work, 0, 0, live, extrapolated, 0.0)
        clock[VISIBLE_S] = clock[NOW_S]
        clock[NOW_S] += seconds
        if extrapolated:
            clock[EXTRAPOLATED_S] += seconds
        context += live
        longest += rules[UNEVEN]
        done += 1
    base, keyed = slots[BASE], slots[KEYED]
    for i in range(live if done > 0 else 0):
        position[i] += done
        # what the last step would have published
        if paged and position[i] - base[i] - 1 >= (keyed[i] + 1) * pool[BLOCK_SIZE]:
            publish_until(i, position[i] - base[i] - 1, slots, pool)
    state[STEPS] += done
    return done


@njit(cache=True)
def propose(slots, decoding, rollouts, pupils, groups, scratch, rules):  # type: ignore[no-untyped-def]
    """Draft for the sequences that decode, with what siblings have emitted so far."""
    for i in range(decoding):
        rollout, budget = slots[ROLLOUT, i], slots[BUDGET, i]
        emitted = slots[POSITION, i] - rollouts[START, rollout]
        slots[PROPOSED, i], slots[EMITTED, i] = speak(rollout, emitted, budget, pupils, groups, scratch, rules)


@njit(cache=True)
def decode_live(slots, state, rollouts, pupils, groups, rules, bounded):  # type: ignore[no-untyped-def]
    """Decode one step of the batch with the drafts proposed, of which a token limit may have cut some; then hear everybody.

    Does what `advance` does from tables, but for rollouts in their prefill, of which it only hears the token emitted.
    """
    drafted = emitted = draft_pairs = ended = longest = asking = 0
    for i in range(state[SCHEDULED]):
        drafts, right = slots[PROPOSED, i], slots[EMITTED, i]
        if bounded:
            drafts, right = min(drafts, slots[TAKE, i] - 1), min(right, slots[TAKE, i] - 1)
        draft_pairs += drafts * (slots[POSITION, i] - slots[ORIGIN, i])
        slots[DRAFTED, i] += drafts
        slots[EMITTED, i] = right + 1
        drafted += drafts
        emitted += right + 1
        longest = max(longest, drafts)
        asking += slots[BUDGET, i] > 0
    for i in range(state[LIVE]):
        rollout, prefilling = slots[ROLLOUT, i], i >= state[DECODING]
        start, p = rollouts[START, rollout], slots[POSITION, i]
        if prefilling:
            if slots[TAKE, i] < known_tokens(i, slots) - slots[COMPUTED, i]:
                continue
            if p == start:
                enrol(rollout, pupils, groups, rules)
            slots[EMITTED, i] = 1
        elif i >= state[SCHEDULED]:
            continue
        hear(rollout, p - start, min(slots[EMITTED, i], slots[STOP, i] - p), pupils, groups, rules)
        if not prefilling:
            slots[POSITION, i] += slots[EMITTED, i]
            ended += slots[POSITION, i] >= slots[LIMIT, i]
    return drafted, emitted, draft_pairs, ended, longest, asking


@njit(cache=True)
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
    context = drafting = reach = (
        0  # of the sequences that decode: prompt and emitted tokens, how many may draft, the longest
    )
    stale = True
    while True:
        if state[LOGGED] == log.shape[0]:
            return LOG_FULL
        if clock[NOW_S] >= until_s:
            return UNTIL
        state[ADMITTED] = gone = 0
        preempted = state[PREEMPTED]
        if plain:
            admit(slots, state, queue, rollouts, clock, counts, times, turn_ends, pool, rules, np.int64(1) << 62)
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
            chunk_kv += (
                before + chunk - (position[i] == origin[i])
            )  # a prompt of no tokens is one query token without KV
            chunk_pairs += chunk * before + chunk * (chunk + 1) // 2
            slots[COMPUTED, i] = before + chunk
            firsts += before + chunk == known
        query = scheduled + drafted + prefill
        padded = padding[query] if query < padding.size else query

        work = features(
            scheduled + chunks,
            query,
            kv + chunk_kv,
            pairs + chunk_pairs,
            prefill,
            padded,
            chunks,
            chunk_kv,
            chunk_pairs,
            reach,
        )
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
            retire(slots, state, rollouts, clock, counts, times, pending, turn_ends, turn_waits, pool, ghosts, rules)
            state[DECODING] -= done
            if wait_when_free and state[HEAD] == state[TAIL]:
                return FREED
        if asked and (done > 0 or churn or (every > 0 and state[STEPS] - state[ASKED] >= every)):
            return ASK
