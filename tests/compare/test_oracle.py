"""The oracle: never slower than what it can imitate, nothing drafted in vain, and labelled."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.budgets.policy import TablePolicy, by_live
from simulator.compare.oracle import CAPS, _marginal, oracle
from simulator.compare.regret import Scale
from simulator.cost.draft_cost import DraftCost, Forward
from simulator.cost.operators import Affine, row
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.limits import Dispatch
from tests.compare.batches import batch, profile
from tests.engine.workloads import random_cost, random_rollout, workload_of


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    output_tokens=st.lists(st.integers(1, 40), min_size=1, max_size=14),
    slots=st.integers(1, 8),
    replicas=st.integers(1, 3),
    dispatch=st.sampled_from(["shared", "static"]),
)
def test_it_is_never_slower_than_the_same_without_waste(
    seed: int, output_tokens: list[int], slots: int, replicas: int, dispatch: Dispatch
) -> None:
    rng = random.Random(seed)
    cost = random_cost(rng)[0]
    rollouts = [random_rollout(rng, rng.choice((0, 4)), length) for length in output_tokens]
    workload = workload_of(rollouts)
    clairvoyant = simulate(
        workload,
        oracle(workload, Deployment(cost, slots, replicas, dispatch)),
        Deployment(cost, slots, replicas, dispatch),
    )
    assert (
        clairvoyant.makespan_s
        <= simulate(workload, by_live([0]), Deployment(cost, slots, replicas, dispatch)).makespan_s
    )
    ended = clairvoyant.rollouts
    assert (ended["drafted"] - ended["accepted"] <= 1).all(), "a last draft may complete the rollout: no bonus token"
    if replicas == 1:  # elsewhere less work can reach the shared queue in another order
        for budget in CAPS:
            assert clairvoyant.makespan_s <= simulate(
                workload, by_live([budget]), Deployment(cost, slots)
            ).makespan_s * (1 + 1e-12)


@pytest.mark.parametrize("by_budget", [False, True])
@pytest.mark.parametrize("slots", [4, 64])
def test_it_beats_every_table_on_a_long_tail(slots: int, by_budget: bool) -> None:
    rng = random.Random(slots)
    rollouts = [random_rollout(rng, 9, int(20 * rng.paretovariate(1.2)), by_budget) for _ in range(40)]
    workload, cost = workload_of(rollouts), profile()
    others = [
        simulate(workload, by_live(table), Deployment(cost, slots)).makespan_s
        for table in ([0], [1], [3], [8], [255], [8] * 9 + [0], [255] * 17 + [1])
    ]
    assert simulate(workload, oracle(workload, Deployment(cost, slots)), Deployment(cost, slots)).makespan_s < min(
        others
    )


@pytest.mark.parametrize(
    "dear", [DraftCost(per_pass_s=1.0), DraftCost(forward=Forward(profile(Affine("pass", row(constant=1.0)))))]
)
def test_a_dear_drafter_is_left_alone(dear: DraftCost) -> None:
    workload, cost = batch(1, 10), profile()
    clairvoyant = oracle(workload, Deployment(cost, 8, draft_cost=dear))
    none_s = simulate(workload, by_live([0]), Deployment(cost, 8)).makespan_s
    assert simulate(workload, clairvoyant, Deployment(cost, 8, draft_cost=dear)).makespan_s == none_s


def test_drafts_that_pay_only_in_small_batches_wait_for_them() -> None:
    workload, cost = batch(1, 16), profile()
    per_token = DraftCost(per_drafted_token_s=2e-3)
    clairvoyant = oracle(workload, Deployment(cost, 64, draft_cost=per_token))
    assert 1 < clairvoyant.most_live < 16, "a pass of 7 ms is worth three or four drafts"
    none_s = simulate(workload, by_live([0]), Deployment(cost, 64)).makespan_s
    assert simulate(workload, clairvoyant, Deployment(cost, 64, draft_cost=per_token)).makespan_s < none_s


def test_it_says_that_it_is_one() -> None:
    clairvoyant = oracle(batch(1, 4), Deployment(profile(), 8))
    assert clairvoyant.facts["oracle"] is True
    assert not isinstance(clairvoyant, TablePolicy)


def test_regret_is_the_share_of_the_gap() -> None:
    scale = Scale(none_s=10.0, oracle_s=6.0, bound_s=5.0)
    assert [scale.closed(s) for s in (10.0, 5.0, 7.5, 12.0)] == [0.0, 1.0, 0.5, pytest.approx(-0.4)]
    assert scale.closed_of_oracle(7.0) == 0.75
    assert np.isnan(Scale(10.0, float("nan"), 10.0).closed(9.0))
    assert np.isnan(Scale(10.0, float("nan"), 5.0).closed_of_oracle(9.0))


def test_passes_by_operators_are_weighed_as_those_at_a_rate() -> None:
    workload, cost = batch(1, 6), profile()
    passes = profile(Affine("pass", row(constant=4e-3)))
    by_rate, by_operator, free = (
        _marginal(workload, Deployment(cost, 4, draft_cost=draft), 1.0).tolist()
        for draft in (DraftCost(per_pass_s=4e-3), DraftCost(forward=Forward(passes)), DraftCost())
    )
    assert by_operator == by_rate != free
