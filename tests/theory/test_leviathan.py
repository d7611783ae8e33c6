"""Speculative decoding with i.i.d. acceptance, against its closed forms (Leviathan et al., arXiv 2211.17192)."""

import math

import numpy as np
import pytest

from simulator.drafting.acceptance import count_at
from tests.theory.queues import affine, iid_workload, run

TOKENS = 400_000


def emitted(a: float, g: int) -> tuple[float, float]:
    """(mean, standard deviation) of the tokens emitted in a decode step: 1 + min(G, g), P(G >= j) = a^j."""
    probability = [a**j * (1 - a) for j in range(g)] + [a**g]
    mean = sum((j + 1) * p for j, p in enumerate(probability))
    assert mean == pytest.approx((1 - a ** (g + 1)) / (1 - a))  # Theorem 3.8 and Eq. 1
    return mean, math.sqrt(sum((j + 1) ** 2 * p for j, p in enumerate(probability)) - mean**2)


def relative_error_of_steps(a: float, g: int) -> float:
    """Standard deviation of the number of decode steps in TOKENS tokens, relative to it (renewal theory)."""
    mean, deviation = emitted(a, g)
    return deviation / mean / math.sqrt(TOKENS / mean)


@pytest.mark.parametrize("a", [0.0, 0.3, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("g", [1, 2, 5, 20])
def test_mean_acceptance_length_is_the_truncated_geometric_mean(a: float, g: int) -> None:
    # The end of the one rollout and its first step without a draft are worth less than g + 1 of the steps.
    workload = iid_workload(a, np.array([TOKENS]), seed=int(100 * a) + g)
    counts = count_at(workload.acceptance, g)
    mean, _ = emitted(a, g)
    edge = (g + 1) * mean / TOKENS
    assert abs(counts.mean_acceptance_length / mean - 1) < 4 * relative_error_of_steps(a, g) + edge
    through_engine = run(workload, affine(constant=1.0), f"fixed:{g}")
    assert abs(TOKENS / through_engine.makespan_s / mean - 1) < 4 * relative_error_of_steps(a, g) + edge


@pytest.mark.parametrize(
    ("a", "g", "operations", "speed"),
    [(0.6, 2, 1.53, 1.96), (0.7, 3, 1.58, 2.53), (0.8, 5, 1.63, 3.69), (0.9, 10, 1.60, 6.86)],
)
@pytest.mark.parametrize("c", [0.0, 1 / 64, 1 / 8])
def test_operations_and_walltime_are_those_of_the_published_table(
    a: float, g: int, operations: float, speed: float, c: float
) -> None:
    # A step of q query tokens lasts (1 - c) + c q: 1 without drafts and 1 + c g with g of them.
    workload = iid_workload(a, np.array([TOKENS]), seed=g)
    cost = affine(constant=1 - c, query_tokens=c)
    plain, speculating = run(workload, cost), run(workload, cost, f"fixed:{g}")
    assert plain.makespan_s == TOKENS
    tolerance = 4 * relative_error_of_steps(a, g) + (g + 1) * g / TOKENS
    mean, _ = emitted(a, g)
    assert plain.makespan_s / speculating.makespan_s == pytest.approx(mean / (1 + g * c), rel=tolerance)
    query = speculating.logs[0]["query_tokens"].sum()
    assert query / TOKENS == pytest.approx((g + 1) / mean, rel=tolerance)
    if c == 0:  # the table's own digits
        assert query / TOKENS == pytest.approx(operations, rel=tolerance, abs=0.005)
        assert plain.makespan_s / speculating.makespan_s == pytest.approx(speed, rel=tolerance, abs=0.005)


@pytest.mark.parametrize("a", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("c", [0.0625, 0.25, 0.375, 0.625, 0.8125])
def test_speculation_improves_exactly_where_acceptance_exceeds_the_cost_of_a_draft(a: float, c: float) -> None:
    # Corollary 3.9. (1 + a) / (1 + c) is 3.5 % from 1 or more, over 15 standard deviations.
    workload = iid_workload(a, np.array([TOKENS // 8]), seed=1)
    cost = affine(constant=1 - c, query_tokens=c)
    plain = run(workload, cost).makespan_s
    faster = [run(workload, cost, f"fixed:{g}").makespan_s < plain for g in (1, 2, 4, 8)]
    assert faster[0] == (a > c)
    if a < c:
        assert not any(faster)
