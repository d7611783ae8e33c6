"""Prompt lookup and the last rollout by brute force, against cases small enough for paper."""

from tests.reference.lookup import draft_last, draft_ngram, measured, previous_of


def test_ngram_by_hand() -> None:
    assert draft_ngram([1, 2, 3, 4, 2, 3], 2, 3, 4) == [4, 2, 3]  # the example in vLLM's own docstring
    assert draft_ngram([1, 2, 3, 4, 2, 3], 2, 3, 2) == [4, 2]
    assert draft_ngram([1, 2, 3, 4, 2, 3], 3, 3, 4) == []
    assert draft_ngram([2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 2, 3, 3) == [8, 1, 2]  # 1 2 3 before 2 3
    assert draft_ngram([2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 2, 2, 3) == [7, 1, 2]  # the first 2 3, not the latest
    assert draft_ngram([5, 5, 5, 5], 1, 2, 9) == [5, 5]  # the first overlaps the last; no more tokens are known
    assert draft_ngram([5, 5], 1, 5, 9) == [5]
    assert draft_ngram([5], 1, 1, 9) == draft_ngram([], 1, 1, 9) == []


def test_last_rollout_by_hand() -> None:
    previous = [1, 2, 3, 9, 2, 3, 4, 5]
    assert draft_last(previous, [], True, 1, 3) == [1, 2, 3]
    assert draft_last(previous, [1, 2], True, 9, 3) == [3, 9, 2]  # aligned: no matter how short
    assert draft_last(previous, [7, 2, 3], True, 2, 2) == [9, 2]  # 2 3 ends at 3 and at 6: 3 is nearer
    assert draft_last(previous, [7, 7, 7, 2, 3], True, 2, 2) == [4, 5]  # 6 is nearer to 5
    assert draft_last([2, 3, 8, 8, 2, 3, 9], [7, 7, 2, 3], True, 2, 9) == [8, 8, 2, 3, 9]  # 2 and 6: the earlier
    assert draft_last(previous, [7, 2, 3], True, 3, 2) == []
    assert draft_last(previous, [7, 2, 3], False, 2, 2) == []
    assert draft_last(previous, [7, 4, 5], True, 2, 2) == []  # nothing follows
    assert draft_last([2, 3, 4, 2, 3], [7, 2, 3], True, 2, 9) == [4, 2, 3]  # something follows the first only
    assert draft_last([1, 2], [1, 2], True, 1, 9) == draft_last(None, [1], True, 1, 9) == []
    assert draft_last([1, 2, 1], [1, 2, 1], True, 1, 9) == [2, 1]  # it outran the previous one; after a 1 came 2 1


def test_the_latest_step_that_has_the_slot_counts() -> None:
    steps = [{("a", 0): [1], ("b", 0): [2]}, {("a", 0): [3]}, {("a", 1): [4]}]
    assert [previous_of(slot, steps) for slot in (("a", 0), ("b", 0), ("b", 1))] == [[3], [2], None]


def test_what_is_drafted_past_the_end_is_drafted_in_vain() -> None:
    assert measured([1, 2, 3], [1, 2, 4, 5]) == (2, 3)
    assert measured([1, 2, 3], [1, 2]) == (2, 3)
    assert (measured([], [1]), measured([1], [])) == ((0, 0), (0, 1))
