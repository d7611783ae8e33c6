"""Length classes against their definition, rollout by rollout and token by token."""

import random

import numpy as np
import pytest

from simulator.budgets.classes import Thresholds, initial_rows, upgrade_points
from simulator.budgets.policy import TablePolicy, by_live
from simulator.budgets.view import BatchView, Requests
from tests.reference import policies


def random_history(rng: random.Random) -> tuple[np.ndarray, np.ndarray, Thresholds, int]:
    """(prompt, length, thresholds, number of prompts), ties and empty rows included."""
    n_prompts, longest = rng.randint(1, 8), rng.choice((4, 12, 40))
    n = rng.randint(0, 30)
    short = rng.randint(1, longest)
    thresholds = Thresholds(short, rng.randint(short, longest + 3))
    prompt = np.array([rng.randrange(n_prompts) for _ in range(n)], np.int64)
    return prompt, np.array([rng.randint(1, longest) for _ in range(n)], np.int64), thresholds, n_prompts


@pytest.mark.parametrize("seed", range(200))
def test_upgrade_points_are_where_the_likeliest_class_of_the_survivors_rises(seed: int) -> None:
    prompt, lengths, thresholds, n_prompts = random_history(random.Random(seed))
    row_of_prompt = initial_rows(prompt, lengths, n_prompts, thresholds)
    points = upgrade_points(row_of_prompt[prompt], lengths, thresholds)
    row_lengths = [lengths[row_of_prompt[prompt] == row].tolist() for row in range(3)] + [lengths.tolist()]
    table = policies.survival_class(row_lengths, (thresholds.short, thresholds.long))
    for row, classes in enumerate(table):
        for t in range(len(classes) + 45):
            # Without past rollouts of the row, the tokens so far are all there is to go by.
            by_history = classes[min(t, len(classes) - 1)]
            by_tokens = policies.final_class(t, (thresholds.short, thresholds.long))
            assert (points[row] <= t).sum() == (by_history if row_lengths[row] else by_tokens), (row, t)
    assert (np.diff(points, axis=1) >= 0).all()


@pytest.mark.parametrize("seed", range(60))
def test_init_is_the_class_most_past_rollouts_of_the_prompt_ended_in(seed: int) -> None:
    prompt, lengths, thresholds, n_prompts = random_history(random.Random(1000 + seed))
    for number, row in enumerate(initial_rows(prompt, lengths, n_prompts, thresholds)):
        past = lengths[prompt == number]
        classes = [policies.final_class(length, (thresholds.short, thresholds.long)) for length in past]
        assert row == (max((2, 1, 0), key=classes.count) if classes else 3)


def test_thresholds_belong_to_the_longer_class() -> None:
    assert Thresholds(5, 9).classes([1, 4, 5, 8, 9, 90]).tolist() == [0, 0, 1, 1, 2, 2]
    assert Thresholds(5, 5).classes([4, 5]).tolist() == [0, 2]


def view(prompt: list[int], emitted: list[int]) -> BatchView:
    zeros = np.zeros(len(prompt), np.int64)
    numbers = np.arange(len(prompt))
    seen = np.stack([numbers, np.array(emitted), zeros, zeros, zeros, zeros])
    return BatchView(0, 0.0, 64, 0, 0, seen, Requests(np.array(prompt), zeros, zeros))


@pytest.mark.parametrize("seed", range(40))
def test_calling_a_table_looks_it_up(seed: int) -> None:
    rng = random.Random(seed)
    rows, stages, width = rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 9)
    boundaries = [sorted(rng.randint(0, 12) for _ in range(stages - 1)) for _ in range(rows)]
    budgets = [[[rng.randint(0, 255) for _ in range(width)] for _ in range(stages)] for _ in range(rows)]
    row_of_prompt = [rng.randrange(rows) for _ in range(6)]
    policy = TablePolicy(
        np.array(boundaries, np.int64).reshape(rows, stages - 1), np.array(budgets), np.array(row_of_prompt)
    )
    for live in range(1, 13):
        prompt = [rng.randrange(6) for _ in range(live)]
        emitted = [rng.randint(0, 14) for _ in range(live)]
        expected = []
        for one, tokens in zip(prompt, emitted, strict=True):
            row = row_of_prompt[one]
            stage = sum(boundary <= tokens for boundary in boundaries[row])
            expected.append(budgets[row][stage][min(live, width - 1)])
        assert policy(view(prompt, emitted)).tolist() == expected


def test_by_live_holds_its_last_budget_beyond() -> None:
    policy = by_live([9, 7, 3])
    assert [policy(view([0] * live, [5] * live)).tolist() for live in (1, 2, 3)] == [[7], [3, 3], [3, 3, 3]]
