"""A decode step whose drafts are made in the loop, because they depend on what siblings have emitted by then."""

from simulator.budgets.view import BUDGET, DRAFTED, ORIGIN, POSITION, ROLLOUT
from simulator.compiled import compiled
from simulator.drafting.live import enrol, hear, speak
from simulator.engine.fields import (
    COMPUTED,
    DECODING,
    EMITTED,
    LIMIT,
    LIVE,
    PROPOSED,
    SCHEDULED,
    START,
    STOP,
    TAKE,
)
from simulator.engine.schedule import known_tokens


@compiled
def propose(slots, decoding, rollouts, pupils, groups, scratch, rules):  # type: ignore[no-untyped-def]
    """Draft for the sequences that decode, with what siblings have emitted so far."""
    for i in range(decoding):
        rollout, budget = slots[ROLLOUT, i], slots[BUDGET, i]
        emitted = slots[POSITION, i] - rollouts[START, rollout]
        slots[PROPOSED, i], slots[EMITTED, i] = speak(rollout, emitted, budget, pupils, groups, scratch, rules)


@compiled
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
