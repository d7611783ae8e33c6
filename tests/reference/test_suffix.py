"""The brute-force suffix drafter against cases small enough for paper."""

import random

import pytest

from tests.reference.suffix import (
    Counts,
    draft_longest,
    draft_scored,
    reachable,
    replay_longest,
    replay_scored,
    sequence_steps,
)


def test_counts_by_hand() -> None:
    table = Counts(3)
    table.insert([0, 1, 0, 1])
    strings: tuple[list[int], ...] = ([0], [1], [0, 1], [1, 0], [0, 1, 0], [1, 0, 1], [0, 0], [])
    assert [table.occurrences(w) for w in strings] == [2, 2, 2, 1, 1, 1, 0, 4]
    assert [table.best(w) for w in ([0], [1], [0, 1], [0, 1, 0])] == [1, 0, 0, None]  # 3 tokens have no fourth
    table.insert([7, 7, 7, 7])
    assert [table.occurrences([7] * n) for n in (1, 2, 3)] == [4, 3, 2]  # overlapping
    assert table.occurrences([1, 7]) == 0  # no string runs from one sequence into the next
    grown = Counts(3)
    for token in (0, 1, 0, 1):
        grown.append(token)
    grown.insert([7, 7, 7, 7])
    assert (grown.children, grown.leader) == (table.children, table.leader)


def test_incumbent_stays_until_strictly_exceeded() -> None:
    table = Counts(2)
    leaders = []
    for token, weight in ((1, 1), (2, 1), (2, 1), (1, 1), (3, 3)):
        table.insert([0, token], weight)
        leaders.append(table.best([0]))
    assert leaders == [1, 1, 2, 2, 3]


def test_longest_match_by_hand() -> None:
    table = Counts(4)
    table.insert([1, 2, 3, 4, 5])
    assert draft_longest({"history": table}, [9, 2, 3]) == ([4, 5], "history")  # m = 2: two tokens
    assert draft_longest({"history": table}, [9, 2, 3], budget=1) == ([4], "history")
    assert draft_longest({"history": table}, [1], factor=4.0) == ([2, 3, 4, 5], "history")  # the walk forgets the 1
    assert draft_longest({"history": table}, [2, 3], factor=2.0) == ([4, 5], "history")  # nothing follows the 5
    assert draft_longest({"history": table}, [2], factor=0.9999999999) == ([3], "history")  # 1 but for rounding
    assert draft_longest({"history": table}, [4, 5]) == ([], None)  # matched, but never continued
    assert draft_longest({"history": table}, []) == ([], None)
    table.insert([7, 8])
    table.insert([8, 9])
    assert draft_longest({"history": table}, [7, 8]) == ([9], "history")  # 7 8 ends there, 8 alone goes on
    assert draft_longest({"history": table}, [7, 8], min_prob=0.51) == ([], "history")  # 8 9 is half of all 8


def test_probability_at_the_floor_is_kept() -> None:
    table = Counts(2)
    for token in range(1, 11):
        table.insert([0, token])
    assert draft_longest({"history": table}, [0]) == ([1], "history")  # 1 in 10, the floor
    table.insert([0, 11])
    assert draft_longest({"history": table}, [0]) == ([], "history")


def test_longer_match_decides_between_tables_and_own_wins_ties() -> None:
    own, history = Counts(4), Counts(4)
    own.insert([2, 5])
    history.insert([1, 2, 3])
    assert draft_longest({"own": own, "history": history}, [1, 2]) == ([3], "history")
    assert draft_longest({"own": own, "history": history}, [9, 2]) == ([5], "own")


def test_replay_of_a_repeating_output_by_hand() -> None:
    # Prompt 1 2, output 1 2 1 2, own table only, depth 4.
    # p 0: "1 2" has not been continued.                      p 1: 1 -> 2 (m 1).         A 1, D 1
    # p 2: 1 2 -> 1 -> 2 (m 2).  A 2, D 2                     p 3: 1 2 1 -> 2 1 2 (m 3), one to go.  A 1, D 3
    assert replay_longest(None, [1, 2], [1, 2, 1, 2], depth=4) == ([0, 1, 2, 1], [0, 1, 2, 3])
    # Steps at p 0 (emits 1), p 1 (accepts 1, emits 2), p 3 (accepts 1, no bonus).
    assert sequence_steps(None, [1, 2], [1, 2, 1, 2], 4, depth=4) == (3, 4, 2)


def test_scored_match_by_hand() -> None:
    history = Counts(4)
    for sequence in ([1, 2, 3], [1, 2, 3], [1, 2, 4]):
        history.insert(sequence)
    assert draft_scored(history, None, [9, 1, 2], 4) == {((3,), 2 / 3)}
    assert draft_scored(history, None, [9, 1], 4, factor=2.0) == {((2, 3), 1 + 2 / 3)}
    assert draft_scored(history, None, [9, 1], 1, factor=2.0) == {((2,), 1.0)}
    for unmatched in ([8, 9], [1], []):  # a match leaves out at least one token of the context
        assert draft_scored(history, None, unmatched, 4) == {((), 0.0)}
    shallow = Counts(3)
    shallow.insert([1, 2, 3, 4])
    assert draft_scored(shallow, None, [9, 1, 2], 4) == {((3,), 1.0)}  # match and draft stay within the depth
    deep = Counts(4)
    deep.insert([1, 2, 3, 4])
    assert draft_scored(deep, None, [9, 1, 2], 4) == {((3, 4), 2.0)}
    assert draft_scored(deep, None, [1, 2], 4) == {((3,), 1.0)}  # all of the context is no match
    # After 2 half the time 3, after 1 2 4 half the time: equal scores, so the longer match is taken.
    tied = Counts(3)
    for sequence in ([1, 2, 4], [1, 2], [2, 3], [2, 3]):
        tied.insert(sequence)
    assert draft_scored(tied, None, [9, 1, 2], 4) == {((4,), 0.5)}


def test_scored_match_keeps_every_way_to_break_a_tie() -> None:
    history = Counts(4)
    history.insert([1, 2, 5], weight=3)
    history.insert([0, 1, 3], weight=3)
    # After 1: 2 (then 5) or 3 (then nothing), three of six each.
    assert draft_scored(history, None, [9, 1], 4, factor=2.0) == {((2, 5), 1.0), ((3,), 0.5)}
    # One more "0 1": after 1, 3 of 7 each, so 6/7 or 3/7; after 0 1, 3 in 3 of 4. That beats 3/7 but not 6/7.
    history.insert([0, 1])
    assert draft_scored(history, None, [9, 0, 1], 4, factor=2.0) == {((2, 5), 6 / 7), ((3,), 0.75)}


@pytest.mark.parametrize(("weight", "expected"), [(1, ((6,), 1 / 2)), (2, ((6,), 1 / 2)), (3, ((7,), 3 / 5))])
def test_scored_match_prefers_the_better_table_then_local(weight: int, expected: tuple[tuple[int, ...], float]) -> None:
    # Own 5 6 5: locally 6 after one of two 5s. Joint: 7 after `weight` of 2 + weight 5s; below, equal, above 1/2.
    history, own = Counts(4), Counts(4)
    own.insert([5, 6, 5])
    history.insert([5, 7], weight)
    assert draft_scored(history, own, [9, 5], 4) == {expected}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [0, 1, 2, 5])
def test_step_by_step_drafting_equals_replay_by_position(seed: int, budget: int) -> None:
    rng = random.Random(seed)
    history = Counts(6)
    for _ in range(3):
        history.insert(rng.choices(range(3), k=30), weight=rng.randint(1, 2))
    prompt, output = rng.choices(range(3), k=rng.randint(0, 4)), rng.choices(range(3), k=40)
    accepted, drafted = replay_longest(history, prompt, output, depth=6, factor=2.0)
    capped = [{(min(budget, a), min(budget, d))} for a, d in zip(accepted, drafted, strict=True)]
    assert {sequence_steps(history, prompt, output, budget, depth=6, factor=2.0)} == reachable(capped)
    scored = replay_scored(history, prompt, output, budget, depth=6, factor=2.0)
    decoded = sequence_steps(history, prompt, output, budget, depth=6, matching="scored", factor=2.0)
    assert decoded in reachable(scored)
