"""Every line of the benchmarks, and how a run starts, here and in another checkout in turn.

`python -m tests.benchmarks.against OTHER [ROUNDS [PART ...]]`. A ratio above 1 means that this checkout is faster, or needs
less. Both run under this interpreter, with caches of their own.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = ("start", "engine", "serving", "systems", "policies", "sweep", "drafting")
MORE_IS_BETTER = ("/s", "x")
ROUNDS = 5
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""Freed memory is kept: whether it goes back to the system between calls is luck, and a fifth of the shortest ones."""
COMMAND = "import simulator.cli as cli; getattr(cli, 'command', cli.main)()"
REPLAY = (
    "replay", "traces/data/countdown.parquet", "--profile", "h100-llama-3.1-8b-published", "--policy", "none", "--policy",
    "fixed:4", "--policy", "unlimited", "--policy", "das", "--steps", "20", "--max-num-seqs", "64",
)  # fmt: skip


def figures(checkout: Path, part: str) -> dict[str, float]:
    """The figures of one part, by name; times and sizes as their reciprocals."""
    if part == "start":
        return starts(checkout)
    code = f"from tests.benchmarks import {part}; {part}.main()"
    found = {}
    for line in ran(checkout, checkout / "out/benchmarks", "-c", code).splitlines():
        _, what, figure, *_ = line.split("|")
        value, unit = figure.split(maxsplit=1)
        number = float(value.replace(",", ""))
        found[what.strip()] = number if unit.strip().endswith(MORE_IS_BETTER) else 1 / number
    return found


def starts(checkout: Path) -> dict[str, float]:
    """Whole processes: the demo with nothing compiled, and again."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for what in ("make demo's replay, first run", "make demo's replay, second run"):
            begun = time.perf_counter()
            ran(checkout, Path(folder), "-c", COMMAND, *REPLAY, "--out", f"{folder}/out")
            found[what] = 1 / (time.perf_counter() - begun)
    return found


def ran(checkout: Path, cache: Path, *arguments: str) -> str:
    where = os.environ | KEPT | {"PYTHONPATH": str(checkout), "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=checkout, env=where, check=True, capture_output=True, text=True
    )
    return done.stdout


def main(other: Path, rounds: int, parts: tuple[str, ...]) -> None:
    """Print the median ratio of each line and the quartiles between which it lies."""
    print(f"| what | here / {other.name} | half of {rounds} rounds between |\n|---|---|---|")
    for part in parts:
        ratios = defaultdict(list)
        for round_ in range(rounds):
            both = {}
            for checkout in (ROOT, other) if round_ % 2 else (other, ROOT):
                both[checkout] = figures(checkout, part)
            for what in filter(both[other].__contains__, both[ROOT]):
                ratios[what].append(both[ROOT][what] / both[other][what])
        for what, found in ratios.items():
            low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
            print(f"| {what} | {middle:.2f} | {low:.2f} to {high:.2f} |", flush=True)


if __name__ == "__main__":
    chosen = tuple(sys.argv[3:]) or PARTS
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS, chosen)
