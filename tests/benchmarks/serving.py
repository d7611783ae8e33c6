"""The engine under vLLM's limits: 512 requests that outgrow the KV cache, all at once and as they arrive.

Prompts of 512 tokens, 892,717 output tokens in all (lognormal, median 1,152, at most 15,872), 512 slots, 8,192 tokens a step,
20,000 KV blocks, prefix caching, asynchronous scheduling and CUDA-graph padding, priced by measured kernel tables where the
third-party profiles are at hand, by the published fit where not.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from simulator.budgets.policy import by_live
from simulator.cost import load_profile
from simulator.cost.model import Profile
from simulator.drafting.acceptance import Acceptance
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.serving import Serving, capture_sizes
from simulator.engine.workload import Workload
from tests.benchmarks.timing import median_s, row

SEED, REQUESTS, PROMPT, TOKENS, LONGEST, SLOTS = 0, 512, 512, 892_717, 15_872, 512
LIMITS = Serving(
    max_num_batched_tokens=8192,
    num_gpu_blocks=20_000,
    enable_prefix_caching=True,
    async_scheduling=True,
    cudagraph_capture_sizes=capture_sizes(SLOTS),
)


def requests() -> Workload:
    rng = np.random.default_rng(SEED)
    lengths = np.clip(np.round(rng.lognormal(np.log(1152), 0.91, REQUESTS)), 1, LONGEST)
    lengths[np.argmax(lengths)] = LONGEST
    rest = lengths < LONGEST
    lengths[rest] = np.maximum(np.floor(lengths[rest] * (TOKENS - lengths[~rest].sum()) / lengths[rest].sum()), 1)
    lengths[np.flatnonzero(rest)[: int(TOKENS - lengths.sum())]] += 1
    assert lengths.sum() == TOKENS
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    nothing = Acceptance(offsets, lambda budget: np.zeros((TOKENS, 2), np.uint8), prefix=True)
    numbers = np.arange(REQUESTS)
    return Workload(numbers, 0 * numbers, 0 * numbers + PROMPT, lengths.astype(np.int64), nothing)


def profile() -> Profile:
    folder = (
        Path(os.environ.get("ROLLOUTSIM_DATA", "../shared")) / "profiles/llmservingsim/RTXPRO6000/Llama-3.1-8B/bf16"
    )
    if not folder.is_dir():
        return load_profile("h100-llama-3.1-8b-published")
    from calibration.imports.llmservingsim import import_llmservingsim
    from simulator.catalogue import load_model

    return import_llmservingsim(folder, load_model("llama-3.1-8b"))


def main() -> None:
    cost, load, policy = profile(), requests(), by_live([0])
    closed = simulate(load, policy, Deployment(cost, SLOTS, serving=LIMITS))
    preempted = int(closed.rollouts["preempted"].sum())
    seconds = median_s(lambda: simulate(load, policy, Deployment(cost, SLOTS, serving=LIMITS)), 9)
    note = f"{preempted:,} preemptions, {cost.name}"
    row("512 requests at once, KV pressure", TOKENS / seconds / 1e6, "M tokens/s", "≥ 50 M", note)
    rng = np.random.default_rng(SEED)
    arrivals = np.cumsum(rng.exponential(closed.makespan_s / REQUESTS, REQUESTS))
    opened = replace(load, arrival_s=arrivals - arrivals[0])
    seconds = median_s(lambda: simulate(opened, policy, Deployment(cost, SLOTS, serving=LIMITS)), 9)
    steps = len(simulate(opened, policy, Deployment(cost, SLOTS, serving=LIMITS)).logs[0])
    row("512 requests, Poisson arrivals", TOKENS / seconds / 1e6, "M tokens/s", "≥ 10 M", f"{steps:,} decode steps")
    code = "from tests.benchmarks import serving; serving.alone()"
    peak = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    row("peak memory of a process that does the first", peak / 1e6, "MB", "≤ 300", "numba and pyarrow included")


def alone() -> None:
    """Simulate the closed workload once and print the peak memory of the process, in bytes."""
    simulate(requests(), by_live([0]), Deployment(profile(), SLOTS, serving=LIMITS))
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]  # ru_maxrss would remember the parent process
    print(1024 * int(status.split()[0]))


if __name__ == "__main__":
    main()
