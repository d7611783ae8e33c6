"""TLT's published strategies at batch 1, after a fit of two coefficients (arXiv 2511.16665: Qwen2.5-32B, TP 4, H100, top-k 8).

Acceptance lengths are the paper's; the two coefficients are fitted to its speed-ups by least squares of relative errors; every
speed-up is then simulated, trees against plain decoding of the same rollouts. Reported against simulated: `pytest -s` on this.
At last the same without a fit, from the estimates that a user gets who names model and device.
"""

import numpy as np
import numpy.typing as npt
import pytest

from simulator.budgets.resolve import resolve_policy
from simulator.drafting.strategy import Strategy, geometric
from simulator.drafting.trees import ModelTrees
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from simulator.replay import run
from simulator.scenario import build
from tests.drafting.lengths import accepted_by, equal_rollouts
from tests.engine.workloads import context_of
from tests.theory.queues import affine

Float64 = npt.NDArray[np.float64]

TOPK = 8
VERIFY = (16, 32, 48, 64, 96, 128)
REPORTED = {  # by depth and tokens to verify: acceptance length, speed-up
    4: ((4.63, 4.74, 4.78, 4.81, 4.81, 4.82), (2.71, 2.67, 2.63, 2.60, 2.51, 2.40)),
    6: ((5.71, 6.08, 6.16, 6.31, 6.31, 6.36), (3.09, 3.16, 3.15, 3.17, 3.08, 2.94)),
    8: ((6.34, 7.01, 7.24, 7.39, 7.49, 7.51), (3.19, 3.40, 3.43, 3.47, 3.39, 3.29)),
    10: ((6.80, 7.63, 7.97, 8.21, 8.31, 8.39), (3.22, 3.46, 3.56, 3.62, 3.56, 3.46)),
    12: ((7.02, 8.05, 8.49, 8.76, 8.86, 9.06), (3.12, 3.47, 3.58, 3.66, 3.59, 3.54)),
    16: ((7.25, 8.44, 8.97, 9.23, 9.51, 9.78), (2.94, 3.26, 3.41, 3.48, 3.49, 3.45)),
}
DEPTHS = np.repeat(list(REPORTED), len(VERIFY)).astype(np.float64)
VERIFIED = np.tile(VERIFY, len(REPORTED)).astype(np.float64)
LENGTHS, SPEEDUPS = (np.array([row[i] for row in REPORTED.values()]).ravel() for i in (0, 1))
ONE = np.ones(DEPTHS.size)

ROLLOUTS, TOKENS = 5, 20_000
"""Of a strategy: about 12,000 decode steps, so that its mean acceptance length is known to 0.5 % (one standard error)."""

FITS: dict[str, tuple[list[Float64], float, float]] = {
    # what the cycle has beside one plain step, by coefficient; largest and mean error measured, rounded up
    "a pass, a verified token": ([0 * ONE, DEPTHS, VERIFIED], 0.18, 0.06),
    "a drafting step, a pass": ([ONE, DEPTHS, 0 * VERIFIED], 0.10, 0.04),
    "all three, for comparison": ([ONE, DEPTHS, VERIFIED], 0.03, 0.01),
}


def fitted(columns: list[Float64]) -> Float64:
    """Plain steps for each drafting step, pass and verified token: least squares of the cycle's relative error."""
    cycle = LENGTHS / SPEEDUPS
    system = np.stack(columns, axis=1) / cycle[:, None]
    found: Float64 = np.linalg.lstsq(system, (cycle - 1) / cycle, rcond=None)[0]
    return found


def simulated(depth: int, verify: int, length: float, per_step: float, per_pass: float, per_verified: float) -> float:
    """Speed-up of a tree strategy over plain decoding, one rollout at a time, a plain step lasting 1 s."""
    strategy = Strategy(depth, TOPK, verify, geometric(depth, TOPK, verify, length))
    drafter = ModelTrees("eagle", (strategy,), {"per_step_s": per_step, "per_pass_s": per_pass})
    trace, cost = equal_rollouts(ROLLOUTS, TOKENS), affine(constant=1.0 - per_verified, query_tokens=per_verified)
    load = Workload(
        trace.prompt.astype(np.int64), trace.sample.astype(np.int64), trace.prompt_tokens.astype(np.int64),
        trace.output_tokens.astype(np.int64), accepted_by(drafter, trace),
    )  # fmt: skip
    deployment = Deployment(cost, 1, draft_cost=drafter.cost, strategies=drafter.strategies)
    plain, drafting = (
        simulate(load, resolve_policy(policy, context_of(cost, 1)), deployment).makespan_s
        for policy in ("none", f"fixed:{verify}")
    )
    return plain / drafting


@pytest.mark.parametrize("name", FITS)
def test_published_speed_ups_after_a_fit_of_two_coefficients(name: str) -> None:
    columns, largest, mean = FITS[name]
    coefficients = fitted(columns)
    found = np.array(
        [
            simulated(int(depth), int(verify), length, *coefficients.tolist())
            for depth, verify, length in zip(DEPTHS, VERIFIED, LENGTHS, strict=True)
        ]
    )
    error = found / SPEEDUPS - 1
    print(
        f"\n{name}: {coefficients[0]:.3f} a drafting step, {coefficients[1]:.4f} a pass, {coefficients[2]:.5f} a verified token"
    )
    print("depth  reported -> simulated, by tokens to verify " + " ".join(map(str, VERIFY)))
    for depth in REPORTED:
        at = np.equal(DEPTHS, depth)
        cells = [f"{a:.2f} -> {b:.2f}" for a, b in zip(SPEEDUPS[at], found[at], strict=True)]
        print(f"{depth:5}  " + "   ".join(cells))
    best, reported_best = int(np.argmax(found)), int(np.argmax(SPEEDUPS))
    print(f"error: mean size {np.abs(error).mean():.1%}, largest {np.abs(error).max():.1%}; best strategy "
          f"{DEPTHS[best]:g}-{TOPK}-{VERIFIED[best]:g}, reported {DEPTHS[reported_best]:g}-{TOPK}-{VERIFIED[reported_best]:g}, "
          f"which loses {1 - SPEEDUPS[best] / SPEEDUPS[reported_best]:.1%}")  # fmt: skip
    assert np.abs(error).max() < largest
    assert np.abs(error).mean() < mean


def test_published_speed_ups_from_estimates_alone() -> None:
    """A model of the same shape, H100s by their data sheet, the head's passes estimated, the host as vLLM's was measured."""
    trace, errors = equal_rollouts(3, 4000), []
    print("\ndepth  reported -> estimated, by tokens to verify " + " ".join(map(str, VERIFY)))
    for depth, (lengths, speedups) in REPORTED.items():
        found = []
        for verify, length in zip(VERIFY, lengths, strict=True):
            shape = {"depth": depth, "topk": TOPK, "verify": verify, "accept_length": length}
            scenario = {"trace": "equal", "model": "deepseek-r1-distill-qwen-32b", "device": "h100", "tensor_parallel_size": 4,
                        "engine": {"max_num_seqs": 1}, "policies": ["none", f"fixed:{verify}"],
                        "drafter": {"kind": "eagle", "strategies": [shape]}}  # fmt: skip
            found.append(run(build(scenario), trace).runs["speedup"][1].as_py())
        errors += (np.array(found) / speedups - 1).tolist()
        print(f"{depth:5}  " + "   ".join(f"{a:.2f} -> {b:.2f}" for a, b in zip(speedups, found, strict=True)))
    sizes = np.abs(errors)
    print(f"error: mean size {sizes.mean():.1%}, largest {sizes.max():.1%}")
    assert sizes.mean() < 0.14
    assert sizes.max() < 0.33
