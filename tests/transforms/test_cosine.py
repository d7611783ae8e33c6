"""Rewards by length: the published law at its ends and between, and repetition by its definition."""

import math
from itertools import pairwise

import numpy as np
import pytest

from simulator.transforms.cosine import CHUNK_TOKENS, Cosine, repeated_tokens
from simulator.transforms.resolve import resolve_transform
from tests.transforms.traces import random_trace, trace_of
from traces.errors import InputError
from traces.validation import validate


def repeated(tokens: list[int], ngram: int) -> int:
    """Tokens that lie in a run that was there before: a set of runs, one after another."""
    seen, marked = set(), set()
    for begin in range(len(tokens) - ngram + 1):
        run = tuple(tokens[begin : begin + ngram])
        if run in seen:
            marked |= set(range(begin, begin + ngram))
        seen.add(run)
    return len(marked)


@pytest.mark.parametrize("seed", range(200))
def test_rewards_are_those_of_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    trace = random_trace(seed, binary=False)
    window, margin, ngram = 13 + int(rng.integers(0, 5)), int(rng.integers(0, 6)), int(rng.integers(1, 5))
    one = Cosine(window, 2, 1, -10, 0, -11, margin, ngram, -0.25, right=0.4)
    if "reward" not in trace.table.column_names:
        with pytest.raises(InputError, match="no rewards"):
            one.rollouts(trace, 0)
        return
    made = one.rollouts(trace, 0)
    validate(made.table, "made")
    for before, after in zip(trace.table.to_pylist(), made.table.to_pylist(), strict=True):
        tokens = before["output_tokens"]
        start, end = (2, 1) if before["reward"] >= 0.4 else (-10, 0)
        reward = end + 0.5 * (start - end) * (1 + math.cos(math.pi * tokens / window))
        if tokens + margin >= window:
            reward = -11
        reward -= 0.25 * repeated(before.get("token_ids", []), ngram)
        assert after == before | {"reward": pytest.approx(reward, rel=1e-6, abs=1e-6)}  # the column has 32 bits


def test_ends_of_the_published_law() -> None:
    one = Cosine(14_336)
    lengths = np.array([0, 7168, 14_319, 14_320, 14_336])
    right, wrong = (one.of(np.full(5, is_right), lengths, 14_336) for is_right in (True, False))
    assert right[:2].tolist() == [2.0, 1.5]
    assert wrong[:2].tolist() == [-10.0, -5.0]
    assert right[2] == pytest.approx(1, abs=1e-4)
    assert wrong[2] == pytest.approx(0, abs=1e-4)
    assert right[3:].tolist() == wrong[3:].tolist() == [-10, -10]
    assert Cosine(margin=0, exceed=7).of(np.ones(1, np.bool_), np.array([99]), 100)[0] < 7


@pytest.mark.parametrize("seed", range(40))
def test_repetition_is_that_of_the_definition_over_many_rollouts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 90, 30)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = rng.integers(0, 2, offsets[-1]).astype(np.int32)
    ngram = int(rng.integers(1, 12))
    expected = [repeated(tokens[a:b].tolist(), ngram) for a, b in pairwise(offsets)]
    assert repeated_tokens(tokens, offsets, ngram).tolist() == expected


def test_repetition_in_parts_is_that_of_the_whole() -> None:
    lengths = np.array([CHUNK_TOKENS + 100, 50, 50, CHUNK_TOKENS - 60, 80, 10])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.arange(offsets[-1], dtype=np.int32)
    tokens[-90:-10] = np.tile(np.arange(40), 2)
    tokens[offsets[1] - 45 : offsets[1]] = tokens[:45]
    assert repeated_tokens(tokens, offsets, 40).tolist() == [45, 0, 0, 0, 40, 0]


def test_rollouts_without_a_reward_stay_without() -> None:
    made = Cosine(100).rollouts(trace_of(output_tokens=[5, 6], reward=[1.0, float("nan")]), 0)
    assert np.isnan(made.table.column("reward").to_numpy()).tolist() == [False, True]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("cosine:window=0", "whole number from 1"),
        ("cosine:exceed=inf", "number from"),
        ("cosine:ngram=0", "whole number from 1 to 1000"),
        ("cosine:margin=-1", "whole number from 0"),
        ("cosine:penalty=x", "number from"),
        ("cosine:rightstart=2", "use window=, right_start="),
    ],
)
def test_what_cannot_be_is_refused(spec: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        resolve_transform(spec)


def test_an_answer_longer_than_the_window_is_named() -> None:
    with pytest.raises(InputError, match=r"row 1 has 30 tokens, more than the window of 20"):
        Cosine(20).rollouts(trace_of(output_tokens=[5, 30], reward=[1, 0]), 0)
