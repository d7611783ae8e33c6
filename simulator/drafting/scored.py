"""Drafts chosen by expected accepted tokens, as SuffixDecoding ships it (arXiv 2411.04975): the draft depends on the budget."""

from simulator.compiled import compiled
from simulator.drafting.automaton import (
    ACTIVE,
    ACTIVE_LEN,
    BEST_STATE,
    BEST_TOKEN,
    COUNT,
    EDGE,
    EDGES_AT,
    FIRST_STATE,
    FIRST_TOKEN,
    LEN,
    LINK,
    MORE,
    NEXT,
    NONE,
    ROOT,
    STATE,
    TARGET,
    TOKEN,
    follow,
    observe,
    plant,
    shorten,
    start_sequence,
    target_of,
)
from simulator.drafting.memory import load, store


@compiled
def count_of(at, state):  # type: ignore[no-untyped-def]
    """Return how often `state` occurs; 0 for NONE."""
    return 0 if state == NONE else load(at, STATE * state + COUNT)


@compiled
def next_of(at, state, token):  # type: ignore[no-untyped-def]
    """Return the state that `token` leads to, NONE from NONE."""
    return NONE if state == NONE else target_of(at, state, token)


@compiled
def favourite(past, h, own, o):  # type: ignore[no-untyped-def]
    """Return (token, state in past, state in own, count) of the continuation that is most frequent in both together.

    A token that never followed in `own` cannot beat the favourite of `past`, so only that one and the continuations in
    `own` compete. Ties go to the favourite of `past`, then to the first found.
    """
    token, child_h, child_o, count = NONE, NONE, NONE, 0
    if h != NONE:
        child_h = load(past, STATE * h + BEST_STATE)
        if child_h != NONE:
            token = load(past, STATE * h + BEST_TOKEN)
            child_o = next_of(own, o, token)
            count = count_of(past, child_h) + count_of(own, child_o)
    if o != NONE:
        if h == NONE:
            child_o = load(own, STATE * o + BEST_STATE)
            return load(own, STATE * o + BEST_TOKEN), NONE, child_o, count_of(own, child_o)
        candidate, target = load(own, STATE * o + FIRST_TOKEN), load(own, STATE * o + FIRST_STATE)
        number = load(own, STATE * o + MORE)
        while candidate != NONE:
            in_past = target_of(past, h, candidate)
            both = count_of(past, in_past) + count_of(own, target)
            if both > count:
                token, child_h, child_o, count = candidate, in_past, target, both
            if number == NONE:
                break
            edge = load(own, EDGES_AT) + EDGE * number
            candidate, target, number = load(own, edge + TOKEN), load(own, edge + TARGET), load(own, edge + NEXT)
    return token, child_h, child_o, count


@compiled
def walk(past, h, own, o, limit, min_prob, draft):  # type: ignore[no-untyped-def]
    """Write the path of favourites to address `draft`: (tokens, expected accepted tokens)."""
    prob, score, n = 1.0, 0.0, 0
    parent = count_of(past, h) + count_of(own, o)
    while n < limit:
        token, h, o, count = favourite(past, h, own, o)
        if token == NONE or count == 0:
            break
        prob *= count / parent
        if prob < min_prob:
            break
        store(draft, n, token)
        score += prob
        n += 1
        parent = count
    return n, score


@compiled
def best_draft(past, h, h_len, own, o, o_len, budget, depth, factor, min_prob, draft, spare):  # type: ignore[no-untyped-def]
    """Try every match length in both automata together, then in `own` alone: (tokens, score, their address).

    h, h_len and o, o_len: the longest match in the history and the rollout's own state; lengths 0 where there is none.
    `draft` and `spare`: addresses of scratch for `depth` tokens each. Matches are tried from long to short, so that ties
    go to the longer; a draft of n tokens scores at most n, so hopeless ones are not walked.
    """
    best_n, best_score = 0, 0.0
    for together in (False, True):
        if (together and h_len == 0) or (not together and o_len == 0):
            continue
        state_h, state_o = h, o
        m = max(h_len, o_len) if together else o_len
        while m > 0:
            in_past, in_own = together and m <= h_len, m <= o_len
            shorter = 0
            if in_past:
                state_h = shorten(past, state_h, m)
                shorter = load(past, STATE * load(past, STATE * state_h + LINK) + LEN)
            elif together:
                shorter = h_len
            if in_own:
                state_o = shorten(own, state_o, m)
                shorter = max(shorter, load(own, STATE * load(own, STATE * state_o + LINK) + LEN))
            else:
                shorter = max(shorter, o_len)
            limit = 0
            for length in range(shorter + 1, m + 1):
                limit = max(limit, min(budget, int(factor * length + 1e-9), depth - length))
            if limit > best_score:
                n, score = walk(
                    past, state_h if in_past else NONE, own, state_o if in_own else NONE, limit, min_prob, spare
                )
                if score > best_score:
                    best_n, best_score = n, score
                    draft, spare = spare, draft
            m = shorter
    return best_n, best_score, draft


@compiled(nogil=True)
def accept_scored(  # type: ignore[no-untyped-def]
    tokens, starts, ends, prompt, prompt_starts, prompt_ends, at, own, use_own, scratch,
    budget, depth, factor, min_prob, everywhere, offsets, accepted, drafted, scores=None,
):  # fmt: skip
    """Replay rollouts with drafts of at most `budget` tokens; arguments as `longest.accept_longest`.

    everywhere: draft at every position (a table for replay under changing budgets), else only where a decode step
    of a rollout that always gets `budget` begins; other positions are left as they are. scores: float64[positions] to
    fill with the drafts' expected accepted tokens, or None. Returns the decode steps.
    """
    steps = 0
    for i in range(starts.size):
        past = 4 * at[i]
        known = at[i] >= 0
        n, n_prompt = ends[i] - starts[i], prompt_ends[i] - prompt_starts[i]
        actual = tokens + 4 * starts[i]
        matched, length = ROOT, 0
        if use_own:
            plant(own, n + n_prompt, 1)
            start_sequence(own)
        turn = 0
        for p in range(-n_prompt, n):
            if p == turn or (everywhere and p > 0):
                longest = min(n_prompt + p, depth) - 1  # as shipped, a match is shorter than the context
                o_len = min(load(own, ACTIVE_LEN), longest) if use_own else 0
                o = load(own, ACTIVE) if use_own else ROOT
                n_drafted, score, draft = best_draft(
                    past,
                    matched,
                    min(length, longest),
                    own,
                    o,
                    o_len,
                    budget,
                    depth,
                    factor,
                    min_prob,
                    scratch,
                    scratch + 4 * depth,
                )
                n_drafted = min(n_drafted, n - p)
                right = 0
                while right < n_drafted and load(draft, right) == load(actual, p + right):
                    right += 1
                drafted[offsets[i] + p] = n_drafted
                accepted[offsets[i] + p] = right
                if scores is not None:
                    scores[offsets[i] + p] = score
                if p == turn:
                    steps += 1
                    turn += right + 1
            token = load(actual, p) if p >= 0 else load(prompt, prompt_ends[i] + p)
            if known:
                matched, length = follow(past, matched, length, token, depth - 1)
            if use_own:
                observe(own, token, 1, depth)
    return steps
