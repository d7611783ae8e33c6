"""The command itself, on processes: killed, interrupted, started twice, and what it leaves behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from simulator.sweep.axes import canonical
from simulator.sweep.journal import NAME, journal
from simulator.sweep.local import Files
from tests.conftest import ROOT
from tests.sweep.inline import TIMES, asked, document, scenario, small, swept, table

COMMAND = [sys.executable, "-c", "from simulator.cli import command; command()", "sweep"]
KEYS = ["engine.max_num_seqs=2..25", "policy=none,fixed:1,fixed:2,fixed:3,fixed:4"]
CELLS = 120


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenario(small(tmp_path_factory.mktemp("processes") / "small.parquet"))


@contextmanager
def running(path: Path, out: Path) -> "Iterator[subprocess.Popen[str]]":
    command = [*COMMAND, str(path), *KEYS, "--out", str(out), "--workers", "2"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def until(true: Callable[[], bool]) -> None:
    """Wait for something that happens within five minutes on whatever machine."""
    for _ in range(15_000):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("it never happened")


def finished(out: Path) -> list[str]:
    """The cells in a journal, each as often as it is there."""
    file = out / NAME
    lines = file.read_bytes().splitlines(keepends=True)[1:] if file.exists() else []
    return [canonical(json.loads(line)["cell"]) for line in lines if line.endswith(b"\n")]


def children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def test_killed_twice_no_cell_is_lost_or_repeated(path: Path, tmp_path: Path) -> None:
    moment = random.Random(9)
    for low, high in ((5, 30), (40, 70)):
        with running(path, tmp_path / "out") as process:
            at = moment.randrange(low, high)
            until(lambda at=at: len(finished(tmp_path / "out")) >= at)  # type: ignore[misc]
            workers = children(process.pid)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            kept = finished(tmp_path / "out")
            assert at <= len(kept) < CELLS, "it was not killed while it ran"
            assert len(workers) >= 2
            until(lambda workers=workers: not any(Path(f"/proc/{pid}").exists() for pid in workers))  # type: ignore[misc]
    with running(path, tmp_path / "out") as process:
        assert process.wait() == 0, process.communicate()
    counts = Counter(finished(tmp_path / "out"))
    assert set(kept) <= set(counts), "a cell that had finished was lost"
    assert len(counts) == CELLS == counts.total()
    what = asked(document(path.parent / "small.parquet"), *KEYS)
    whole = table(what, swept(what, tmp_path / "whole")[0])
    assert pq.read_table(tmp_path / "out" / "cells.parquet").drop_columns(TIMES).equals(whole)
    assert whole.num_rows == CELLS
    assert {path.name for path in (tmp_path / "out").iterdir()} == {NAME, "cells.parquet", "frontier.png", "keys.png"}


def test_ctrl_c_keeps_what_has_finished(path: Path, tmp_path: Path) -> None:
    with running(path, tmp_path) as process:
        until(lambda: len(finished(tmp_path)) >= 5)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate()
    assert process.returncode == 130
    lines = [line for line in told.splitlines() if "cells" not in line]
    assert lines == ["error: interrupted: what has finished is kept, and the same command goes on from there"]
    assert len(finished(tmp_path)) >= 5
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_two_do_not_write_to_one_folder(path: Path, tmp_path: Path) -> None:
    with journal(tmp_path, {}), running(path, tmp_path) as process:
        _, told = process.communicate()
    assert process.returncode == 3
    assert told == f"error: {tmp_path}: another sweep is writing there: wait for it, or choose another --out\n"


def test_a_worker_that_dies_ends_it_in_one_line(path: Path, tmp_path: Path) -> None:
    with running(path, tmp_path) as process:
        until(lambda: len(finished(tmp_path)) >= 5)
        os.kill(children(process.pid)[-1], signal.SIGKILL)
        _, told = process.communicate()
    assert process.returncode == 3
    assert told.splitlines()[-1].startswith("error: a worker was killed, perhaps for want of memory")


def test_processes_find_what_others_put(tmp_path: Path) -> None:
    store = Files(tmp_path)
    value = {
        "table": np.arange(30, dtype=np.uint8).reshape(15, 2),
        "text": "é",
        "offsets": np.arange(4),
        "none": np.empty(0),
    }
    assert store.find("key") is None
    store.put("key", value)
    found = store.find("key")
    assert found is not None
    assert found["text"] == "é"
    assert all(np.array_equal(found[name], value[name]) for name in ("table", "offsets", "none"))
    assert not found["table"].flags.owndata, "it is in memory once, where the file is mapped"
    Files(tmp_path / "nowhere").put("key", value)
