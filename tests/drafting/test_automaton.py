"""The suffix automaton, online and frozen, against counting every string."""

import random
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from simulator.drafting import automaton
from simulator.drafting.automaton import BEST_STATE, BEST_TOKEN, COUNT, LEN, N_EDGES, N_STATES, NONE, ROOT, STATE
from simulator.drafting.history import Forest, build_forest
from simulator.drafting.memory import address
from tests.drafting.rollouts import counted, sequence
from tests.reference.suffix import Counts

Int32 = npt.NDArray[np.int32]


def grow(sequences: Sequence[Sequence[int]], weights: Sequence[int], depth: int) -> Int32:
    """One automaton, token by token, in a block of just the size that it asks for."""
    tokens = sum(map(len, sequences))
    words = np.empty(automaton.block_size(tokens, len(sequences)), np.int32)
    at = address(words)
    automaton.plant(at, tokens, len(sequences))
    for tokens_of_one, weight in zip(sequences, weights, strict=True):
        automaton.start_sequence(at)
        for token in tokens_of_one:
            automaton.observe(at, token, weight, depth)
    assert words[N_STATES] <= automaton.state_capacity(tokens)
    assert words[N_EDGES] <= automaton.edge_capacity(tokens, len(sequences))
    return words


def frozen(sequences: Sequence[Sequence[int]], weights: Sequence[int], depth: int) -> Int32:
    """The same as the only group of a forest."""
    forest = forest_of(sequences, np.zeros(len(sequences), np.int64), 1, depth, weights)
    return forest.blocks[0]


def forest_of(
    sequences: Sequence[Sequence[int]],
    groups: npt.NDArray[np.int64],
    n_groups: int,
    depth: int,
    weights: Sequence[int] | None = None,
) -> Forest:
    ends = np.cumsum([len(s) for s in sequences])
    starts = ends - [len(s) for s in sequences]
    tokens = np.array([token for s in sequences for token in s], np.int32)
    given = None if weights is None else np.array(weights, np.int64)
    return build_forest(tokens, starts, ends, groups, n_groups, depth, given)


def state_of(words: Int32, string: Sequence[int]) -> int:
    state = ROOT
    for token in string:
        if state != NONE:
            state = automaton.target_of(address(words), state, token)
    return state


def assert_counts(words: Int32, table: Counts) -> None:
    """Every string that occurs has its count and favourite, and nothing else follows it."""
    vocabulary = sorted(table.children[()]) if table.children else []
    for w in [(), *((*w, c) for w, counts in table.children.items() for c in counts)]:
        state = state_of(words, w)
        assert state != NONE, w
        if w:
            assert words[STATE * state + COUNT] == table.occurrences(w), w
        if len(w) == table.depth:
            continue
        best = table.best(w)
        assert words[STATE * state + BEST_TOKEN] == (NONE if best is None else best), w
        if best is not None:
            assert words[STATE * state + BEST_STATE] == state_of(words, (*w, best)), w
        for token in [*vocabulary, 1, 2**30]:
            follows = automaton.target_of(address(words), state, token) != NONE
            assert follows == (table.occurrences((*w, token)) > 0), (w, token)


def assert_follows(words: Int32, table: Counts, text: Sequence[int]) -> None:
    """Following a text token by token finds its longest suffix that occurs, at most depth - 1 long."""
    state, length = ROOT, 0
    for p, token in enumerate(text, 1):
        state, length = automaton.follow(address(words), state, length, token, table.depth - 1)
        suffixes = range(1, min(p, table.depth - 1) + 1)
        longest = max((m for m in suffixes if table.occurrences(text[p - m : p])), default=0)
        assert length == longest, (text, p)
        if length:
            assert state == state_of(words, text[p - length : p])
            assert words[STATE * state + LEN] >= length


@pytest.mark.parametrize("build", [grow, frozen])
@pytest.mark.parametrize("alphabet", [1, 2, 3, 4])
def test_counts_favourites_and_matches_equal_brute_force(build, alphabet: int) -> None:
    for seed in range(110):
        rng = random.Random(f"{seed}{alphabet}")
        depth = rng.randint(2, 10)
        sequences = [sequence(rng, rng.randint(1, 60), alphabet) for _ in range(rng.randint(1, 4))]
        weights = [rng.choice((1, 1, 2, 5)) for _ in sequences]
        table = counted(sequences, depth, weights)
        words = build(sequences, weights, depth)
        assert_counts(words, table)
        for _ in range(3):
            assert_follows(words, table, sequence(rng, 40, min(4, alphabet + 1)))


def test_ties_stay_with_the_continuation_that_was_first() -> None:
    # After 0: 1 and 2 in turn, so whoever led keeps leading, through every tie.
    sequences: list[list[int]] = []
    for token in (1, 2, 2, 1, 1, 2, 2):
        sequences.append([0, token])
        words, table = grow(sequences, [1] * len(sequences), 2), counted(sequences, 2)
        assert words[STATE * state_of(words, [0]) + BEST_TOKEN] == table.best([0])
    assert table.best([0]) == 2
    assert [counted(sequences[:n], 2).best([0]) for n in range(1, 8)] == [1, 1, 2, 2, 1, 1, 2]


def test_a_weight_counts_like_repetition() -> None:
    twice = [[1, 2, 3], [1, 2, 3], [1, 2, 4]]
    words, other = grow(twice, [1, 1, 1], 4), grow([[1, 2, 3], [1, 2, 4]], [2, 1], 4)
    for w in ([1], [1, 2], [1, 2, 3], [2, 4], [3]):
        assert words[STATE * state_of(words, w) + COUNT] == other[STATE * state_of(other, w) + COUNT]


def test_groups_do_not_mix_and_an_empty_one_has_no_automaton() -> None:
    rng = random.Random(5)
    sequences = [sequence(rng, 20, 3) for _ in range(9)]
    groups = np.array([4, 0, 2, 0, 4, 2, 2, 0, 4])
    forest = forest_of(sequences, groups, 6, 5)
    assert forest.tokens == 180
    assert (forest.at == -1).tolist() == [False, True, False, True, False, True]
    assert (forest_of([], groups[:0], 3, 5).at == -1).all()
    for group in (0, 2, 4):
        members = [s for s, g in zip(sequences, groups, strict=True) if g == group]
        assert_counts(forest.blocks[group], counted(members, 5))


@pytest.mark.parametrize(
    "worst",
    [
        [1] + [2] * 60,  # most states: two per token
        [1] + [2] * 60 + [3],  # most transitions: three per token
        [1, 2] * 30 + [3],
        list(range(60)),
        [7] * 60,
    ],
)
def test_room_suffices_for_the_strings_that_need_most(worst: list[int]) -> None:
    assert_counts(grow([worst], [1], 6), counted([worst], 6))
    again = [worst, worst[::-1], worst]
    assert_counts(grow(again, [1, 1, 1], 6), counted(again, 6))


def test_capacities_hold_for_every_short_string_over_three_letters() -> None:
    for number in range(3**8):
        letters = [number // 3**digit % 3 for digit in range(8)]
        grow([letters[:4], letters[4:]] if number % 2 else [letters], [1, 1] if number % 2 else [1], 3)


@pytest.mark.parametrize("period", [1, 2])
def test_a_long_loop_costs_no_more_than_noise(period: int) -> None:
    tokens = 32_768
    rng = np.random.default_rng(3)
    noise, loop = rng.integers(0, 50_000, tokens), np.resize(np.arange(period), tokens)

    def best_of_three(sequence: npt.NDArray[np.int64]) -> float:
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            frozen([sequence.tolist()], [1], 24)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    frozen([[1, 2]], [1], 24)  # compile
    # Without a bound on the depth the loop would walk up to 32,768 classes per token: ratios in the hundreds.
    assert best_of_three(loop) < 20 * best_of_three(noise)
    assert frozen([loop.tolist()], [1], 24)[N_STATES] == tokens + 1
