"""Built-in systems on the command line: listed, held against `sync`, left out with a reason, refused in one line."""

import json

import pytest

from simulator.systems.built_in import built_in_systems

HARDWARE = ("--model", "qwen3-8b", "--device", "h100")
DEMO = ("replay", "traces/data/demo.parquet", *HARDWARE)


def test_every_system_is_listed_with_what_it_needs(shell):
    out = shell("systems").out.splitlines()
    assert [line.split()[0] for line in out if line[0] != " "][:-1] == built_in_systems()
    rows = json.loads(shell("systems", "--json").out)["systems"]
    assert [row["name"] for row in rows] == built_in_systems()
    assert next(row for row in rows if row["name"] == "milo")["lossless"] is False


def test_built_in_systems_are_held_against_sync_and_trained(shell):
    found = json.loads(shell(*DEMO, "--system", "das", "--json").out)
    assert [run["system"] for run in found["runs"]] == ["sync", "das"]
    assert all(run["stages"] == "log_probs, update, sync" and run["train_s"] > 0 for run in found["runs"])
    given = json.loads(shell(*DEMO, "--system", "das", "--stage", "update:seconds=3", "--steps", "1", "--json").out)
    assert [run["train_s"] for run in given["runs"]] == [3, 3]
    first = json.loads(shell(*DEMO, "--system", "das", "--system", "sync", "--json").out)
    assert [run["system"] for run in first["runs"]] == ["das", "sync"], "where sync is named, the first is the baseline"


def test_the_table_ends_with_who_is_left_out_and_why(shell):
    out = shell(*DEMO, "--system", "all", "--steps", "1").out
    table = out[: out.index("at most")].splitlines()
    rows = {line.split()[0]: line for line in table if line.split()[:1] and line.split()[0] in built_in_systems()}
    assert {*rows} == {*built_in_systems()}
    assert "left out: no rewards" in rows["brorl"]
    assert "lossy" in rows["milo"]
    assert "baseline" in rows["sync"]


@pytest.mark.parametrize(("arguments", "code", "told"), [
    (("--system", "dass"), 3, "did you mean 'das'?"),
    (("--system", "das", "--system", "das"), 2, "'das' is named twice"),
    (("--system", "das", "--stage", "updat"), 2, "stage 'updat' is unknown"),
    (("--system", "spec_rl", "--policy", "none", "--policy", "none"), 2, "named twice"),
    (("--system", "all", "--compare"), 2, "compare: intervals are resampled for budget policies alone"),
])  # fmt: skip
def test_what_cannot_be_run_is_refused_in_one_line(shell, arguments, code, told):
    found = shell(*DEMO, *arguments)
    assert (found.code, told in found.err, found.err.count("\n")) == (code, True, 1), found.err
