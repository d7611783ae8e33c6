"""The engine: replay from acceptance tables at 256 live sequences, against the plain reference simulator."""

from itertools import pairwise

import numpy as np

from simulator.budgets.policy import by_live
from simulator.cost import load_profile
from simulator.drafting.acceptance import Acceptance
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.fleet import Fleet
from simulator.engine.replica import Ledger, Replica
from simulator.engine.state import POOL
from simulator.engine.workload import Workload
from simulator.records import Pointing
from tests.benchmarks.timing import median_s, row
from tests.reference import engine as reference
from tests.reference.cost import affine
from tests.reference.policies import fixed

SEED = 0
LIVE = 256


def workload(rollouts: int, median_tokens: float, longest: int) -> Workload:
    """Lognormal lengths; of up to 12 drafts a geometric number, mean 1.5, is accepted, as suffix drafting finds in RL."""
    rng = np.random.default_rng(SEED)
    lengths = np.clip(rng.lognormal(np.log(median_tokens), 0.8, rollouts), 1, longest).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    n = int(offsets[-1])
    left = np.minimum(np.repeat(offsets[1:], lengths) - np.arange(n), 255)
    accepted = np.minimum(np.minimum(rng.geometric(0.4, n) - 1, 16), left)
    drafted = np.minimum(np.maximum(accepted, rng.integers(0, 13, n)), left)
    table = np.stack([accepted, drafted], axis=1).astype(np.uint8)
    acceptance = Acceptance(offsets, lambda budget: table, prefix=True)
    zero = np.zeros(rollouts, np.int64)
    return Workload(zero, zero, zero + 200, lengths, acceptance)


def kernel_alone(load: Workload, budget: int) -> None:
    """Decode the workload on one replica without SimPy."""
    policy = by_live([budget])
    replica = Replica(
        0,
        load,
        Ledger(load, policy),
        policy,
        Deployment(load_profile("h100-llama-3.1-8b-published"), LIVE),
        Pointing(POOL),
    )
    replica.enqueue(np.arange(len(load)))
    Fleet([replica]).go_ahead()


def main() -> None:
    """Print the engine's rows."""
    cost = load_profile("h100-llama-3.1-8b-published")
    large = workload(4096, 3000, 16_000)
    tokens = int(large.output_tokens.sum())
    for name, budget, target in (("fixed:4", 4, "≥ 300 M"), ("unlimited", 255, "≥ 300 M"), ("none", 0, "")):
        speed = tokens / median_s(lambda budget=budget: kernel_alone(large, budget))  # type: ignore[misc]
        row(f"kernel, {LIVE} live, {name}", speed / 1e6, "M tokens/s", target, f"{tokens / 1e6:.1f} M tokens")
    whole = tokens / median_s(lambda: simulate(large, by_live([4]), Deployment(cost, LIVE, 8, "shared")))
    row("SimPy stack, 8 replicas, shared queue, fixed:4", whole / 1e6, "M tokens/s", "≥ 150 M", "")

    small = workload(256, 200, 1000)
    table, ends = small.acceptance.tables[0], small.acceptance.offsets
    plain = [
        reference.Rollout(200, int(b - a), table[a:b, 0].tolist(), table[a:b, 1].tolist()) for a, b in pairwise(ends)
    ]
    price = affine(7.093e-3, query=2.101e-5, kv=3.926e-8)
    slow_s = median_s(lambda: reference.simulate(plain, price, fixed(4), LIVE), 3)
    slow = int(small.output_tokens.sum()) / slow_s
    row("plain reference simulator, fixed:4", slow / 1e6, "M tokens/s", "baseline", "one SimPy process per rollout")
    row("SimPy stack / reference", whole / slow, "x", "≥ 100 x", "")
