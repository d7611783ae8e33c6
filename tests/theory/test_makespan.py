"""What holds of any makespan: the maximum of exponentials, bounds of list scheduling, and scaling of costs."""

import math

import numpy as np
import pytest

from simulator.budgets.policy import by_live
from simulator.cost import Profile
from simulator.engine.cluster import Outcome
from simulator.limits import Dispatch
from tests.engine.workloads import assert_equal
from tests.theory.queues import UNIT, Int64, affine, iid_workload, lengths_only, run

COSTS: dict[str, Profile] = {
    "unit": UNIT,
    "published H100": affine(constant=7.093e-3, query_tokens=2.101e-5, kv_tokens=3.926e-8),
    "every term": affine(constant=1e-3, live=3e-5, query_tokens=7e-6, kv_tokens=1e-8, pairs=3e-10, prefill_tokens=1e-6),
}


def random_lengths(seed: int, n: int = 60, mean: float = 40.0) -> Int64:
    return np.ceil(np.random.default_rng(seed).exponential(mean, n)).astype(np.int64)


def assert_bits(one: Outcome, other: Outcome, factor: float = 1.0) -> None:
    assert_equal(one, other, factor)
    assert one.makespan_s * factor == other.makespan_s


@pytest.mark.parametrize("n", [1, 8, 64, 256])
def test_makespan_of_exponential_rollouts_grows_with_the_harmonic_number(n: int) -> None:
    # Lengths are rounded up, so the longest of n has mean * H_n + 1/2 tokens, to 1 / (12 mean).
    mean, replications = 300.0, 400
    makespans = [
        run(lengths_only(random_lengths(seed, n, mean)), UNIT, slots=n).makespan_s for seed in range(replications)
    ]
    harmonic = sum(1 / i for i in range(1, n + 1))
    deviation = mean * math.sqrt(sum(1 / i**2 for i in range(1, n + 1)))  # of the largest of n exponentials
    z = (np.mean(makespans) - (mean * harmonic + 0.5)) / (deviation / math.sqrt(replications))
    assert abs(z) < 4
    spread = np.std(makespans, ddof=1) / deviation
    assert spread == pytest.approx(1, abs=0.3), "and its spread; 4 standard errors of it are 0.3 at most"


@pytest.mark.parametrize("seed", range(10))
def test_without_speculation_no_slot_is_idle_while_rollouts_wait(seed: int) -> None:
    lengths = random_lengths(seed)
    for slots in (1, 2, 3, 7, 20, 60):
        makespan = run(lengths_only(lengths), UNIT, slots=slots).makespan_s
        assert makespan >= max(lengths.max(), math.ceil(lengths.sum() / slots))
        assert makespan <= lengths.sum() / slots + (1 - 1 / slots) * lengths.max()  # Graham 1966
    assert run(lengths_only(lengths), UNIT, slots=1).makespan_s == lengths.sum()
    assert run(lengths_only(lengths), UNIT, slots=60).makespan_s == lengths.max()


@pytest.mark.parametrize("seed", range(10))
def test_more_slots_are_never_slower_at_unit_cost(seed: int) -> None:
    workload = lengths_only(random_lengths(seed))
    makespans = [run(workload, UNIT, slots=slots).makespan_s for slots in range(1, 62)]
    assert makespans == sorted(makespans, reverse=True)
    assert makespans[-2] == makespans[-1]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("replicas", "slots"), [(2, 3), (3, 2), (6, 1)])
def test_at_unit_cost_only_the_number_of_slots_matters(seed: int, replicas: int, slots: int) -> None:
    workload = iid_workload(0.6, random_lengths(seed), seed)
    for policy in ("none", "fixed:3"):
        one = run(workload, UNIT, policy, slots=replicas * slots)
        many = run(workload, UNIT, policy, slots=slots, replicas=replicas)
        assert one.makespan_s == many.makespan_s
        assert sorted(one.rollouts["finished_s"]) == sorted(many.rollouts["finished_s"])


@pytest.mark.parametrize("cost", COSTS.values(), ids=list(COSTS))
@pytest.mark.parametrize("dispatch", ["shared", "static"])
def test_a_budget_of_zero_is_no_speculation_bit_for_bit(cost: Profile, dispatch: Dispatch) -> None:
    workload = iid_workload(0.7, random_lengths(2), 2, prompt_tokens=11)
    none = run(workload, cost, "none", 4, 3, dispatch)
    for policy in ("fixed:0", "threshold:0@9", by_live([0, 0, 0]), lambda view: [0] * view.live):
        assert_bits(none, run(workload, cost, policy, 4, 3, dispatch))


@pytest.mark.parametrize("cost", COSTS.values(), ids=list(COSTS))
@pytest.mark.parametrize("factor", [2.0, 0.5, 1024.0])
def test_scaling_every_cost_scales_every_time_exactly(cost: Profile, factor: float) -> None:
    workload = iid_workload(0.7, random_lengths(3), 3, prompt_tokens=5)
    for policy in ("none", "fixed:4", "threshold:6@3", "unlimited"):
        assert_bits(run(workload, cost, policy, 5, 2), run(workload, cost.scaled(factor), policy, 5, 2), factor)


def test_perfect_drafts_divide_the_steps_by_budget_plus_one() -> None:
    workload = iid_workload(0.0, np.array([1000]), 0)
    perfect = workload.acceptance.tables
    perfect[0, :, 0] = perfect[0, :, 1]
    for g in (0, 1, 3, 8, 254):
        assert run(workload, UNIT, f"fixed:{g}").makespan_s == 1 + math.ceil(999 / (g + 1))


def test_drafts_that_never_match_cost_their_verification_and_nothing_else() -> None:
    lengths = random_lengths(5)
    workload = iid_workload(0.0, lengths, 5)
    assert run(workload, UNIT, "fixed:4", slots=9).makespan_s == run(workload, UNIT, slots=9).makespan_s
    cost = affine(constant=1.0, query_tokens=0.125)
    none, wasted = run(workload, cost, slots=9), run(workload, cost, "fixed:4", slots=9)
    drafted = int(wasted.rollouts["drafted"].sum())
    assert drafted == sum(min(4, length - p) for length in lengths for p in range(1, length))
    assert wasted.busy_s[0] == none.busy_s[0] + 0.125 * drafted
