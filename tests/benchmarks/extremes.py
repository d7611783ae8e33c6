"""Runs far larger than usual in one respect each: arrivals, replicas, tokens of many live rollouts, KV blocks.

    python -m tests.benchmarks.extremes [KIND ...]

CPU seconds, and memory over that of the trace, each size in a process of its own, one that has compiled before; last, how seconds
grow: the slope between the last two sizes, 1 where a run ten times as large takes ten times as long. Kinds that end in `-drafted`
draft three tokens a step, accepted with given probabilities; the others draft nothing.
"""

import math
import resource
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from simulator.replay import run
from simulator.scenario import Scenario, build
from tests.benchmarks.timing import row
from traces.io import from_table
from traces.trace import Trace

SEED = 1
SIZES = {
    "arrivals": (10_000, 100_000, 1_000_000),
    "replicas": (64, 256, 1024),
    "live": (4_096, 16_384, 65_536),
    "live-drafted": (4_096, 16_384, 65_536),
    "blocks": (125_000, 500_000, 2_000_000),
    "blocks-drafted": (125_000, 500_000, 2_000_000),
}
ABOUT = {
    "arrivals": "arrivals routed by load to 64 replicas, of 1 to 400 tokens",
    "replicas": "replicas, 256 rollouts each of up to 8,192 tokens, half of them in a common queue",
    "live": "tokens each, 4,096 rollouts live on one replica",
    "blocks": "KV blocks of 16 tokens, 4,096 rollouts that need 1.5 times as many, prompts shared by 16",
}
DRAFTED = "-drafted"
DRAFTS = {"drafter": {"kind": "eagle", "curve": [0.7, 0.6, 0.5]}, "policies": ["fixed:3"]}
NO_DRAFTS = {"drafter": {"kind": "none"}, "policies": ["none"]}


def made(output_tokens: "np.typing.NDArray[Any]", prompt_tokens: int = 200, **columns: Any) -> Trace:
    """A trace of lengths, 16 rollouts a prompt."""
    numbers = np.arange(output_tokens.size)
    table = {
        "step": np.zeros(numbers.size, np.int32), "sample": (numbers % 16).astype(np.int32),
        "prompt_tokens": np.full(numbers.size, prompt_tokens, np.int32), "output_tokens": output_tokens.astype(np.int32),
    }  # fmt: skip
    names = pa.array([f"p{number}" for number in (numbers // 16).tolist()])
    return from_table(pa.table(table | columns | {"prompt_id": names}), "made")


def shaped(kind: str, size: int) -> tuple[Trace, Mapping[str, Any]]:
    """The trace of a kind and size, and the keys of its scenario that make it so."""
    rng = np.random.default_rng(SEED)
    if kind == "arrivals":
        arrival_s = np.cumsum(rng.exponential(1e-3, size))
        system = {"name": "routed", "policy": "none", "drafter": {"kind": "none"}, "placement": "least_loaded"}
        keys = {"engine": {"max_num_seqs": 64, "replicas": 64}, "systems": [system], "policies": []}
        return made(rng.integers(1, 401, size), 100, arrival_s=arrival_s), keys
    if kind == "replicas":
        lengths = np.clip(rng.lognormal(math.log(2000), 0.8, 256 * size), 1, 8_192)
        return made(lengths), {"engine": {"max_num_seqs": 128, "replicas": size}}
    if kind == "live":
        return made(rng.integers(size // 2, size + 1, 4096)), {"engine": {"max_num_seqs": 4096}}
    tokens = size * 16 * 3 // 2 // 4096
    lengths = rng.integers(tokens // 2, tokens * 3 // 2, 4096) - 64
    engine = {"max_num_seqs": 4096, "num_gpu_blocks": size, "enable_prefix_caching": True}
    return made(np.maximum(lengths, 1), 64), {"engine": engine}


def case(kind: str, size: int) -> tuple[Scenario, Trace]:
    """What is run."""
    trace, keys = shaped(kind.removesuffix(DRAFTED), size)
    drafts = DRAFTS if kind.endswith(DRAFTED) else NO_DRAFTS
    return build({"trace": "made", "profile": "h100-llama-3.1-8b-published"} | drafts | keys), trace


def play(kind: str, size: int) -> None:
    """Play one case, and print its CPU seconds and the memory that it took besides the trace."""
    scenario, trace = case(kind, size)
    before = resource.getrusage(resource.RUSAGE_SELF)
    result = run(scenario, trace)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(cpu_s, (after.ru_maxrss - before.ru_maxrss) / 2**10, result.runs["decode_steps"][0].as_py())


def measured(kind: str, size: int) -> tuple[float, ...]:
    """CPU seconds, MiB and decode steps of a case, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.extremes", "--one", kind, str(size)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return tuple(float(number) for number in found[-3:])


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        play(sys.argv[2], int(sys.argv[3]))
        return
    for kind in sys.argv[1:] or SIZES:
        seconds = []
        measured(kind, SIZES[kind][0])  # compiles
        for size in SIZES[kind]:
            cpu_s, mebibytes, steps = measured(kind, size)
            seconds.append(cpu_s)
            what = f"{size:,} {ABOUT[kind.removesuffix(DRAFTED)]}{', drafted' * kind.endswith(DRAFTED)}"
            row(what, cpu_s, "CPU s", "", f"{mebibytes:,.0f} MiB, {steps:,.0f} decode steps")
        slope = math.log(seconds[-1] / seconds[-2]) / math.log(SIZES[kind][-1] / SIZES[kind][-2])
        row(f"{kind}: slope between the last two", slope, "", "≤ 1.1")


if __name__ == "__main__":
    main()
