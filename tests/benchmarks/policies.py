"""Every built-in policy in the engine, 256 live sequences on one replica: what asking it costs."""

import numpy as np

from simulator.budgets.context import Context
from simulator.budgets.policy import TablePolicy
from simulator.budgets.resolve import resolve_policy
from simulator.cost import load_profile
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from tests.benchmarks.engine import LIVE, workload
from tests.benchmarks.timing import median_s, row

POLICIES = (
    "none", "fixed:4", "unlimited", "threshold:4@128", "schedule:1-32=8,33-128=4,129-4096=2", "buckets:live=256",
    "classes", "das:budgets=0/4/8", "das:budgets=0/4/8,predictor=ema",
    "goodput", "aimd", "aimd:variant=double", "adaptive", "bandit:strategies=2/4/8/16,patience=0", "seer",
)  # fmt: skip


def main() -> None:
    """Print a row for each policy."""
    cost = load_profile("h100-llama-3.1-8b-published")
    large = workload(4096, 3000, 16_000)
    tokens = int(large.output_tokens.sum())
    past = np.random.default_rng(0).permutation(large.output_tokens)
    context = Context(1, np.zeros(past.size, np.int64), past, cost, LIVE, lambda: None)
    for spec in POLICIES:
        # a policy that learns is prepared afresh for every run, as for every RL step
        seconds = median_s(lambda spec=spec: simulate(large, resolve_policy(spec, context), Deployment(cost, LIVE)), 5)  # type: ignore[misc]
        table = isinstance(resolve_policy(spec, context), TablePolicy)
        speed = tokens / seconds / 1e6
        row(
            f"{LIVE} live, {spec}", speed, "M tokens/s", "≥ 150 M" if table else "≥ 30 M", "table" if table else "asked"
        )


if __name__ == "__main__":
    main()
