"""A run that drafts nothing, by rollouts: CPU seconds and memory, which go by rollouts and not by their tokens.

    python -m tests.benchmarks.scale [ROLLOUTS ...]

Lognormal lengths with a median of 3,500 tokens, cut at 32,768: 5 G tokens a million rollouts; one RL step on 64 replicas. Each
size is run in a process of its own, one that has compiled before.
"""

import resource
import subprocess
import sys

import numpy as np
import pyarrow as pa

from simulator.replay import run
from simulator.scenario import Scenario
from tests.benchmarks.timing import row
from traces.io import from_table

SAMPLES = 16


def play(rollouts: int) -> None:
    """Play so many rollouts and print the rows of the table."""
    lengths = np.clip(np.random.default_rng(0).lognormal(np.log(3500), 0.85, rollouts), 1, 32_768).astype(np.int32)
    columns = {
        "step": np.zeros(rollouts, np.int32), "sample": np.arange(rollouts, dtype=np.int32) % SAMPLES,
        "prompt_tokens": np.full(rollouts, 200, np.int32), "output_tokens": lengths,
    }  # fmt: skip
    names = np.arange(rollouts) // SAMPLES
    trace = from_table(pa.table(columns | {"prompt_id": pa.array([f"p{name}" for name in names.tolist()])}), "made")
    engine = {"max_num_seqs": 256, "replicas": 64}
    settings = {
        "trace": "made",
        "model": "qwen3-8b",
        "device": "h100",
        "policies": ["none"],
        "drafter": {"kind": "none"},
    }
    before = resource.getrusage(resource.RUSAGE_SELF)
    run(Scenario.model_validate(settings | {"engine": engine}), trace)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    more_bytes = (after.ru_maxrss - before.ru_maxrss) * 1024
    note = f"{lengths.sum() / 1e9:.2f} G tokens"
    row(f"none, {rollouts:,} rollouts", cpu_s, "CPU s", "", note)
    row(f"none, {rollouts:,} rollouts, peak over that of the trace", more_bytes / rollouts, "B/rollout", "", note)


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        play(int(sys.argv[2]))
        return
    for rollouts in sys.argv[1:] or ["10000", "100000", "1000000"]:
        subprocess.run([sys.executable, "-m", "tests.benchmarks.scale", "--one", rollouts], check=True)


if __name__ == "__main__":
    main()
