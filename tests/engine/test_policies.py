"""What the engine shows a policy, and what it refuses to take from one."""

import random
from typing import Any

import numpy as np
import pytest

from simulator.budgets.policy import TablePolicy, by_live
from simulator.budgets.view import BatchView
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.limits import Dispatch
from tests.engine.workloads import (
    Hidden,
    affine_pair,
    assert_equal,
    assert_same,
    random_cost,
    random_rollout,
    random_table,
    workload_of,
)
from tests.reference import engine as reference
from tests.reference import policies
from tests.reference.engine import Rollout, View
from traces.errors import InputError

UNIT, UNIT_REFERENCE = affine_pair(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def rollouts_of(seed: int, n: int = 10) -> list[Rollout]:
    rng = random.Random(seed)
    return [random_rollout(rng, rng.randint(0, 9), rng.randint(1, 30)) for _ in range(n)]


@pytest.mark.parametrize("seed", range(25))
def test_a_table_gives_the_same_bits_compiled_and_asked_in_python(seed: int) -> None:
    rng = random.Random(seed)
    rollouts, slots = rollouts_of(seed, 14), rng.randint(1, 6)
    cost, _ = random_cost(rng)
    table, prompt, _ = random_table(rng, len(rollouts), slots)
    dispatch: Dispatch = "shared" if seed % 2 else "static"
    compiled, asked = (
        simulate(workload_of(rollouts, prompt), policy, Deployment(cost, slots, 1 + seed % 3, dispatch))
        for policy in (table, Hidden(table))
    )
    assert_equal(compiled, asked)


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 6])
def test_a_policy_sees_what_happened_so_far_and_nothing_more(seed: int) -> None:
    rollouts = rollouts_of(seed)
    seen: list[BatchView] = []
    expected: list[View] = []

    def spy(view: BatchView) -> list[int]:
        seen.append(view)
        return [3] * view.live

    def spy_reference(view: View) -> list[int]:
        expected.append(view)
        return [3] * view.live

    workload = workload_of(rollouts, np.arange(10) // 4)
    outcome = simulate(workload, spy, Deployment(UNIT, 4, placement="static"))
    result = reference.simulate(rollouts, UNIT_REFERENCE, spy_reference, 4, dispatch="static")
    steps = drafted = accepted = 0
    admitted_at = {rollout: i for i, view in reversed([*enumerate(expected)]) for rollout in view.rollouts}
    for i, (view, other, step) in enumerate(zip(seen, expected, result.steps, strict=True)):
        index = np.array(other.rollouts)
        assert (view.time_s, view.max_num_seqs, view.live) == (step.start_s, 4, other.live)
        assert view.waiting == sum(first > i for first in admitted_at.values())
        np.testing.assert_array_equal(view.prompt, workload.prompt[index])
        np.testing.assert_array_equal(view.sample, index)
        np.testing.assert_array_equal(view.prompt_tokens, other.prompt_tokens)
        np.testing.assert_array_equal(view.emitted_tokens, other.emitted_tokens)
        np.testing.assert_array_equal(view.decode_steps, i - np.array([admitted_at[r] for r in other.rollouts]))
        np.testing.assert_array_equal(view.emitted_tokens, view.decode_steps + view.accepted_tokens)
        np.testing.assert_array_equal(view.budget, np.where(view.decode_steps > 0, 3, 0))
        assert (view.drafted_tokens >= view.accepted_tokens).all()
        live = seen[i + 1 :] and set(expected[i + 1].rollouts)
        if live == set(other.rollouts):  # nobody left: what the step did shows in the next view
            after = seen[i + 1]
            drafted += int((after.drafted_tokens - view.drafted_tokens).sum()) - step.drafted_tokens
            accepted += int((after.accepted_tokens - view.accepted_tokens).sum()) - step.accepted_tokens
            steps += 1
    assert steps > 5
    assert (drafted, accepted) == (0, 0)
    assert_same(outcome, result)
    assert not set(dir(BatchView)) & {"output_tokens", "length", "remaining_tokens"}


def test_a_policy_cannot_write_into_the_engine() -> None:
    views: list[BatchView] = []
    simulate(workload_of(rollouts_of(1)), Hidden(lambda view: views.append(view) or 0), Deployment(UNIT, 3))
    for array in (views[3].seen, views[3].rollout, views[3].budget, views[3].drafted_tokens):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7
    with pytest.raises(AttributeError):
        views[3].time_s = 0.0  # type: ignore[misc]


def test_one_number_is_a_budget_for_all_and_numpy_integers_of_any_width_do() -> None:
    rollouts = rollouts_of(4)
    expected = simulate(workload_of(rollouts), by_live([5]), Deployment(UNIT, 4))
    for policy in (lambda view: 5, lambda view: np.full(view.live, 5, np.uint8), lambda view: np.int16(5)):
        outcome = simulate(workload_of(rollouts), policy, Deployment(UNIT, 4))
        assert_equal(outcome, expected)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda view: [1] * (view.live + 1), r"returned shape \(4,\) for 3 live sequences"),
        (lambda view: [], r"returned shape \(0,\)"),
        (lambda view: np.ones((view.live, 1), int), r"returned shape \(3, 1\)"),
        (lambda view: [1.0] * view.live, "returned float64 budgets: return whole numbers"),
        (lambda view: 2.5, "returned float64"),
        (lambda view: [True] * view.live, "returned bool"),
        (lambda view: None, "returned object"),
        (lambda view: ["3"] * view.live, "returned <U1"),
        (lambda view: [-1, 0, 0], "returned a budget of -1 to 0: stay within 0 to 255"),
        (lambda view: [0, 256, 1], "returned a budget of 0 to 256"),
        (lambda view: np.full(view.live, 2**63, np.uint64), "stay within"),
        (lambda view: 1 // (view.live - 3), "raised ZeroDivisionError"),
        (lambda view: [[1], [1, 2], 3], "returned lists of different lengths"),
    ],
)
def test_impossible_budgets_are_refused_in_one_line_that_names_the_policy(answer: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        simulate(workload_of(rollouts_of(2)), answer, Deployment(UNIT, 3))
    assert "<lambda>" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("budget", [-1, 256])
def test_impossible_budgets_in_a_table_are_refused(budget: int) -> None:
    with pytest.raises(InputError, match=str(budget)):
        by_live([budget])


@pytest.mark.parametrize(
    ("boundaries", "budgets", "rows"),
    [
        ([[9, 2]], [[[0], [1], [2]]], None),
        ([[-1]], [[[0], [1]]], None),
        ([[4]], [[[0]]], None),
        ([[4]], [[[0], [1]], [[0], [1]]], None),
        ([[4]], [[[0], [1]]], [0, 1]),
        ([[4]], [[[0], [1]]], [-1]),
    ],
)
def test_tables_that_cannot_be_looked_up_are_refused(boundaries: Any, budgets: Any, rows: Any) -> None:
    with pytest.raises(InputError):
        TablePolicy(np.array(boundaries), np.array(budgets), None if rows is None else np.array(rows))


def test_a_boundary_that_is_never_reached_may_be_the_largest_integer() -> None:
    rollouts = rollouts_of(3)
    never = TablePolicy(np.array([[np.iinfo(np.int64).max]]), np.array([[[3], [0]]]))
    outcome = simulate(workload_of(rollouts), never, Deployment(UNIT, 3), check=True)
    assert_same(outcome, reference.simulate(rollouts, UNIT_REFERENCE, policies.fixed(3), 3))


def test_what_a_rollout_emits_is_its_steps_and_its_accepted_drafts() -> None:
    rollouts = rollouts_of(8, 40)
    outcome = simulate(workload_of(rollouts), by_live([255]), Deployment(UNIT, 6, 2))
    ended = outcome.rollouts
    lost_bonus = ended["steps"] + ended["accepted"] - np.array([r.output_tokens for r in rollouts])
    assert set(lost_bonus.tolist()) <= {0, 1}
    assert (ended["accepted"] <= ended["drafted"]).all()
    emitted = sum(log["emitted_tokens"].sum() for log in outcome.logs)
    assert emitted == sum(r.output_tokens for r in rollouts)
    assert outcome.makespan_s == outcome.rollouts["finished_s"].max() == outcome.busy_s.max()
