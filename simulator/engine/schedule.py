"""What a decode step computes: vLLM V1's scheduling, running rollouts first, then the queue, with preemption when KV runs out.

Each function decides and books; none looks at the clock but to note when. See `fields` for the arrays, `blocks` for the pool.
"""

import numpy as np

from simulator.budgets.view import BUDGET, DRAFTED, ORIGIN, POSITION, ROLLOUT, SINCE
from simulator.compiled import compiled
from simulator.engine.blocks import BLOCK_SIZE, LOOKAHEAD, WHOLE, extend, found, publish, release, take_in
from simulator.engine.blocks import FREE as FREE_BLOCKS
from simulator.engine.fields import (
    ADMITTED,
    ADMITTED_S,
    ARRIVAL_S,
    BASE,
    CHUNKED,
    COMPUTED,
    DECODING,
    END,
    ENTRY,
    GHOSTS,
    HEAD,
    HELD,
    KEYED,
    LIMIT,
    LINE,
    LIVE,
    LIVE_DRAFTS,
    MAX_SEQS,
    MAX_TOKENS,
    NOW_S,
    PAGED,
    PENDING,
    PREEMPTED,
    PROMPT,
    PROPOSED,
    QUEUED_S,
    R_ACCEPTED,
    R_CACHED,
    R_DRAFTED,
    R_POSITION,
    R_PREEMPTED,
    R_STEPS,
    R_TURN,
    ROOM,
    SCHEDULED,
    SHIFT,
    STAGE,
    START,
    STEPS,
    STOP,
    TAIL,
    TAKE,
    TURNS_END,
)


@compiled
def receive(state, queue, pending, times, now_s):  # type: ignore[no-untyped-def]
    """Move the rollouts that have arrived by `now_s` into the queue."""
    while state[PENDING] < pending.size and times[ARRIVAL_S, pending[state[PENDING]]] <= now_s:
        rollout = pending[state[PENDING]]
        state[PENDING] += 1
        queue[state[TAIL]] = rollout
        state[TAIL] += 1
        if np.isnan(times[QUEUED_S, rollout]):
            times[QUEUED_S, rollout] = now_s


@compiled
def expect(state, pending, times, rollout, arrival_s):  # type: ignore[no-untyped-def]
    """Let a rollout arrive (again) at `arrival_s`; `pending` stays sorted by time, then number."""
    times[ARRIVAL_S, rollout] = arrival_s
    state[PENDING] -= 1
    i = state[PENDING]
    while i + 1 < pending.size:
        other = pending[i + 1]
        if times[ARRIVAL_S, other] > arrival_s or (times[ARRIVAL_S, other] == arrival_s and other > rollout):
            break
        pending[i] = other
        i += 1
    pending[i] = rollout


@compiled
def known_tokens(i, slots):  # type: ignore[no-untyped-def]
    """Tokens of slot i whose KV must be there before it emits the next one."""
    return slots[POSITION, i] - slots[BASE, i]


@compiled
def leave(i, slots, state, counts):  # type: ignore[no-untyped-def]
    """Book what slot i did since it entered the batch.

    Each step that counts emitted a bonus token, but for a last one whose drafts completed the stay: POSITION went one past.
    """
    rollout, steps = slots[ROLLOUT, i], state[STEPS] - slots[SINCE, i]
    counts[R_ACCEPTED, rollout] += slots[POSITION, i] - slots[ENTRY, i] - (steps - counts[R_STEPS, rollout])
    counts[R_STEPS, rollout] = steps
    counts[R_DRAFTED, rollout] = slots[DRAFTED, i]


@compiled
def preempt_last(slots, state, queue, counts, pool):  # type: ignore[no-untyped-def]
    """Send the rollout admitted last back to the head of the queue, without its KV."""
    i = state[LIVE] - 1
    rollout = slots[ROLLOUT, i]
    leave(i, slots, state, counts)
    counts[R_POSITION, rollout] = slots[POSITION, i]
    counts[R_PREEMPTED, rollout] += 1
    release(pool, slots[LINE, i], slots[HELD, i])
    state[HEAD] -= 1
    queue[state[HEAD]] = rollout
    state[LIVE] = i
    state[DECODING] = min(state[DECODING], i)
    state[PREEMPTED] += 1


@compiled
def hold(i, tokens, slots, state, queue, counts, pool):  # type: ignore[no-untyped-def]
    """Give slot i blocks for `tokens` tokens, preempting from the end of the batch; False if it went itself."""
    wanted = -(-tokens // pool[BLOCK_SIZE])
    while not extend(pool, slots[LINE, i], slots[HELD, i], wanted):
        preempt_last(slots, state, queue, counts, pool)
        if state[LIVE] <= i:
            return False
    slots[HELD, i] = wanted
    slots[ROOM, i] = wanted * pool[BLOCK_SIZE]
    return True


@compiled
def publish_until(i, tokens, slots, pool):  # type: ignore[no-untyped-def]
    """Publish slot i's blocks that are full with `tokens` tokens."""
    full = tokens // pool[BLOCK_SIZE]
    publish(pool, slots[ROLLOUT, i], slots[LINE, i], slots[KEYED, i], full)
    slots[KEYED, i] = max(slots[KEYED, i], full)


@compiled
def schedule_running(slots, state, queue, rollouts, counts, flat, pool, rules):  # type: ignore[no-untyped-def]
    """Schedule the running rollouts in order; returns the tokens left for the queue."""
    left, paged, ahead = rules[MAX_TOKENS], rules[PAGED], pool[LOOKAHEAD]
    block_size, live_drafts = pool[BLOCK_SIZE], rules[LIVE_DRAFTS]
    position, base, budget, room, keyed = slots[POSITION], slots[BASE], slots[BUDGET], slots[ROOM], slots[KEYED]
    # no function is called for each slot: handing it arrays costs more than the rest of the loop
    state[SCHEDULED] = 0
    while state[SCHEDULED] < state[DECODING] and left > 0:
        i = state[SCHEDULED]
        drafts = budget[i]
        if drafts > 0:
            drafted = slots[PROPOSED, i] if live_drafts else np.int64(flat[position[i] + slots[SHIFT, i], 1])
            drafts = min(drafts, drafted, rollouts[END, slots[ROLLOUT, i]] - position[i])
        take = min(1 + drafts, left)
        if paged:
            known = position[i] - base[i]
            need = known - 1 + take + ahead
            if need > room[i] and not hold(i, need, slots, state, queue, counts, pool):
                return 0
            if known >= (keyed[i] + 1) * block_size:
                publish_until(i, known, slots, pool)
        slots[TAKE, i] = take
        left -= take
        state[SCHEDULED] += 1
    for i in range(state[DECODING], state[LIVE]):  # at most one: a chunk that is not the last one fills the step
        known = known_tokens(i, slots)
        take = min(known - slots[COMPUTED, i], left)
        slots[TAKE, i] = take
        if paged and take > 0:
            after = slots[COMPUTED, i] + take
            if not hold(i, after + ahead, slots, state, queue, counts, pool):
                return 0
            publish_until(i, after, slots, pool)
        left -= take
    return left


@compiled
def admit(  # type: ignore[no-untyped-def]
    slots, state, queue, rollouts, clock, counts, times, turn_ends, pool, rules, left
):
    """Move rollouts from the head of the queue into free slots while `left` tokens, slots and KV suffice."""
    live, paged = state[LIVE], rules[PAGED]
    while live + state[GHOSTS] < rules[MAX_SEQS] and state[HEAD] < state[TAIL] and left > 0:
        rollout = queue[state[HEAD]]
        position, prompt = counts[R_POSITION, rollout], rollouts[PROMPT, rollout]
        origin = rollouts[START, rollout] - prompt
        known = position - origin + (prompt == 0)
        computed = 0
        if paged:
            block_size = pool[BLOCK_SIZE]
            hits, free_hits = found(pool, rollout, known)
            computed = hits * block_size
        take = min(known - computed, left)
        if take < known - computed and not rules[CHUNKED]:
            break
        if paged:
            blocks = -(-(computed + take) // block_size)
            needed = -(-known // block_size) if pool[WHOLE] else blocks
            if needed - hits + free_hits > pool[FREE_BLOCKS]:
                break
            slots[LINE, live] = take_in(pool, rollout, hits, blocks)
            slots[HELD, live] = blocks
            slots[ROOM, live] = blocks * block_size
            slots[KEYED, live] = hits
        state[HEAD] += 1
        slots[ROLLOUT, live] = rollout
        slots[POSITION, live] = position
        slots[LIMIT, live] = position
        slots[BUDGET, live] = 0
        slots[SHIFT, live] = 0
        slots[ORIGIN, live] = origin
        slots[BASE, live] = origin - (prompt == 0)
        slots[DRAFTED, live] = counts[R_DRAFTED, rollout]
        slots[SINCE, live] = state[STEPS] - counts[R_STEPS, rollout]
        slots[STAGE, live] = 0
        turn = counts[R_TURN, rollout]
        slots[STOP, live] = turn_ends[turn] if turn < rollouts[TURNS_END, rollout] else rollouts[END, rollout]
        slots[ENTRY, live] = position
        slots[TAKE, live] = take
        slots[COMPUTED, live] = computed
        counts[R_CACHED, rollout] += computed
        if np.isnan(times[ADMITTED_S, rollout]):
            times[ADMITTED_S, rollout] = clock[NOW_S]
        if paged:
            publish_until(live, computed + take, slots, pool)
        left -= take
        live += 1
        state[ADMITTED] += 1
    state[LIVE] = live
