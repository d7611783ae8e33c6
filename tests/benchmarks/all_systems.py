"""`replay --system all` on the traces at hand and on a made-up one of the size of a real run: seconds and memory.

    python -m tests.benchmarks.all_systems [NAME ...]

countdown: the shipped recording; llama3b_rl_math, qwq32b_long_cot: third-party rollouts (`ROLLOUTSIM_DATA`); real_size: made
up, 512 prompts x 16 samples x 10 RL steps, lognormal lengths (median 2,500) cut at 16,384 tokens, lengths and rewards alone, 64
replicas; real_size_tokens: the same with token ids. Each is run twice in processes of their own, the second time warm.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.pays.sweep import ROOT, rewards
from traces.synthesis import synth

DATA = Path(os.environ.get("ROLLOUTSIM_DATA", ROOT.parent / "shared"))
COMMAND = "from simulator.cli import main; main()"
HARDWARE = ["--model", "qwen3-8b", "--device", "h100"]
REAL = {"prompts": 512, "samples": 16, "steps": 10, "median_tokens": 2500, "log_sigma": 1.0, "max_tokens": 16_384}
TRACES = {
    "countdown": (ROOT / "traces/data/countdown.parquet", ["--max-num-seqs", "64", "--replicas", "2"]),
    "llama3b_rl_math": (DATA / "rollouts/llama3b_rl_math.parquet", ["--max-num-seqs", "256", "--replicas", "4"]),
    "qwq32b_long_cot": (DATA / "rollouts/qwq32b_long_cot.parquet", ["--max-num-seqs", "64", "--replicas", "2"]),
    "real_size": (None, ["--max-num-seqs", "256", "--replicas", "64"]),
    "real_size_tokens": (None, ["--max-num-seqs", "256", "--replicas", "64"]),
}


def made(folder: Path, tokens: bool) -> Path:
    """Write the made-up trace."""
    table = synth(**REAL)
    table = table.append_column("reward", pa.array(rewards(table, 0.4, 1.0), pa.float32()))
    if not tokens:
        table = table.drop_columns(["token_ids", "prompt_token_ids"])
    pq.write_table(table, folder / "made.parquet")
    return folder / "made.parquet"


def main() -> None:
    for name in sys.argv[1:] or ["countdown", "llama3b_rl_math", "qwq32b_long_cot", "real_size"]:
        path, engine = TRACES[name]
        with tempfile.TemporaryDirectory() as folder:
            path = path or made(Path(folder), name.endswith("tokens"))
            command = [
                sys.executable,
                "-c",
                COMMAND,
                "replay",
                str(path),
                "--system",
                "all",
                *HARDWARE,
                *engine,
            ]
            for _ in range(2):
                started = time.perf_counter()
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                seconds = time.perf_counter() - started
            most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
            print(f"{name}, warm: {seconds:.1f} s, largest process so far {most:.1f} GiB\n{done.stdout}")


if __name__ == "__main__":
    main()
