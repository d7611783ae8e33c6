"""Decode steps in which nobody drafts and nothing happens: a loop over steps, not over sequences."""

import numpy as np

from simulator.budgets.view import POSITION
from simulator.compiled import compiled
from simulator.cost.kernel import features, outside, step_time
from simulator.engine.blocks import BLOCK_SIZE, LOOKAHEAD, extend
from simulator.engine.blocks import FREE as FREE_BLOCKS
from simulator.engine.fields import (
    ARRIVAL_S,
    ASKED,
    BASE,
    EXTRAPOLATED_S,
    HEAD,
    HELD,
    KEYED,
    LIMIT,
    LINE,
    LIVE,
    LOGGED,
    NEXT_DUE,
    NOW_S,
    PAGED,
    PENDING,
    PREEMPTED,
    ROOM,
    STEPS,
    TAIL,
    UNEVEN,
    VISIBLE_S,
)
from simulator.engine.schedule import known_tokens, publish_until


@compiled
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


@compiled
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


@compiled
def refill(slots, i, done, pool):  # type: ignore[no-untyped-def]
    """Give a block to slot i, and to those that need one in the same step; `done` steps were taken since positions moved."""
    while i >= 0:
        extend(pool, slots[LINE, i], slots[HELD, i], slots[HELD, i] + 1)
        slots[HELD, i] += 1
        slots[ROOM, i] += pool[BLOCK_SIZE]
        publish_until(i, known_tokens(i, slots) + done, slots, pool)
        i = slots[NEXT_DUE, i]


@compiled
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
