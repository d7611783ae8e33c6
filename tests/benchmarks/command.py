"""Whole processes: what a user waits for."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.timing import median_s, row

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Print the command line's rows."""
    command = str(Path(sys.executable).with_name("rolloutsim"))

    def run(*arguments: str) -> None:
        subprocess.run([command, *arguments], check=True, capture_output=True)

    row("rolloutsim --help, whole process", median_s(lambda: run("--help")), "s", "≤ 0.3 s", "")
    shared = Path(os.environ.get("ROLLOUTSIM_DATA", ROOT.parent / "shared")) / "rollouts/llama3b_rl_math.parquet"
    trace, step = (shared, "1") if shared.exists() else (ROOT / "traces/data/demo.parquet", "3")
    policies = [flag for name in ("none", "fixed:4", "unlimited", "das") for flag in ("--policy", name)]
    flags = [str(trace), "--profile", "h100-llama-3.1-8b-published", "--steps", step, *policies]
    with tempfile.TemporaryDirectory() as folder:
        seconds = median_s(lambda: run("replay", *flags, "--out", folder), 5)
    row("rolloutsim replay, 4 policies, tables and plots", seconds, "s", "≤ 4 s", f"{trace.name} step {step}")
