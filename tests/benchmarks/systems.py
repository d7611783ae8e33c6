"""Placements that act as things happen: divided stays with moves, and a router under light load and under overload."""

import numpy as np

from simulator.budgets.policy import by_live
from simulator.cost import load_profile
from simulator.drafting.acceptance import Acceptance
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from tests.benchmarks.engine import LIVE, SEED, workload
from tests.benchmarks.timing import median_s, row

ARRIVALS, REPLICAS = 100_000, 8


def arriving(mean_gap_s: float) -> Workload:
    """Short requests that arrive as they please."""
    rng = np.random.default_rng(SEED)
    lengths = rng.integers(1, 40, ARRIVALS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    nothing = Acceptance(offsets, lambda budget: np.zeros((int(offsets[-1]), 2), np.uint8), prefix=True)
    zero = np.zeros(ARRIVALS, np.int64)
    arrival_s = np.cumsum(rng.exponential(mean_gap_s, ARRIVALS))
    return Workload(zero, np.arange(ARRIVALS), zero + 100, lengths, nothing, arrival_s=arrival_s)


def main() -> None:
    cost = load_profile("h100-llama-3.1-8b-published")
    large = workload(4096, 3000, 16_000)
    tokens = int(large.output_tokens.sum())
    policy = by_live([4])
    for placement, target in (("shared", "baseline"), ("divided:stay=2048", "≥ 60 M"), ("context:stay=2048", "≥ 15 M")):
        deployment = Deployment(cost, LIVE, REPLICAS, placement)
        seconds = median_s(lambda deployment=deployment: simulate(large, policy, deployment))  # type: ignore[misc]
        row(f"{placement}, {REPLICAS} replicas, fixed:4", tokens / seconds / 1e6, "M tokens/s", target)
    routed = Deployment(cost, 64, REPLICAS, "least_loaded")
    for name, gap_s in (("light load", 2e-3), ("overload", 2e-4)):
        load = arriving(gap_s)
        seconds = median_s(lambda load=load: simulate(load, by_live([0]), routed), 3)  # type: ignore[misc]
        row(f"{ARRIVALS:,} arrivals routed by load, {name}", seconds, "s", "≤ 3 s")


if __name__ == "__main__":
    main()
