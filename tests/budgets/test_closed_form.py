"""The optimum of DAS's objective against golden section, random search and the paper's own check numbers."""

import math
import random

import numpy as np
import numpy.typing as npt
import pytest

from simulator.budgets.closed_form import accepted, drafts_for, fit, objective, optimum
from tests.benchmarks.closed_form import INSTANCES, achieved, instances
from tests.reference import policies

Float64 = npt.NDArray[np.float64]


def random_rollouts(seed: int, capacity: float | None = None) -> tuple[Float64, Float64, Float64, float, float]:
    """(length, k, alpha, c_base, c_tok) of up to 20 rollouts, costs such that the optimum is often inside."""
    rng = random.Random(seed)
    n = rng.randint(1, 20)
    length = np.array([rng.choice((100.0, math.ceil(rng.expovariate(1 / 3000)) + 1.0)) for _ in range(n)])
    k = np.array([capacity or rng.uniform(0.2, 1.0) for _ in range(n)])
    alpha = np.array([10 ** rng.uniform(-1, 0.7) for _ in range(n)])
    return length, k, alpha, 10 ** rng.uniform(-1, 2.5), 1.0


@pytest.mark.parametrize("seed", range(150))
def test_optimum_is_the_one_that_golden_section_finds(seed: int) -> None:
    length, k, alpha, c_base, c_tok = random_rollouts(seed)
    n_fwd, p = optimum(length, k, alpha, c_base, c_tok)
    expected, p_expected, least = policies.optimum(length, alpha, k, c_base, c_tok)
    assert n_fwd == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(
        p, [policies.drafted_for(n_fwd, *r) for r in zip(length, alpha, k, strict=True)], rtol=1e-6
    )
    assert objective(p, length, k, alpha, c_base, c_tok) <= least * (1 + 1e-9)
    assert p.sum() == pytest.approx(sum(p_expected), rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("seed", range(10))
def test_no_random_allocation_is_better(seed: int) -> None:
    length, k, alpha, c_base, c_tok = random_rollouts(1000 + seed)
    _, p = optimum(length, k, alpha, c_base, c_tok)
    least = objective(p, length, k, alpha, c_base, c_tok)
    rng = np.random.default_rng(seed)
    near = p * rng.lognormal(0, rng.uniform(1e-3, 1, (5000, 1)), (5000, p.size))
    anywhere = length / alpha * rng.exponential(rng.uniform(0, 3, (5000, 1)), (5000, p.size))
    allocations = np.concatenate([near, anywhere])
    passes = (length - accepted(allocations, length, k, alpha)).max(axis=1)
    assert (c_base * passes + c_tok * allocations.sum(axis=1)).min() >= least * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_printed_and_corrected_coincide_where_everything_can_be_accepted(seed: int) -> None:
    length, k, alpha, c_base, c_tok = random_rollouts(seed, capacity=1.0)
    corrected, printed = (optimum(length, k, alpha, c_base, c_tok, form) for form in ("corrected", "printed"))
    assert corrected[0] == printed[0]
    np.testing.assert_allclose(corrected[1], printed[1], rtol=1e-12)


def test_printed_form_misses_its_target_and_corrected_reaches_it() -> None:
    length, k, alpha = np.array([10_000.0]), np.array([0.8]), np.array([1.0])
    printed, corrected = (drafts_for(3000.0, length, k, alpha, form) for form in ("printed", "corrected"))
    assert (round(printed[0]), round(corrected[0])) == (8210, 20_794)
    assert length - accepted(printed, length, k, alpha) == pytest.approx(5520, abs=0.5)
    assert length - accepted(corrected, length, k, alpha) == pytest.approx(3000)


def test_of_1000_random_batches_the_corrected_form_reaches_its_target_and_the_printed_one_does_not() -> None:
    found = instances()
    assert len(found) == INSTANCES == 1000
    reached: dict[str, list[float]] = {"corrected": [], "printed": []}
    for length, k, alpha, c_base in found:
        for form, ratios in reached.items():
            target, drafts = optimum(length, k, alpha, c_base, 1.0, form)  # type: ignore[arg-type]
            ratios.append(policies.achieved_steps(drafts, length, alpha, k) / target)
    np.testing.assert_allclose(reached["corrected"], 1.0, rtol=1e-6)
    assert min(reached["printed"]) > 1.0, "k < 1: too few drafts, always"
    assert np.median(reached["printed"]) == pytest.approx(1.677, abs=5e-4), "the table in docs/policies/das.md"
    for one, ratio in zip(found[:50], reached["printed"], strict=False):
        assert achieved(one, "printed")[0] == pytest.approx(ratio, rel=1e-12)
        assert achieved(one, "printed")[1] > 1.0


def test_optimum_of_one_rollout_by_hand() -> None:
    # c_base = c_tok / (alpha (k - 1 + N/l)): N = l (1 - k + c_tok / (alpha c_base)).
    length, k, alpha = np.array([10_000.0]), np.array([0.8]), np.array([1.0])
    assert optimum(length, k, alpha, 10.0, 1.0)[0] == pytest.approx(3000)
    n_fwd, p = optimum(length, k, alpha, 1.0, 1.0)  # the first pass saved costs 1.25 drafts: too dear
    assert (n_fwd, p.tolist()) == (10_000.0, [0.0])
    n_fwd, p = optimum(length, k, alpha, 1e12, 1.0)  # cheap enough for all that can be saved
    assert n_fwd == pytest.approx(2000, rel=1e-6)
    assert np.isfinite(p).all()


@pytest.mark.parametrize(("k", "alpha"), [(0.3, 0.5), (0.8, 1.0), (0.6, 3.0), (1.0, 0.2), (0.95, 8.0)])
def test_fit_recovers_capacity_and_efficiency(k: float, alpha: float) -> None:
    rng = np.random.default_rng(7)
    length = np.ceil(rng.exponential(3000, 400)) + 200
    drafted = length / alpha * rng.uniform(0.05, 4, 400)
    exact = accepted(drafted, length, k, alpha)
    found = fit(drafted, exact, length)
    assert (found.k, found.alpha) == (pytest.approx(k, rel=1e-3), pytest.approx(alpha, rel=1e-3))
    assert found.r2 == pytest.approx(1, abs=1e-6)
    noise = 0.02
    found = fit(drafted, exact + noise * length * rng.standard_normal(400), length)
    # 400 points at 2 % noise: capacity is the plateau's mean, alpha the slope over a few dozen points.
    assert (found.k, found.alpha) == (pytest.approx(k, abs=0.02), pytest.approx(alpha, rel=0.06))
    assert found.rmse == pytest.approx(noise, rel=0.15)


def test_fit_of_nothing_accepted_or_nothing_drafted_stays_finite() -> None:
    length = np.full(20, 100.0)
    for drafted in (np.zeros(20), np.full(20, 300.0)):
        found = fit(drafted, np.zeros(20), length)
        assert 0 < found.k <= 1
        assert 0 < found.alpha < np.inf
        assert found.rmse < 0.01 or not drafted.any()
