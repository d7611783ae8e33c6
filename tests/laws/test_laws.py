"""What must not change a result does not change a bit of it, and what must change it does so exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT
from tests.laws.laws import made, played, profile, rollouts, rows, taken
from traces.io import write

OWN = {"kind": "ngram"}
"""A drafter that looks at the rollout alone."""


def test_rl_steps_may_stand_in_any_order(tmp_path: Path) -> None:
    table = made()
    steps = table.column("step").to_numpy()
    mixed = taken(table, np.argsort((steps * 7) % 3, kind="stable"))
    assert rows(played(tmp_path, mixed)) == rows(played(tmp_path, table))


def test_rows_of_an_rl_step_may_stand_in_any_order_where_nobody_waits_and_nobody_learns(tmp_path: Path) -> None:
    table = made()
    order = np.random.default_rng(3).permutation(len(table))
    before, after = (played(tmp_path, one, drafter=OWN) for one in (table, taken(table, order)))
    assert rollouts(after) == rollouts(before)
    for name in ("makespan_s", "decode_steps", "drafted_tokens", "straggler_s", "mean_live_batch"):
        assert after.runs.column(name) == before.runs.column(name), name


def test_names_of_prompts_are_names(tmp_path: Path) -> None:
    table = made()
    names = [f"ü/{name[::-1]}" for name in table.column("prompt_id").to_pylist()]
    renamed = table.set_column(table.column_names.index("prompt_id"), "prompt_id", pa.array(names))
    assert rows(played(tmp_path, renamed)) == rows(played(tmp_path, table))


@pytest.mark.parametrize("settings", [{}, {"engine": {"max_num_seqs": 3}}, {"systems": [{"name": "p", "policy": "fixed:2",
                                      "loop": "partial:share=2"}]}], ids=str)  # fmt: skip
def test_twice_the_cost_is_twice_the_time(settings: dict[str, Any], tmp_path: Path) -> None:
    table = made()
    once, twice = (played(tmp_path, table, factor=factor, **settings) for factor in (1.0, 2.0))
    for name in once.runs.column_names:
        one, two = once.runs.column(name).to_pylist(), twice.runs.column(name).to_pylist()
        if name == "samples_per_s":
            assert two == [value / 2 for value in one]
        elif name.endswith("_s") and name not in ("wall_s", "sync_s", "train_s"):
            assert two == [None if value is None else 2 * value for value in one], name
        elif name != "wall_s":
            assert two == one, name


def test_a_replica_without_work_changes_nothing(tmp_path: Path) -> None:
    table = made(prompts=1, samples=1)
    one, two = (played(tmp_path, table, engine={"replicas": replicas}) for replicas in (1, 2))
    assert rollouts(one) == rollouts(two)
    assert one.runs.column("makespan_s") == two.runs.column("makespan_s")


def test_no_draft_is_no_drafting(tmp_path: Path) -> None:
    found = rows(played(tmp_path, made(), policies=["none", "fixed:0"], drafter={"kind": "suffix"}))
    without, of_none = (
        {key: value for key, value in row.items() if key not in ("system", "policy", "facts")} for row in found
    )
    assert without == of_none


@pytest.mark.parametrize("slots", [3, 64])
def test_an_rl_step_is_the_same_alone_and_among_others(slots: int, tmp_path: Path) -> None:
    table = made()
    everything = rollouts(played(tmp_path, table, engine={"max_num_seqs": slots}))
    for step in (0, 2):
        alone = rollouts(played(tmp_path, table, steps=[step], engine={"max_num_seqs": slots}))
        assert alone == {key: value for key, value in everything.items() if key[1] == step}


def test_arrivals_count_from_the_first(tmp_path: Path) -> None:
    table = made(steps=1)
    times = np.random.default_rng(0).exponential(0.2, len(table)).cumsum()
    early, late = (
        played(
            tmp_path, table.append_column("arrival_s", pa.array(times - times[0] + shift)), policies=["none", "fixed:4"]
        )
        for shift in (0.0, 4096.0)
    )
    counts = ("drafted_tokens", "accepted_tokens", "decode_steps")
    assert rollouts(early, *counts) == rollouts(late, *counts)
    for name in ("makespan_s", "ttft_s", "tpot_s", "latency_s"):
        np.testing.assert_allclose(early.runs.column(name), late.runs.column(name), rtol=1e-9, err_msg=name)


def test_replicas_that_share_nothing_are_runs_of_their_own(tmp_path: Path) -> None:
    table, settings = made(steps=1, prompts=6), {"drafter": OWN, "policies": ["fixed:4"]}
    both = played(tmp_path, table, engine={"replicas": 2, "dispatch": "static", "max_num_seqs": 3}, **settings)
    where = {key[2:]: value[0] for key, value in rollouts(both, "replica").items()}
    keys = list(zip(table.column("prompt_id").to_pylist(), table.column("sample").to_pylist(), strict=True))
    found: dict[Any, Any] = {}
    for replica in (0, 1):
        part = taken(table, [row for row, key in enumerate(keys) if where[key] == replica])
        assert 0 < len(part) < len(table)
        found |= rollouts(played(tmp_path, part, engine={"max_num_seqs": 3}, **settings))
    assert found == rollouts(both)


WIDER = {pa.int32(): pa.int64(), pa.string(): pa.large_string(), pa.list_(pa.int32()): pa.large_list(pa.int64())}


def test_wider_types_hold_the_same_trace(tmp_path: Path) -> None:
    table = made()
    kinds = [WIDER.get(field.type, field.type) for field in table.schema]
    wide = pa.table(
        [column.cast(kind) for column, kind in zip(table.columns, kinds, strict=True)], names=table.column_names
    )
    assert wide.schema != table.schema
    assert rows(played(tmp_path, wide)) == rows(played(tmp_path, table))


def command(folder: Path, *arguments: str, cores: int | None = None, **variables: str) -> dict[str, bytes]:
    """Run `rolloutsim run` in a process of its own: what it printed, and every file that it wrote, but for its own seconds."""
    begin = f"import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{cores or 1024}]); "
    code = begin + "from simulator.cli import command; command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "scenario.yaml", "--json", "--out", "out", *arguments], cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables, capture_output=True, check=True,
    )  # fmt: skip
    printed = json.loads(done.stdout)
    found = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    table = pq.read_table(folder / "out" / "runs.parquet")
    for row, same in zip(table.to_pylist(), printed["runs"], strict=True):
        nested = {key: json.loads(row[key]) for key, value in same.items() if isinstance(value, dict | list)}
        assert row | nested == same, "--json is the same table"
    for row in printed["runs"]:
        row.pop("wall_s")
    found["runs.parquet"] = repr(table.drop_columns(["wall_s"]).to_pylist()).encode()
    return found | {"printed": json.dumps(printed).encode()}


def test_a_process_of_its_own_one_core_and_a_warm_one_say_the_same(tmp_path: Path) -> None:
    write(made(), tmp_path / "trace.parquet", {"made": "for tests"})
    scenario = {
        "version": 1, "trace": "trace.parquet", "profile": Path(profile(tmp_path)).name, "policies": ["none", "fixed:4", "das"],
        "engine": {"max_num_seqs": 6, "replicas": 2}, "compare": {"bootstrap": 20},
    }  # fmt: skip
    (tmp_path / "scenario.yaml").write_text(json.dumps(scenario))
    first = command(tmp_path)
    assert {"runs.parquet", "rollouts.parquet", "steps.parquet", "makespan.png", "printed"} <= first.keys()
    for other in (
        command(tmp_path, cores=1),
        command(tmp_path, TZ="Asia/Kathmandu", LC_ALL="C"),
        command(tmp_path, PYTHONHASHSEED="7"),
    ):
        assert other.keys() == first.keys()
        for name, content in first.items():
            assert other[name] == content, name
