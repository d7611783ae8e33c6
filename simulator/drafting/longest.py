"""Drafts from the longest match: a shorter budget gets a prefix of the same draft, so one pass serves every budget."""

from simulator.compiled import compiled, entry
from simulator.drafting.automaton import BEST_STATE, BEST_TOKEN, COUNT, NONE, STATE, shorten
from simulator.drafting.memory import load
from simulator.drafting.replay import Replay, accepted_of, begin_rollout, drafted_of, offsets_of, standing_of, starts_of
from simulator.drafting.standing import longest_match, take
from simulator.limits import LARGEST_BUDGET
from simulator.records import Array


@compiled
def draft_along(
    at: int, state: int, length: int, limit: int, depth: int, min_prob: float, actual: int, n: int
) -> tuple[int, int]:
    """Walk most frequent continuations: (drafted, accepted) against the `n` tokens that the rollout has left, at `actual`.

    The context of each drafted token is the match and the drafts before it, at most depth - 1 tokens.
    """
    prob = 1.0
    drafted = accepted = 0
    while drafted < limit:
        child = load(at, STATE * state + BEST_STATE)
        if child == NONE:
            break
        prob *= load(at, STATE * child + COUNT) / load(at, STATE * state + COUNT)
        if prob < min_prob:
            break
        if accepted == drafted < n and load(at, STATE * state + BEST_TOKEN) == load(actual, drafted):
            accepted += 1
        drafted += 1
        state = child
        length += 1
        if length >= depth:
            length = depth - 1
            state = shorten(at, state, length)
    return drafted, accepted


@entry
def accept_longest(replays: Array[Replay]) -> int:
    """Fill, for every position of every rollout, how many tokens are drafted there and how many of them are right."""
    replay = replays[0]
    standing, offsets, depth = standing_of(replay), offsets_of(replay), replay.depth
    factor, min_prob, accepted, drafted = replay.factor, replay.min_prob, accepted_of(replay), drafted_of(replay)
    for i in range(starts_of(replay).size):
        actual, n, _ = begin_rollout(replay, i)
        history, own, matched, matching = standing.history, standing.own, standing.matched, standing.length
        for p in range(n):
            at, state, length = longest_match(history, matched, matching, own, depth)
            n_drafted = right = 0
            if length > 0:
                limit = min(int(factor * length + 1e-9), LARGEST_BUDGET)
                n_drafted, right = draft_along(at, state, length, limit, depth, min_prob, actual + 4 * p, n - p)
            drafted[offsets[i] + p], accepted[offsets[i] + p] = n_drafted, right
            matched, matching = take(history, matched, matching, own, load(actual, p), depth)
    return 0
