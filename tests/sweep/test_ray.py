"""A sweep on a real Ray cluster of two nodes: its cells are those of a sweep on processes; a lost node costs time alone."""

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from simulator.sweep.axes import canonical
from simulator.sweep.journal import NAME
from tests.conftest import ROOT
from tests.sweep.inline import TIMES, asked, document, scenario, small, swept, table
from tests.sweep.test_processes import COMMAND, finished, until
from tests.sweep.two_nodes import two_nodes

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'rolloutsim[ray]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

KEYS = ["engine.max_num_seqs=2..26", "policy=none,fixed:1,fixed:2,das"]
CELLS = 100


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with two_nodes() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenario(small(tmp_path_factory.mktemp("ray") / "small.parquet"))


def command(path: Path, out: Path, address: str) -> list[str]:
    return [*COMMAND, str(path), *KEYS, "--out", str(out), "--on", "ray", "--address", address]


def test_cells_are_the_same_and_a_lost_node_costs_none(cluster: Any, path: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(command(path, tmp_path, cluster.address), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until(lambda: len(finished(tmp_path)) >= 20)
    process.kill()
    process.communicate()
    before = finished(tmp_path)
    assert 20 <= len(before) < CELLS
    process = subprocess.Popen(command(path, tmp_path, cluster.address), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until(lambda: len(finished(tmp_path)) >= len(before) + 20)
    assert len(finished(tmp_path)) < CELLS
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    _, told = process.communicate()
    assert process.returncode == 0, told
    counts = Counter(canonical(json.loads(line)["cell"]) for line in (tmp_path / NAME).read_text().splitlines()[1:])
    assert len(counts) == CELLS == counts.total()
    what = asked(document(path.parent / "small.parquet"), *KEYS)
    here = table(what, swept(what, tmp_path / "here")[0])
    assert pq.read_table(tmp_path / "cells.parquet").drop_columns(TIMES).equals(here)


def test_too_many_workers_and_no_cluster_are_said(cluster: Any, path: Path, tmp_path: Path) -> None:
    for flags, told in (
        (["--address", cluster.address, "--workers", "99"], "--workers 99: the Ray cluster has "),
        (["--address", "127.0.0.1:1"], "--address 127.0.0.1:1: no Ray cluster answers there"),
        (["--address", "ray://127.0.0.1:1"], "a sweep is no Ray client"),
    ):
        done = subprocess.run(
            [*COMMAND, str(path), *KEYS, "--out", str(tmp_path), "--on", "ray", *flags], cwd=ROOT, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 3, done.stderr
        assert told in done.stderr.splitlines()[-1]


def test_a_terminated_sweep_says_so_in_a_line(cluster: Any, path: Path, tmp_path: Path) -> None:
    """Not what Ray shows of its own stack."""
    process = subprocess.Popen(command(path, tmp_path, cluster.address), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until(lambda: len(finished(tmp_path)) >= 5)
    process.terminate()
    _, told = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    (line,) = [line for line in told.splitlines() if " cells" not in line]
    assert line.startswith("error: terminated: ")
