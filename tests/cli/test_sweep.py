"""`rolloutsim sweep` as a shell sees it."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Shell
from tests.sweep.inline import scenario


@pytest.fixture
def path(small: Path, tmp_path: Path) -> Path:
    file = scenario(small)
    return file.rename(tmp_path / "scenario.yaml")


def test_the_best_cells_are_printed_and_all_are_written(
    shell: Callable[..., Shell], path: Path, tmp_path: Path
) -> None:
    done = shell(
        "sweep", path, "engine.max_num_seqs=2,4,8", "policy=none,das", "--baseline", "none", "--out", tmp_path / "out"
    )
    assert done.code == 0, done.err
    table = pq.read_table(tmp_path / "out" / "cells.parquet").to_pylist()
    best = min(table, key=lambda row: row["makespan_s"])
    first = next(line for line in done.out.splitlines() if line.startswith((" 2 ", " 4 ", " 8 ")))
    assert first.split()[:2] == [str(best["engine.max_num_seqs"]), best["policy"]]
    assert f"{best['makespan_s']:.3f}" in first
    assert f"{best['speedup']:.3f}" in first
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "cells.jsonl",
        "cells.parquet",
        "frontier.png",
        "keys.png",
    }
    again = shell("sweep", path, "engine.max_num_seqs=2,4,8", "policy=none,das", "--baseline", "none", "--out", tmp_path / "out",
                  "--maximise", "speedup", "--json")  # fmt: skip
    document = json.loads(again.out)
    assert document["cells"] == table, "the same cells, none of them run again"
    assert document["keys"] == ["engine.max_num_seqs", "policy"]


def test_a_search_tells_the_edge(shell: Callable[..., Shell], path: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'rolloutsim[search]'")
    done = shell(
        "sweep", path, "engine.max_num_seqs=1..3", "--search", "optuna", "--trials", 8, "--out", tmp_path / "out"
    )
    assert done.code == 0, done.err
    assert "note: the best engine.max_num_seqs = 3 is at the edge of 1..3" in done.out


def test_cells_that_cannot_be_run_are_counted(shell: Callable[..., Shell], path: Path, tmp_path: Path) -> None:
    keys = ("engine.max_num_batched_tokens=4,64", "engine.max_num_seqs=2,8")
    done = shell("sweep", path, *keys, "--workers", 1, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert (
        "1 of them cannot be run; the first: engine.max_num_batched_tokens = 4 is less than max_num_seqs = 8"
        in done.out
    )


@pytest.mark.parametrize(("arguments", "code", "told"), [
    ((), 2, "Missing argument"),
    (("engine.max_num_seqs",), 2, "is not KEY=VALUE"),
    (("engine.max_num_seqs=1..8:log",), 2, "a grid needs steps"),
    (("policy=none", "--trials", "4"), 2, "--trials goes with --search optuna"),
    (("policy=none", "--search", "optuna"), 2, "--search needs --trials"),
    (("policy=none", "--minimise", "run_s", "--maximise", "speedup"), 2, "a sweep has one aim"),
    (("policy=none", "--minimise", "runs_s"), 2, "did you mean 'run_s'"),
    (("policy=none", "--address", "auto"), 2, "goes with --on ray"),
    (("policy=none", "--workers", "0"), 2, "--workers"),
    (("engine.max_num_seq=3",), 3, "did you mean 'engine.max_num_seqs'"),
    (("profile=h100",), 3, "profile 'h100' is unknown"),
    (("trace=nowhere.parquet",), 3, "nowhere.parquet: no such file"),
    (("steps=[99]",), 3, "none of 1 cells can be run; the first: "),
])  # fmt: skip
def test_what_is_wrong_is_one_line(
    shell: Callable[..., Shell], path: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = shell("sweep", path, *arguments, "--out", tmp_path / "out")
    assert done.code == code, done.err
    (line,) = done.err.splitlines()
    assert told in line
    assert not done.out


@pytest.mark.parametrize(("text", "told"), [
    ("", "the file is empty"),
    ("- a\n", "holds a list, not a mapping"),
    ("trace: [\n", "not YAML"),
    (None, "cannot be read"),
])  # fmt: skip
def test_a_scenario_that_cannot_be_read(
    shell: Callable[..., Shell], tmp_path: Path, text: str | None, told: str
) -> None:
    if text is not None:
        (tmp_path / "s.yaml").write_text(text)
    done = shell("sweep", tmp_path / "s.yaml", "policy=none", "--out", tmp_path / "out")
    assert done.code == 3
    assert done.err.startswith(f"error: {tmp_path / 's.yaml'}: ")
    assert told in done.err
