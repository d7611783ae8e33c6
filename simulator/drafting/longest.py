"""Drafts from the longest match: a shorter budget gets a prefix of the same draft, so one pass serves every budget."""

from simulator.compiled import compiled
from simulator.drafting.automaton import (
    ACTIVE,
    ACTIVE_LEN,
    BEST_STATE,
    BEST_TOKEN,
    COUNT,
    LEN,
    LINK,
    NONE,
    ROOT,
    STATE,
    follow,
    observe,
    plant,
    shorten,
    start_sequence,
)
from simulator.drafting.memory import load

LONGEST_DRAFT = 255


@compiled
def continued(at, state, length):  # type: ignore[no-untyped-def]
    """Return (state, length) of the longest suffix of a match that something follows."""
    while state != ROOT and load(at, STATE * state + BEST_STATE) == NONE:
        state = load(at, STATE * state + LINK)
        length = load(at, STATE * state + LEN)
    return state, length


@compiled
def draft_along(at, state, length, limit, depth, min_prob, actual, n):  # type: ignore[no-untyped-def]
    """Walk most frequent continuations: (drafted, accepted) against the `n` actual tokens at address `actual`.

    The context of each drafted token is the match and the drafts before it, at most depth - 1 tokens.
    """
    prob = 1.0
    drafted = accepted = 0
    limit = min(limit, n)
    while drafted < limit:
        child = load(at, STATE * state + BEST_STATE)
        if child == NONE:
            break
        prob *= load(at, STATE * child + COUNT) / load(at, STATE * state + COUNT)
        if prob < min_prob:
            break
        if accepted == drafted and load(at, STATE * state + BEST_TOKEN) == load(actual, drafted):
            accepted += 1
        drafted += 1
        state = child
        length += 1
        if length >= depth:
            length = depth - 1
            state = shorten(at, state, length)
    return drafted, accepted


@compiled(nogil=True)
def accept_longest(  # type: ignore[no-untyped-def]
    tokens, starts, ends, prompt, prompt_starts, prompt_ends, at, own, use_own,
    depth, factor, min_prob, offsets, accepted, drafted,
):  # fmt: skip
    """Fill, for every position of every rollout, how many tokens are drafted there and how many of them are right.

    tokens, prompt, own: addresses of int32 words (responses, prompts, scratch for the rollout's own automaton); at: int64[n],
    `Forest.at` of its history, -1 for none; starts, ends, prompt_starts, prompt_ends, offsets: int64[n]; accepted, drafted:
    uint8[positions].
    """
    for i in range(starts.size):
        history = 4 * at[i]
        past = at[i] >= 0
        n, n_prompt = ends[i] - starts[i], prompt_ends[i] - prompt_starts[i]
        actual = tokens + 4 * starts[i]
        matched, length = ROOT, 0
        if use_own:
            plant(own, n + n_prompt, 1)
            start_sequence(own)
        for p in range(prompt_starts[i], prompt_ends[i]):
            token = load(prompt, p)
            if past:
                matched, length = follow(history, matched, length, token, depth - 1)
            if use_own:
                observe(own, token, 1, depth)
        for p in range(n):
            best, state, best_len = history, matched, length
            if past:
                state, best_len = continued(history, matched, length)
            if use_own and load(own, ACTIVE_LEN) > 0:
                own_len = min(load(own, ACTIVE_LEN), depth - 1)
                own_state, own_len = continued(own, shorten(own, load(own, ACTIVE), own_len), own_len)
                if own_len >= best_len:
                    best, state, best_len = own, own_state, own_len
            n_drafted = n_accepted = 0
            if best_len > 0:
                limit = min(int(factor * best_len + 1e-9), LONGEST_DRAFT)
                n_drafted, n_accepted = draft_along(
                    best, state, best_len, limit, depth, min_prob, actual + 4 * p, n - p
                )
            drafted[offsets[i] + p] = n_drafted
            accepted[offsets[i] + p] = n_accepted
            token = load(actual, p)
            if past:
                matched, length = follow(history, matched, length, token, depth - 1)
            if use_own:
                observe(own, token, 1, depth)
