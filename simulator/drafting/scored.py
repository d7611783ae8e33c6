"""Drafts chosen by expected accepted tokens, as SuffixDecoding ships it (arXiv 2411.04975): the draft depends on the budget."""

from simulator.compiled import compiled, entry
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
    shorten,
    target_of,
)
from simulator.drafting.longest import right_of
from simulator.drafting.memory import load, store
from simulator.drafting.replay import (
    Replay,
    begin_rollout,
    offsets_of,
    scores_of,
    standing_of,
    starts_of,
    table_of,
)
from simulator.drafting.standing import take
from simulator.records import Array


@compiled
def count_of(at: int, state: int) -> int:
    """Return how often `state` occurs; 0 for NONE."""
    return 0 if state == NONE else load(at, STATE * state + COUNT)


@compiled
def next_of(at: int, state: int, token: int) -> int:
    """Return the state that `token` leads to, NONE from NONE."""
    return NONE if state == NONE else target_of(at, state, token)


@compiled
def favourite(past: int, h: int, own: int, o: int) -> tuple[int, int, int, int]:
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
def walk(past: int, h: int, own: int, o: int, limit: int, min_prob: float, draft: int) -> tuple[int, float]:
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
def best_draft(
    past: int, h: int, h_len: int, own: int, o: int, o_len: int, budget: int, depth: int, factor: float, min_prob: float,
    draft: int, spare: int,
) -> tuple[int, float, int]:  # fmt: skip
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


@entry
def accept_scored(replays: Array[Replay]) -> int:
    """Replay rollouts with drafts of at most `budget` tokens; returns the decode steps."""
    replay, steps = replays[0], 0
    standing, offsets, depth, budget, scratch = (
        standing_of(replay), offsets_of(replay), replay.depth, replay.budget, replay.scratch
    )  # fmt: skip
    factor, min_prob, everywhere = replay.factor, replay.min_prob, replay.everywhere
    table, scores = table_of(replay), scores_of(replay)
    for i in range(starts_of(replay).size):
        actual, n, n_prompt = begin_rollout(replay, i)
        history, own, matched, matching = standing.history, standing.own, standing.matched, standing.length
        turn = 0
        for p in range(n):
            if p == turn or (everywhere and p > 0):
                known, o, own_known = known_lengths(matching, own, n_prompt + p, depth)
                found, score, draft = best_draft(
                    history, matched, known, own, o, own_known, budget, depth, factor, min_prob, scratch, scratch + 4 * depth
                )  # fmt: skip
                right = right_of(draft, actual + 4 * p, min(found, n - p))
                table[offsets[i] + p].drafted, table[offsets[i] + p].accepted = found, right
                if scores.size > 0:
                    scores[offsets[i] + p] = score
                if p == turn:
                    steps += 1
                    turn += right + 1
            matched, matching = take(history, matched, matching, own, load(actual, p), depth)
    return steps


@compiled
def known_lengths(matching: int, own: int, context: int, depth: int) -> tuple[int, int, int]:
    """(match in the history, own state, match in own output): as shipped, a match is shorter than the context."""
    longest = min(context, depth) - 1
    if own == 0:
        return min(matching, longest), ROOT, 0
    return min(matching, longest), load(own, ACTIVE), min(load(own, ACTIVE_LEN), longest)
