"""Drafts from the longest match: a shorter budget gets a prefix of the same draft, so one pass serves every budget."""

from simulator.compiled import compiled, entry
from simulator.drafting.automaton import BEST_STATE, BEST_TOKEN, COUNT, NONE, STATE, shorten
from simulator.drafting.memory import load, store
from simulator.drafting.replay import Replay, accepted_of, begin_rollout, drafted_of, offsets_of, standing_of, starts_of
from simulator.drafting.standing import longest_match, take
from simulator.limits import LARGEST_BUDGET
from simulator.records import Array


@compiled
def draft_along(at: int, state: int, length: int, limit: int, depth: int, min_prob: float, draft: int) -> int:
    """Write most frequent continuations, at most `limit`, to the address `draft`; returns how many.

    The context of each drafted token is the match and the drafts before it, at most depth - 1 tokens.
    """
    prob, drafted = 1.0, 0
    while drafted < limit:
        child = load(at, STATE * state + BEST_STATE)
        if child == NONE:
            break
        prob *= load(at, STATE * child + COUNT) / load(at, STATE * state + COUNT)
        if prob < min_prob:
            break
        store(draft, drafted, load(at, STATE * state + BEST_TOKEN))
        drafted += 1
        state = child
        length += 1
        if length >= depth:
            length = depth - 1
            state = shorten(at, state, length)
    return drafted


@compiled
def right_of(draft: int, actual: int, tokens: int) -> int:
    """How many of so many drafted tokens are the actual ones, up to the first that is not; both at addresses."""
    right = 0
    while right < tokens and load(draft, right) == load(actual, right):
        right += 1
    return right


@entry
def accept_longest(replays: Array[Replay]) -> int:
    """Fill, for every position of every rollout, how many tokens are drafted there and how many of them are right."""
    replay = replays[0]
    standing, offsets, depth = standing_of(replay), offsets_of(replay), replay.depth
    factor, min_prob, scratch = replay.factor, replay.min_prob, replay.scratch
    accepted, drafted = accepted_of(replay), drafted_of(replay)
    for i in range(starts_of(replay).size):
        actual, n, _ = begin_rollout(replay, i)
        history, own, matched, matching = standing.history, standing.own, standing.matched, standing.length
        for p in range(n):
            at, state, length = longest_match(history, matched, matching, own, depth)
            n_drafted = right = 0
            if length > 0:
                limit = min(int(factor * length + 1e-9), LARGEST_BUDGET)
                n_drafted = draft_along(at, state, length, limit, depth, min_prob, scratch)
                right = right_of(scratch, actual + 4 * p, min(n_drafted, n - p))
            drafted[offsets[i] + p], accepted[offsets[i] + p] = n_drafted, right
            matched, matching = take(history, matched, matching, own, load(actual, p), depth)
    return 0
