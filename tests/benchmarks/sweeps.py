"""10,000 cells on a Ray cluster of two nodes, the sweep killed twice: what it costs beside its cells, and whether all are there.

`python -m tests.benchmarks.sweeps [CELLS [WORKERS]]`; needs the extra `ray`. It starts the cluster itself, on this machine.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from tests.benchmarks.sweep import ROOT
from tests.benchmarks.timing import row
from tests.sweep.two_nodes import two_nodes

COMMAND = [sys.executable, "-c", "from simulator.cli import command; command()", "sweep"]
SCENARIO = """
trace: {trace}
profile: h100-llama-3.1-8b-published
steps: [20]
"""
KILLED_AT = (0.23, 0.61)
"""Shares of the cells after which it is killed."""
TICKS = os.sysconf("SC_CLK_TCK")


def main(cells: int = 10_000, workers: int = 2) -> None:
    """Print the rows."""
    sizes = cells // 20
    keys = [f"engine.max_num_seqs=13..{12 + sizes}", "policy=none,fixed:2,fixed:4,das", "drafter.window=1,2,4,8,16"]
    with two_nodes(workers // 2) as cluster, tempfile.TemporaryDirectory() as folder:
        scenario, out = Path(folder) / "scenario.yaml", Path(folder) / "out"
        scenario.write_text(SCENARIO.format(trace=ROOT / "traces/data/countdown.parquet"))
        arguments = [str(scenario), *keys, "--out", str(out), "--on", "ray", "--address", cluster.address]
        cpu = _Cpu()
        loads = [os.getloadavg()[0]]
        runs = [_run(arguments, out / "cells.jsonl", int(share * sizes * 20), cpu) for share in (*KILLED_AT, 2.0)]
        loads.append(os.getloadavg()[0])
        lines = (out / "cells.jsonl").read_text().splitlines()[1:]
        found = Counter(json.dumps(json.loads(line)["cell"], sort_keys=True) for line in lines)
        table = pq.read_table(out / "cells.parquet")
    assert len(found) == sizes * 20 == table.num_rows, (
        f"{len(found)} cells in the journal, {table.num_rows} in the table"
    )
    assert set(found.values()) == {1}, "a cell was run twice"
    cell_s, cell_cpu_s = sum(table["cell_s"].to_pylist()), sum(table["cell_cpu_s"].to_pylist())
    note = f"{workers} workers, load {loads[0]:.1f} to {loads[1]:.1f}, cells took {cell_s:,.0f} s and {cell_cpu_s:,.0f} CPU-s"
    row("sweep on Ray, killed twice, cells", len(found), "", "10,000, each once", note)
    wall_s, running_s = (sum(one[which] for one in runs) for which in (0, 1))
    row(
        "overhead of running them",
        100 * (running_s * workers / cell_s - 1),
        "%",
        "≤ 10 %",
        "wall x workers, from the first cell on",
    )
    row(
        "the same with all that starts, three times",
        100 * (wall_s * workers / cell_s - 1),
        "%",
        "",
        f"{wall_s:,.0f} s in all",
    )
    row(
        "CPU of all processes beside the cells",
        100 * (cpu.seconds() / cell_cpu_s - 1),
        "%",
        "",
        "Ray and imports included",
    )


def _run(arguments: list[str], journal: Path, kill_at: int, cpu: "_Cpu") -> tuple[float, float]:
    """Run the sweep until its journal has so many cells: seconds in all, and from its first cell on."""
    before = _lines(journal)
    begun_s, first_s = time.monotonic(), None
    process = subprocess.Popen([*COMMAND, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(0.25)
        cpu.look()
        count = _lines(journal)
        if first_s is None and count > max(before, 1):
            first_s = time.monotonic()
        if count > kill_at:
            process.kill()
    end_s = time.monotonic()
    assert process.returncode in (0, -9), process.returncode
    return end_s - begun_s, end_s - (first_s or end_s)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


class _Cpu:
    """Seconds of processors of all processes that began below this one, those that have ended included."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], float] = {}

    def look(self) -> None:
        """Note what each has used."""
        each = {pid: (parent, begun, used) for pid, parent, begun, used in _processes()}
        mine = {os.getpid()} | {pid for pid, begun in self._known if pid in each and each[pid][1] == begun}
        while more := {pid for pid, (parent, _, _) in each.items() if parent in mine} - mine:
            mine |= more
        for pid in mine - {os.getpid()}:
            self._known[pid, each[pid][1]] = each[pid][2] / TICKS

    def seconds(self) -> float:
        """All of it."""
        return sum(self._known.values())


def _processes() -> Iterator[tuple[int, int, str, int]]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        yield int(path.parent.name), int(fields[1]), fields[19], int(fields[11]) + int(fields[12])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
