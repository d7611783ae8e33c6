"""Commands that write, killed at any moment: what they leave is whole or absent, and the next run is as if nothing had been.

python -m tests.hostile.kills [KILLS [SEED]]
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from tests.conftest import ROOT
from tests.hostile.cases import PROFILE
from traces import io
from traces.synthesis import synth

COMMAND = [sys.executable, "-c", "from simulator.cli import command; command()"]
POLICIES = ("--profile", PROFILE, "--policy", "none", "--policy", "fixed:4")


def _trace(path: Path) -> None:
    assert len(io.read(path)) > 0


def _page(path: Path) -> None:
    assert path.read_text("utf-8").rstrip().endswith("</html>")


def _some(path: Path) -> None:
    assert path.stat().st_size > 0


def _results(folder: Path) -> None:
    """All tables of one run, or none."""
    found = {path.name for path in folder.iterdir()}
    if not found:
        return  # it was made, and nothing was simulated yet
    assert {"runs.parquet", "rollouts.parquet", "steps.parquet", "scenario.yaml", "makespan.png"} <= found, found
    systems = [set(pq.read_table(folder / name)["system"].to_pylist()) for name in ("runs.parquet", "rollouts.parquet")]
    assert systems[0] == systems[1], "tables of different runs"
    assert (
        yaml.safe_load((folder / "scenario.yaml").read_text())["policies"]
        == pq.read_table(folder / "runs.parquet")["policy"].to_pylist()
    )


def _cells(folder: Path) -> None:
    """Every line of the journal but the last is whole, and the table is there only when it is."""
    if (folder / "cells.parquet").exists():
        assert len(set(pq.read_table(folder / "cells.parquet")["cell"].to_pylist())) == 6


@dataclass(frozen=True)
class Writer:
    """Arguments of a command, the file or folder that it writes, and what that must be where it is there."""

    arguments: tuple[str, ...]
    target: str
    whole: Callable[[Path], None]


WRITERS = tuple(
    Writer((*command.split(), *((*POLICIES,) if command.startswith("replay") else ())), target, whole)
    for command, target, whole in (
        ("replay trace.parquet --out out", "out", _results),
        ("replay trace.parquet --policy das --out out", "out", _results),
        ("run scenario.yaml --out out2", "out2", _results),
        ("replay trace.parquet --html page.html", "page.html", _page),
        ("replay trace.parquet --timeline t.pftrace", "t.pftrace", _some),
        ("trace synth --prompts 20 --samples 8 --steps 2 --out made.parquet --force", "made.parquet", _trace),
        ("trace import trace.parquet --out imported.parquet --force", "imported.parquet", _trace),
        ("trace describe trace.parquet --out lengths.png --force", "lengths.png", _some),
        ("acceptance trace.parquet --drafter ngram --record recorded.parquet", "recorded.parquet", _trace),
        ("sweep scenario.yaml engine.max_num_seqs=2,4,8 policy=none,fixed:2 --out sweep --workers 1", "sweep", _cells),
        (f"advise trace.parquet --profile {PROFILE} --max-num-seqs 8 --out advice", "advice", lambda folder: None),
    )
)


def kill(writer: Writer, folder: Path, after_s: float) -> bool:
    """Kill a command after so many seconds; returns whether it still ran."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*COMMAND, *writer.arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its workers
            return True
    return False


def fill(folder: Path) -> None:
    """Write what the commands read."""
    table = synth(prompts=6, samples=4, steps=3, median_tokens=80, max_tokens=400, seed=3)
    io.write(table, folder / "trace.parquet", {"made": "for tests"})
    scenario = {"version": 1, "trace": "trace.parquet", "profile": PROFILE, "policies": ["none", "fixed:2"]}
    (folder / "scenario.yaml").write_text(yaml.safe_dump(scenario))


def try_kills(kills: int, seed: int, folder: Path) -> dict[str, int]:
    """Kill commands, one after another, and assert that all is whole; returns how often each was hit while it ran."""
    draw, hit, took = random.Random(seed), dict[str, int](), dict[Writer, float]()
    fill(folder)
    for number in range(kills):
        writer = WRITERS[number % len(WRITERS)]
        if writer not in took:  # once to its end
            started = time.monotonic()
            kill(writer, folder, 600.0)
            took[writer] = time.monotonic() - started
            writer.whole(folder / writer.target)
        name = " ".join(writer.arguments[:2])
        hit[name] = hit.get(name, 0) + kill(writer, folder, draw.uniform(0.3, 1.0) * took[writer])
        if (folder / writer.target).exists():
            writer.whole(folder / writer.target)
    for writer in WRITERS[:kills]:
        assert not kill(writer, folder, 600.0), "it goes on as if nothing had been"
        writer.whole(folder / writer.target)
    return hit


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        count, first = (int(sys.argv[1]) if len(sys.argv) > 1 else 500), (int(sys.argv[2]) if len(sys.argv) > 2 else 0)
        found = try_kills(count, first, Path(scratch))
        print(f"{sum(found.values())} of {count} killed while they ran, nothing half-written: {found}")
