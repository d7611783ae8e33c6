"""Placements and loops that act as things happen: divided stays with moves, a router, and RL steps that are watched."""

import numpy as np
import pyarrow as pa

from simulator.budgets.policy import by_live
from simulator.cost import load_profile
from simulator.drafting.acceptance import Acceptance
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from simulator.replay import run
from simulator.scenario import build
from tests.benchmarks.engine import LIVE, SEED, workload
from tests.benchmarks.timing import median_s, row
from traces.io import from_table
from traces.trace import Trace

ARRIVALS, REPLICAS = 100_000, 8
LOOPS = (
    "sync",
    "partial:share=2,prompts=2,log_probs=outputs",
    "one_step_async:minibatches=8",
    "streaming:rollouts=16384",
)


def arriving(mean_gap_s: float) -> Workload:
    """Short requests that arrive as they please."""
    rng = np.random.default_rng(SEED)
    lengths = rng.integers(1, 40, ARRIVALS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    nothing = Acceptance(offsets, lambda budget: np.zeros((int(offsets[-1]), 2), np.uint8), prefix=True)
    zero = np.zeros(ARRIVALS, np.int64)
    arrival_s = np.cumsum(rng.exponential(mean_gap_s, ARRIVALS))
    return Workload(zero, np.arange(ARRIVALS), zero + 100, lengths, nothing, arrival_s=arrival_s)


def rl_run(prompts: int = 512, samples: int = 16, steps: int = 10) -> Trace:
    """RL steps of rollouts with 3,000 tokens in the middle and 16,000 at most, lengths alone."""
    rng = np.random.default_rng(SEED)
    step, prompt, sample = np.indices((steps, prompts, samples)).reshape(3, -1)
    spread = (rng.standard_normal(prompts)[prompt] + rng.standard_normal(step.size)) / np.sqrt(2)
    lengths = np.clip(np.rint(3000 * np.exp(0.85 * spread)), 1, 16_000)
    columns = {"step": step, "sample": sample, "prompt_tokens": np.full(step.size, 200), "output_tokens": lengths}
    ints = {name: pa.array(column.astype(np.int32)) for name, column in columns.items()}
    return from_table(pa.table({"prompt_id": [f"p{number}" for number in prompt], **ints}), "made up")


def played(trace: Trace, loop: str) -> None:
    system = {"name": loop, "loop": loop, "stages": ["log_probs:seconds=10", "update:seconds=30", "sync:seconds=2"]}
    engine = {"max_num_seqs": 128, "replicas": 64}
    document = {
        "profile": "h100-llama-3.1-8b-published",
        "drafter": {"kind": "none"},
        "systems": [system],
        "engine": engine,
    }
    run(build({"trace": "made up", **document}), trace)


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
    trace = rl_run()
    for loop in LOOPS:
        seconds = median_s(lambda loop=loop: played(trace, loop), 1)  # type: ignore[misc]
        row(f"512 prompts x 16 x 10 RL steps, 64 replicas, {loop.partition(':')[0]}", seconds, "s", "≤ 12 s")


if __name__ == "__main__":
    main()
