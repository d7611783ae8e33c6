"""Drafts from the longest match: a shorter budget gets a prefix of the same draft, so one pass serves every budget."""

from simulator.compiled import compiled, entry
from simulator.drafting.automaton import BEST_STATE, BEST_TOKEN, COUNT, NONE, STATE, shorten
from simulator.drafting.memory import load, store
from simulator.drafting.replay import Replay, begin_rollout, matched_of, offsets_of, standing_of, table_of
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


@compiled
def accept_rollout(replay: Replay, i: int) -> None:
    """Fill, for every position of rollout i, how many tokens are drafted there and how many of them are right."""
    standing, table, offset, depth = standing_of(replay), table_of(replay), offsets_of(replay)[i], replay.depth
    factor, min_prob, scratch, lengths = replay.factor, replay.min_prob, replay.scratch, matched_of(replay)
    actual, n, _ = begin_rollout(replay, i)
    history, own, matched, matching = standing.history, standing.own, standing.matched, standing.length
    for p in range(n):
        at, state, length = longest_match(history, matched, matching, own, depth)
        n_drafted = right = 0
        if length > 0:
            limit = min(int(factor * length + 1e-9), LARGEST_BUDGET)
            n_drafted = draft_along(at, state, length, limit, depth, min_prob, scratch)
            right = right_of(scratch, actual + 4 * p, min(n_drafted, n - p))
        if lengths.size > 0:
            lengths[offset + p] = length
        table[offset + p].drafted, table[offset + p].accepted = n_drafted, right
        matched, matching = take(history, matched, matching, own, load(actual, p), depth)


@entry
def accept_longest(replays: Array[Replay], first: int, end: int) -> int:
    """Do so for the rollouts from `first` on that come before `end`."""
    for i in range(first, end):
        accept_rollout(replays[0], i)
    return 0
