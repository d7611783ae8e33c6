"""Tree drafts, SuffixDecoding's `use_tree_spec`: the likeliest continuations together, verified in one step.

From a match the tree grows best first: of all continuations of what it holds already, the one of the highest path
probability joins next, until it has as many nodes as a path might have tokens, nothing reaches the floor, or nothing more is
known (`_speculate_tree` in ArcticInference's csrc/suffix_decoding/suffix_tree.cc). So it holds the n likeliest nodes, and its
score, the sum of their probabilities, is the expected number of accepted tokens. Verification costs a query token per node;
the longest path from the root that the rollout really took is accepted. The tree depends on the budget.
"""

from simulator.compiled import compiled, entry
from simulator.drafting.automaton import (
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
    STATE,
    TARGET,
    TOKEN,
    shorten,
)
from simulator.drafting.memory import load
from simulator.drafting.replay import (
    Node,
    Replay,
    begin_rollout,
    offsets_of,
    other_tree_of,
    standing_of,
    starts_of,
    table_of,
    tree_of,
)
from simulator.drafting.scored import count_of, known_lengths, next_of
from simulator.drafting.standing import take
from simulator.records import Array

ROUNDING = 1e-9


@compiled
def rank_in(tree: Array[Node], taken: int, size: int, limit: int, prob: float) -> tuple[int, int]:
    """Rank a continuation of probability `prob` among those that may join: (its number, how many are ranked now).

    Where `limit` are ranked already, the least likely gives way.
    """
    node = tree[size - 1].ranked if size == limit else size
    size = min(size + 1, limit)
    rank = size - 1
    while rank > taken and tree[tree[rank - 1].ranked].prob < prob:
        tree[rank].ranked = tree[rank - 1].ranked
        rank -= 1
    tree[rank].ranked = node
    tree[node].prob = prob
    return node, size


@compiled
def least_in(tree: Array[Node], size: int, limit: int) -> float:
    """Probability that a continuation must exceed to be ranked."""
    return tree[tree[size - 1].ranked].prob if size == limit else 0.0


@compiled
def grow(
    past: int, h: int, own: int, o: int, limit: int, deepest: int, min_prob: float, to_beat: float, tree: Array[Node]
) -> tuple[int, float]:
    """Grow a tree of at most `limit` >= 1 nodes and `deepest` levels from a match: (nodes, expected accepted tokens).

    past, own: addresses of the automata; h, o: the match's states there, NONE where there is none. tree: room for `limit`
    nodes. The first `taken` ranks are in the tree, the others the best that may join it;
    what is too unlikely to join before the tree is full is not kept, so there are never more than `limit` ranks. A tree that
    cannot reach the score `to_beat` is given up as (0, 0.0).
    """
    taken, size, score = 0, 0, 0.0
    prob, level = 1.0, 0
    while True:
        if level < deepest and prob > least_in(tree, size, limit):
            size = join(past, h, own, o, limit, min_prob, tree, taken, size, prob, level)
        if taken == size:
            return size, score
        node = tree[tree[taken].ranked]
        if score + (limit - taken) * node.prob < to_beat - ROUNDING:  # no later node is likelier
            return 0, 0.0
        taken += 1
        prob, level, h, o = node.prob, node.level, node.in_past, node.in_own
        score += prob


@compiled
def join(
    past: int, h: int, own: int, o: int, limit: int, min_prob: float, tree: Array[Node], taken: int, size: int, prob: float,
    level: int,
) -> int:  # fmt: skip
    """Rank the continuations of the node taken last, of probability `prob`, in both automata; returns how many are ranked."""
    times_o = count_of(own, o)
    times = count_of(past, h) + times_o
    floor = least_in(tree, size, limit)
    for in_own in (False, True):
        at, state = (own, o) if in_own else (past, h)
        if state == NONE or prob <= floor:
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
                    which, size = rank_in(tree, taken, size, limit, likely)
                    node = tree[which]
                    node.token, node.parent, node.level = token, taken - 1, level + 1
                    node.in_past, node.in_own = child_h, child_o
                    floor = least_in(tree, size, limit)
            if number == NONE:
                break
            edge = load(at, EDGES_AT) + EDGE * number
            token, child, number = load(at, edge + TOKEN), load(at, edge + TARGET), load(at, edge + NEXT)
    return size


@compiled
def likeliest(past: int, h: int, own: int, o: int) -> float:
    """Return a bound on the probability of any continuation."""
    times = count_of(past, h) + count_of(own, o)
    most = 0
    if h != NONE:
        most += count_of(past, load(past, STATE * h + BEST_STATE))
    if o != NONE:
        most += count_of(own, load(own, STATE * o + BEST_STATE))
    return most / times


@compiled
def best_tree(
    past: int, h: int, h_len: int, own: int, o: int, o_len: int, budget: int, depth: int, factor: float, min_prob: float,
    one: Array[Node], other: Array[Node],
) -> tuple[int, float, bool]:  # fmt: skip
    """Try every match length in both automata together, then in `own` alone: (nodes, score, whether in `other`).

    h, h_len and o, o_len: as in `scored.best_draft`. one, other: room for `budget` nodes each, for the best tree and for the
    next. Matches of the same state differ in how many nodes and levels they may have. Lengths up to the longest that may have
    no more nodes than levels are outdone by that one; of two equal scores that of the longer match counts. The nodes of one
    level have probabilities that sum to at most 1, so a tree scores at most its levels.
    """
    best_n, best_score, in_other = 0, 0.0, False
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
                        past, at_h, own, at_o, limit, depth - length, min_prob, best_score, one if in_other else other
                    )
                    if score > best_score or (ahead and score == best_score):
                        best_n, best_score, in_other = n, score, not in_other
                        ahead = True
                length += 1
            m = shorter
    return best_n, best_score, in_other


@entry
def accept_tree(replays: Array[Replay]) -> int:
    """Replay rollouts with trees of at most `budget` nodes; returns the decode steps."""
    replay, steps = replays[0], 0
    standing, offsets, depth, one, other = (
        standing_of(replay), offsets_of(replay), replay.depth, tree_of(replay), other_tree_of(replay)
    )  # fmt: skip
    budget, factor, min_prob, everywhere = replay.budget, replay.factor, replay.min_prob, replay.everywhere
    table = table_of(replay)
    for i in range(starts_of(replay).size):
        actual, n, n_prompt = begin_rollout(replay, i)
        history, own, matched, matching = standing.history, standing.own, standing.matched, standing.length
        turn = 0
        for p in range(n):
            if p == turn or (everywhere and p > 0):
                known, o, own_known = known_lengths(matching, own, n_prompt + p, depth)
                nodes, _, in_other = best_tree(
                    history, matched, known, own, o, own_known, budget, depth, factor, min_prob, one, other
                )
                right = taken_path(other if in_other else one, nodes, actual + 4 * p, n - p)
                table[offsets[i] + p].drafted, table[offsets[i] + p].accepted = nodes, right
                if p == turn:
                    steps += 1
                    turn += right + 1
            matched, matching = take(history, matched, matching, own, load(actual, p), depth)
    return steps


@compiled
def taken_path(tree: Array[Node], nodes: int, actual: int, left: int) -> int:
    """Return the tokens of the longest path that the `left` tokens to come, at address `actual`, take."""
    reached, right = -1, 0
    for rank in range(nodes):  # parents come before their children
        node = tree[tree[rank].ranked]
        if node.parent == reached and right < left and node.token == load(actual, right):
            reached = rank
            right += 1
    return right
