"""Beside ArcticInference's suffix tree (C++): insert, memory and replay, where its sources are at hand.

ROLLOUTSIM_ARCTIC names its folder csrc/suffix_decoding (of the arctic-inference source distribution); g++ builds it.
"""

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from simulator.drafting.drafter import past_rows
from simulator.drafting.suffix import Suffix
from tests.benchmarks.timing import median_s, row
from traces.io import read
from traces.trace import Trace

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def main() -> None:
    """Print the rows, or why there are none."""
    folder = os.environ.get("ROLLOUTSIM_ARCTIC")
    shared = Path(os.environ.get("ROLLOUTSIM_DATA", ROOT.parent / "shared")) / "rollouts/llama3b_rl_math.parquet"
    if not folder or not shared.exists():
        print("| beside ArcticInference | not run | | set ROLLOUTSIM_ARCTIC and ROLLOUTSIM_DATA |")
        return
    trace = read(shared)
    rows = np.flatnonzero((trace.step == 1) & (trace.sample < 8))
    drafter = Suffix(match="scored", prompt=False)
    past = past_rows(trace, 1, drafter.window)
    theirs = _theirs(Path(folder), trace, past, rows)
    forest = drafter.learn(trace, past)
    insert = forest.tokens / median_s(lambda: drafter.learn(trace, past, threads=1), 3)
    steps = drafter.count(trace, rows, forest, 8).sequence_steps
    replay = steps / median_s(lambda: drafter.count(trace, rows, forest, 8, threads=1), 3)
    row(
        "insert, problem scope, one thread: ours / ArcticInference",
        insert / theirs[0],
        "x",
        "≥ 6 x",
        f"{theirs[0] / 1e6:.2f} M/s there",
    )
    size = forest.nbytes / forest.tokens
    row("memory: ours / ArcticInference", size / theirs[1], "x", "≤ 0.33 x", f"{theirs[1]:.0f} B/token there")
    row(
        "scored replay, one thread: ours / ArcticInference",
        replay / theirs[2],
        "x",
        "≥ 6 x",
        f"{theirs[2] / 1e6:.2f} M/s there",
    )


def _theirs(folder: Path, trace: Trace, past: np.ndarray, rows: np.ndarray) -> list[float]:
    with tempfile.TemporaryDirectory() as scratch:
        words: list[np.ndarray] = [np.array([len(trace.prompt_ids)])]
        for prompt in range(len(trace.prompt_ids)):
            for members in (past[trace.prompt[past] == prompt], rows[trace.prompt[rows] == prompt]):
                words.append(np.array([members.size]))
                for member in members:
                    tokens = trace.tokens[trace.offsets[member] : trace.offsets[member + 1]]
                    words += [np.array([tokens.size]), tokens]
        data, driver = Path(scratch) / "rollouts.bin", Path(scratch) / "driver"
        data.write_bytes(np.concatenate(words).astype(np.int32).tobytes())
        sources = [str(HERE / "arctic_driver.cc"), str(folder / "suffix_tree.cc")]
        subprocess.run(["g++", "-std=c++20", "-O3", f"-I{folder}", *sources, "-o", str(driver)], check=True)
        out = subprocess.run([str(driver), str(data)], check=True, capture_output=True, text=True).stdout
        return [float(value) for value in out.split()]
