"""Tree drafts, SuffixDecoding's `use_tree_spec`: the likeliest continuations together, verified in one step.

From a match the tree grows best first: of all continuations of what it holds already, the one of the highest path
probability joins next, until it has as many nodes as a path might have tokens, nothing reaches the floor, or nothing more is
known (`_speculate_tree` in ArcticInference's csrc/suffix_decoding/suffix_tree.cc). So it holds the n likeliest nodes, and its
score, the sum of their probabilities, is the expected number of accepted tokens. Verification costs a query token per node;
the longest path from the root that the rollout really took is accepted. The tree depends on the budget.
"""

import numpy as np

from simulator.compiled import compiled
from simulator.drafting.automaton import (
    ACTIVE,
    ACTIVE_LEN,
    BEST_STATE,
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
)
from simulator.drafting.memory import load
from simulator.drafting.scored import count_of, next_of

# rows of a tree: its nodes by decreasing probability, as numbers of columns; then, by column, the token of each node, the rank
# of its parent, its level, and its states in the history and in the rollout's own automaton
RANKED, SAID, PARENT, DEPTH, IN_PAST, IN_OWN = range(6)
FIELDS = 6
ROUNDING = 1e-9


@compiled
def rank_in(tree, probs, taken, size, limit, prob):  # type: ignore[no-untyped-def]
    """Rank a continuation of probability `prob` among those that may join: (its column, how many are ranked now).

    Where `limit` are ranked already, the least likely gives way.
    """
    node = tree[RANKED, size - 1] if size == limit else size
    size = min(size + 1, limit)
    rank = size - 1
    while rank > taken and probs[tree[RANKED, rank - 1]] < prob:
        tree[RANKED, rank] = tree[RANKED, rank - 1]
        rank -= 1
    tree[RANKED, rank] = node
    probs[node] = prob
    return node, size


@compiled
def grow(past, h, own, o, limit, deepest, min_prob, to_beat, tree, probs):  # type: ignore[no-untyped-def]
    """Grow a tree of at most `limit` >= 1 nodes and `deepest` levels from a match: (nodes, expected accepted tokens).

    past, own: addresses of the automata; h, o: the match's states there, NONE where there is none. tree: int64[6, limit or
    more], probs: float64[limit or more]. The first `taken` ranks are in the tree, the others the best that may join it;
    what is too unlikely to join before the tree is full is not kept, so there are never more than `limit` ranks. A tree that
    cannot reach the score `to_beat` is given up as (0, 0.0).
    """
    taken, size, score = 0, 0, 0.0
    prob, depth = 1.0, 0
    while True:
        times_h, times_o = count_of(past, h), count_of(own, o)
        times = times_h + times_o
        floor = probs[tree[RANKED, size - 1]] if size == limit else 0.0
        for in_own in (False, True):
            at, state = (own, o) if in_own else (past, h)
            if state == NONE or depth == deepest or prob <= floor:
                continue
            token, child = load(at, STATE * state + FIRST_TOKEN), load(at, STATE * state + FIRST_STATE)
            number = load(at, STATE * state + MORE)
            while token != NONE:
                child_h, child_o = (NONE, child) if in_own else (child, NONE)
                count = count_of(at, child)
                at_most = prob * ((count if in_own else count + times_o) / times)
                if at_most >= min_prob and at_most > floor:  # else a look into the other automaton is wasted
                    if in_own:
                        count = 0 if next_of(past, h, token) != NONE else count  # else it has had its turn
                    else:
                        child_o = next_of(own, o, token)
                        count += count_of(own, child_o)
                    likely = prob * (count / times)
                    if count > 0 and likely >= min_prob and likely > floor:
                        node, size = rank_in(tree, probs, taken, size, limit, likely)
                        tree[SAID, node], tree[PARENT, node], tree[DEPTH, node] = token, taken - 1, depth + 1
                        tree[IN_PAST, node], tree[IN_OWN, node] = child_h, child_o
                        floor = probs[tree[RANKED, size - 1]] if size == limit else 0.0
                if number == NONE:
                    break
                edge = load(at, EDGES_AT) + EDGE * number
                token, child, number = load(at, edge + TOKEN), load(at, edge + TARGET), load(at, edge + NEXT)
        if taken == size:
            return size, score
        node = tree[RANKED, taken]
        if score + (limit - taken) * probs[node] < to_beat - ROUNDING:  # no later node is likelier
            return 0, 0.0
        taken += 1
        prob, depth = probs[node], tree[DEPTH, node]
        h, o = tree[IN_PAST, node], tree[IN_OWN, node]
        score += prob


@compiled
def likeliest(past, h, own, o):  # type: ignore[no-untyped-def]
    """Return a bound on the probability of any continuation."""
    times = count_of(past, h) + count_of(own, o)
    most = 0
    if h != NONE:
        most += count_of(past, load(past, STATE * h + BEST_STATE))
    if o != NONE:
        most += count_of(own, load(own, STATE * o + BEST_STATE))
    return most / times


@compiled
def best_tree(past, h, h_len, own, o, o_len, budget, depth, factor, min_prob, trees, probs):  # type: ignore[no-untyped-def]
    """Try every match length in both automata together, then in `own` alone: (nodes, score, which of `trees`).

    h, h_len and o, o_len: as in `scored.best_draft`. trees: int64[2, 6, budget or more], room for the best and for another.
    Matches of the same state differ in how many nodes and levels they may have. Lengths up to the longest that may have no
    more nodes than levels are outdone by that one; of two equal scores that of the longer match counts. The nodes of one
    level have probabilities that sum to at most 1, so a tree scores at most its levels.
    """
    best_n, best_score, best = 0, 0.0, 0
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
            at_h, at_o = state_h if in_past else NONE, state_o if in_own else NONE
            length, most, ahead = m, m, False  # ahead: whether the best so far is of these states
            if min(budget, int(factor * m + 1e-9)) * likeliest(past, at_h, own, at_o) < best_score - ROUNDING:
                most = 0
            while length > shorter + 1 and min(budget, int(factor * length + 1e-9)) > depth - length:
                length -= 1
            while length <= most:
                limit = min(budget, int(factor * length + 1e-9))
                at_most = min(limit, depth - length)
                if at_most > best_score or (ahead and at_most == best_score):
                    n, score = grow(
                        past, at_h, own, at_o, limit, depth - length, min_prob, best_score, trees[1 - best], probs
                    )
                    if score > best_score or (ahead and score == best_score):
                        best_n, best_score, best = n, score, 1 - best
                        ahead = True
                length += 1
            m = shorter
    return best_n, best_score, best


@compiled(nogil=True)
def accept_tree(  # type: ignore[no-untyped-def]
    tokens, starts, ends, prompt, prompt_starts, prompt_ends, at, own, use_own,
    budget, depth, factor, min_prob, everywhere, offsets, accepted, drafted,
):  # fmt: skip
    """Replay rollouts with trees of at most `budget` nodes; arguments and result as `scored.accept_scored`.

    Nodes deeper than the rollout has tokens left are not counted as drafted.
    """
    trees, probs = np.empty((2, FIELDS, max(budget, 1)), np.int64), np.empty(max(budget, 1), np.float64)
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
                nodes, _, best = best_tree(
                    past, matched, min(length, longest), own, o, o_len, budget, depth, factor, min_prob, trees, probs
                )
                tree = trees[best]
                reached, right, cut = -1, 0, 0
                for rank in range(nodes):  # parents come before their children
                    node = tree[RANKED, rank]
                    if tree[DEPTH, node] > n - p:
                        cut += 1
                    elif tree[PARENT, node] == reached and tree[SAID, node] == load(actual, p + right):
                        reached = rank
                        right += 1
                drafted[offsets[i] + p] = nodes - cut
                accepted[offsets[i] + p] = right
                if p == turn:
                    steps += 1
                    turn += right + 1
            token = load(actual, p) if p >= 0 else load(prompt, prompt_ends[i] + p)
            if known:
                matched, length = follow(past, matched, length, token, depth - 1)
            if use_own:
                observe(own, token, 1, depth)
    return steps
