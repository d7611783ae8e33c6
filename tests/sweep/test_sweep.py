"""A sweep in one process: its cells are runs, each once, whatever stops it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from simulator.replay import run
from simulator.results import RUNS
from simulator.scenario import load
from simulator.sweep.axes import canonical
from simulator.sweep.journal import NAME
from simulator.sweep.search import objective
from tests.sweep.inline import TIMES, asked, document, scenario, small, swept, table
from traces.errors import InputError

KEYS = ("engine.max_num_seqs=2,4,8", "policy=none,fixed:2,das", "drafter.match=longest,scored")


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(tmp_path_factory.mktemp("sweep") / "small.parquet")


def rows(*arguments: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table(*arguments).to_pylist()
    return found


def test_every_cell_is_what_a_run_of_it_is(trace: Path, tmp_path: Path) -> None:
    what = asked(document(trace), *KEYS)
    found, ran = swept(what, tmp_path)
    assert ran == 18
    path = scenario(trace)
    names = [name for name in RUNS.names if name not in TIMES]
    for row in rows(what, found):
        sets = [f"{key}={row[key]}" for key in ("engine.max_num_seqs", "drafter.match")]
        alone = run(load(path, [*sets, f"policies=[{row['policy']}]"])).runs.to_pylist()[0]
        assert row["status"] == "done"
        assert {name: row[name] for name in names} == {name: alone[name] for name in names}


@pytest.mark.parametrize(
    "drafter", [{"kind": "ngram"}, {"siblings": "live"}, {"kind": "last"}, {"shape": "tree", "match": "scored"}]
)
def test_drafts_that_are_kept_change_nothing(trace: Path, tmp_path: Path, drafter: dict[str, Any]) -> None:
    systems = [
        {"name": "plain", "policy": "fixed:3"},
        {"name": "partial", "policy": "das", "loop": "partial:rollouts=12"},
    ]
    settings = document(trace, drafter=drafter, policies=[], systems=systems)
    what = asked(settings, "engine.max_num_seqs=3,5", "engine.replicas=1,2")
    found, _ = swept(what, tmp_path)
    for row in rows(what, found):
        path = scenario(trace, drafter=drafter, policies=[], systems=systems)
        alone = run(
            load(
                path, [f"engine.max_num_seqs={row['engine.max_num_seqs']}", f"engine.replicas={row['engine.replicas']}"]
            )
        )
        (same,) = [one for one in alone.runs.to_pylist() if one["system"] == row["system"]]
        assert all(
            row[name] == same[name] for name in RUNS.names if name not in TIMES and name in row and name != "drafter"
        )


def test_a_cell_that_cannot_be_says_why(trace: Path, tmp_path: Path) -> None:
    what = asked(document(trace), "engine.max_num_batched_tokens=4,64", "engine.max_num_seqs=2,8")
    found = rows(what, swept(what, tmp_path)[0])
    assert [row["status"] for row in found] == ["done", "failed", "done", "done"]
    assert "less than max_num_seqs = 8" in found[1]["reason"]
    assert found[1]["makespan_s"] is None


def test_none_that_can_be_is_an_error(trace: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of 2 cells can be run; the first: .*less than max_num_seqs"):
        swept(asked(document(trace), "engine.max_num_batched_tokens=4", "engine.max_num_seqs=8,16"), tmp_path)


def test_a_system_that_is_left_out_is_a_row(trace: Path, tmp_path: Path) -> None:
    settings = document(trace, policies=[], systems=["sync", "brorl"])
    what = asked(settings, "engine.max_num_seqs=2,4")
    statuses = Counter((row["system"], row["status"]) for row in rows(what, swept(what, tmp_path)[0]))
    assert statuses == {("sync", "done"): 2, ("brorl", "left out"): 2}


def test_speedups_are_against_the_baseline(trace: Path, tmp_path: Path) -> None:
    what = asked(document(trace, policies=[]), "policy=none,das", "engine.max_num_seqs=4", baseline="none")
    none, das = rows(what, swept(what, tmp_path)[0])
    assert (none["policy"], none["speedup"]) == ("none", 1.0)
    assert das["policy"] == "das"
    assert das["speedup"] == none["makespan_s"] / das["makespan_s"] != 1


def test_a_sweep_goes_on_where_it_stopped(trace: Path, tmp_path: Path) -> None:
    what = asked(document(trace), *KEYS)
    whole = table(what, swept(what, tmp_path / "whole")[0])
    part = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        swept(what, part, stop=7)
    journal = part / NAME
    kept = journal.read_bytes().count(b"\n") - 1
    assert 0 < kept <= 7
    with journal.open("ab") as file:
        file.write(b'{"cell":{"engine.max_num_seqs":2,"poli')  # killed while it wrote
    found, ran = swept(what, part)
    assert ran == 18 - kept
    assert table(what, found).equals(whole)
    cells = Counter(canonical(json.loads(line)["cell"]) for line in journal.read_text().splitlines()[1:])
    assert len(cells) == 18 == cells.total()
    assert swept(what, part)[1] == 0, "nothing is left to run"


def test_a_grid_may_grow(trace: Path, tmp_path: Path) -> None:
    assert swept(asked(document(trace), "engine.max_num_seqs=2,4", "policy=none"), tmp_path)[1] == 2
    what = asked(document(trace), "engine.max_num_seqs=2,4,8", "policy=none,das")
    found, ran = swept(what, tmp_path)
    assert ran == 4
    assert [row["cell"] for row in rows(what, found)] == [*range(6)]


def test_what_changed_is_said(trace: Path, tmp_path: Path) -> None:
    keys = ("engine.max_num_seqs=2",)
    swept(asked(document(trace), *keys), tmp_path)
    with pytest.raises(InputError, match=r"holds a sweep with scenario.engine.replicas = null, now it is 2"):
        swept(asked(document(trace, engine={"max_num_seqs": 4, "replicas": 2}), *keys), tmp_path)
    with pytest.raises(InputError, match=r'keys = \["engine.max_num_seqs"\], now it is \["engine.replicas"\]'):
        swept(asked(document(trace), "engine.replicas=1"), tmp_path)
    other = small(trace.parent / "other.parquet")
    moved = small(trace.parent / "moved.parquet", seed=4)
    swept(asked(document(other), *keys), tmp_path / "other")
    moved.replace(other)
    with pytest.raises(InputError, match=r"holds a sweep with traces.*other.parquet = "):
        swept(asked(document(other), *keys), tmp_path / "other")
    journal = tmp_path / NAME
    header = json.loads(journal.read_text().splitlines()[0])
    del header["columns"]["makespan_s"]
    journal.write_text(json.dumps(header) + "\n")
    with pytest.raises(InputError, match=r'columns.makespan_s = null, now it is "double"'):
        swept(asked(document(trace), *keys), tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense", "[]", '{"cell": {}}', '{"cell": {}, "seconds": 1, "cpu_s": {}}',
        '{"cell": {}, "seconds": 1, "cpu_s": 1, "left_out": 5}',
        '{"cell": {}, "seconds": 1, "cpu_s": 1, "reason": {"a": 1}}',
    ],
)  # fmt: skip
def test_damage_is_said_with_its_line(trace: Path, tmp_path: Path, line: str) -> None:
    swept(asked(document(trace), "engine.max_num_seqs=2,4"), tmp_path)
    journal = tmp_path / NAME
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], line, *lines[1:], ""]))
    with pytest.raises(InputError, match=rf"{NAME}: line 2 is no "):
        swept(asked(document(trace), "engine.max_num_seqs=2,4"), tmp_path)


def test_traces_are_varied_too(trace: Path, tmp_path: Path) -> None:
    longer = small(tmp_path / "longer.parquet", samples=4)
    what = asked(document(trace), f"trace={trace},{longer}", "policy=das")
    found = rows(what, swept(what, tmp_path)[0])
    assert [row["rollouts"] for row in found] == [54, 72]
    assert [row["trace"] for row in found] == [str(trace), str(longer)]


def test_a_column_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'makespan_s'"):
        objective("makespan", False)
    with pytest.raises(InputError, match="is no number of a run"):
        objective("policy", False)
