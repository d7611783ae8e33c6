"""Malformed traces, profiles, scenarios and flags: one line that says what to do, and the exit code that says whose fault."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.cli.conftest import PROFILE, Shell

USAGE, INVALID = 2, 3

GOOD_SCENARIO = {"version": 1, "trace": "TRACE", "profile": PROFILE, "policies": ["none"]}


def _edit(column: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    def edit(table: pa.Table) -> pa.Table:
        values = table.column(column).to_pylist()
        values[row] = value
        at = table.column_names.index(column)
        return table.set_column(at, column, pa.array(values, pa.infer_type(values)))

    return edit


def _numbers(column: str, row: int, value: int) -> Callable[[pa.Table], pa.Table]:
    def edit(table: pa.Table) -> pa.Table:
        values = table.column(column).to_numpy().astype(np.int64)
        values[row] = value
        return table.set_column(table.column_names.index(column), column, pa.array(values))

    return edit


BAD_TABLES: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "negative output_tokens": (_numbers("output_tokens", 2, -5), "output_tokens"),
    "no output_tokens": (_numbers("output_tokens", 2, 0), "output_tokens"),
    "output_tokens of another length": (_numbers("output_tokens", 2, 7), "token_ids"),
    "output_tokens beyond int32": (_numbers("output_tokens", 2, 2**40), "output_tokens"),
    "negative prompt_tokens": (_numbers("prompt_tokens", 4, -1), "prompt_tokens"),
    "negative step": (_numbers("step", 0, -1), "step"),
    "duplicate rollout": (_numbers("sample", 1, 0), "sample"),
    "lengths as text": (lambda t: t.set_column(4, "output_tokens", pa.array(["x"] * len(t))), "output_tokens"),
    "lengths as fractions": (lambda t: t.set_column(4, "output_tokens", pa.array([1.5] * len(t))), "output_tokens"),
    "null prompt_id": (_edit("prompt_id", 3, None), "prompt_id"),
    "missing column": (lambda t: t.drop_columns(["prompt_id"]), "prompt_id"),
    "misspelt column": (
        lambda t: t.rename_columns([name.replace("output_tokens", "output_token") for name in t.column_names]), "output_tokens",
    ),
    "no rows": (lambda t: t.slice(0, 0), "row"),
    "unknown finish_reason": (_edit("finish_reason", 0, "because"), "finish_reason"),
    "some token_ids missing": (_edit("token_ids", 5, None), "token_ids"),
}  # fmt: skip

BAD_FILES: dict[str, bytes] = {
    "empty file": b"",
    "text": b"step,prompt_id\n0,a\n",
    "magic number alone": b"PAR1PAR1",
    "zeros": b"\0" * 4096,
}

PROFILE_HEAD = "format: rolloutsim.profile/1\nname: x\nkind: affine\nmodel: m\ndevice: d\nsource: s\nuncertainty: u\n"

BAD_PROFILES: dict[str, str] = {
    "empty": "",
    "not YAML": "a: [1,",
    "a list": "- 1\n- 2\n",
    "unknown key": "format: rolloutsim.profile/1\nnmae: x\n",
    "no operators": PROFILE_HEAD + "operators: []\n",
    "negative cost": PROFILE_HEAD +
    "operators:\n- {name: a, kind: affine, coefficients_s: {constant: -1.0}}\n",
    "cost that is not a number": PROFILE_HEAD +
    "operators:\n- {name: a, kind: affine, coefficients_s: {constant: .nan}}\n",
}  # fmt: skip

BAD_FLAGS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "unknown policy": (("--policy", "fxed:4"), USAGE, "fixed"),
    "policy without its number": (("--policy", "fixed"), USAGE, "fixed:K"),
    "policy with a negative number": (("--policy", "fixed:-1"), USAGE, "-1"),
    "budget too large": (("--policy", "fixed:256"), USAGE, "256"),
    "argument where none belongs": (("--policy", "none:3"), USAGE, "none"),
    "malformed threshold": (("--policy", "threshold:4"), USAGE, "threshold:K@B"),
    "unknown das setting": (("--policy", "das:foo=1"), USAGE, "foo"),
    "das classes upside down": (("--policy", "das:short=9,long=3"), USAGE, "short"),
    "das budgets of two": (("--policy", "das:budgets=1/2"), USAGE, "budgets"),
    "policy twice": (("--policy", "none", "--policy", "none"), USAGE, "twice"),
    "policy module that is missing": (("--policy", "no_such_module_x:f"), USAGE, "no_such_module_x"),
    "policy attribute that is missing": (("--policy", "json:nothing"), USAGE, "nothing"),
    "policy that is not callable": (("--policy", "os:name"), INVALID, "callable"),
    "policy that raises": (("--policy", "json:dumps"), INVALID, "TypeError"),
    "steps that are no numbers": (("--policy", "none", "--steps", "x"), USAGE, "--steps"),
    "steps backwards": (("--policy", "none", "--steps", "3-1"), USAGE, "3-1"),
    "a step that was not recorded": (("--policy", "none", "--steps", "7"), INVALID, "7"),
    "no slots": (("--policy", "none", "--max-num-seqs", "0"), USAGE, "max-num-seqs"),
    "no replicas": (("--policy", "none", "--replicas", "0"), USAGE, "replicas"),
    "unknown scope": (("--policy", "none", "--scope", "galaxy"), USAGE, "scope"),
    "probability above 1": (("--policy", "none", "--min-prob", "1.5"), USAGE, "min-prob"),
    "factor that is not a number": (("--policy", "none", "--factor", "nan"), USAGE, "factor"),
    "unknown flag": (("--policy", "none", "--frobnicate"), USAGE, "frobnicate"),
    "unknown profile": (("--policy", "none", "--profile", "h100"), INVALID, "h100"),
    "profile that is a folder": (("--policy", "none", "--profile", "./"), INVALID, "directory"),
}

BAD_SCENARIOS: dict[str, tuple[dict[str, object], str]] = {
    "unknown key": ({"engine": {"max_num_seq": 4}}, "max_num_seqs"),
    "unknown top-level key": ({"polices": ["none"]}, "policies"),
    "wrong type": ({"engine": {"max_num_seqs": "many"}}, "engine.max_num_seqs"),
    "zero slots": ({"engine": {"max_num_seqs": 0}}, "engine.max_num_seqs"),
    "no policies": ({"policies": []}, "policies"),
    "policy twice": ({"policies": ["none", "none"]}, "twice"),
    "unknown policy": ({"policies": ["nnoe"]}, "none"),
    "another version": ({"version": 2}, "version"),
    "unknown drafter": ({"drafter": {"kind": "medusa"}}, "medusa"),
    "negative step": ({"steps": [-1]}, "steps"),
}


def _one_line(result: Shell, code: int, *mentions: str) -> None:
    assert result.code == code, result
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1, "an error is one line"
    assert "Traceback" not in result.err
    for mention in mentions:
        assert mention in result.err, result.err


def _replay(shell: Callable[..., Shell], trace: object, *flags: str) -> Shell:
    return shell("replay", trace, *(() if "--profile" in flags else ("--profile", PROFILE)), *flags)


@pytest.mark.parametrize("case", BAD_TABLES)
def test_malformed_table(case: str, shell: Callable[..., Shell], small: Path, tmp_path: Path) -> None:
    change, mention = BAD_TABLES[case]
    bad = tmp_path / "bad.parquet"
    pq.write_table(change(pq.read_table(small)), bad)
    _one_line(_replay(shell, bad, "--policy", "none"), INVALID, str(bad), mention)


@pytest.mark.parametrize("case", BAD_FILES)
def test_file_that_is_no_trace(case: str, shell: Callable[..., Shell], tmp_path: Path) -> None:
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(BAD_FILES[case])
    _one_line(_replay(shell, bad, "--policy", "none"), INVALID, str(bad))


def test_truncated_and_missing_traces(shell: Callable[..., Shell], small: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(small.read_bytes()[:-200])
    for trace in (cut, tmp_path / "none.parquet", tmp_path):
        _one_line(_replay(shell, trace, "--policy", "none"), INVALID, str(trace))
        _one_line(shell("acceptance", trace), INVALID, str(trace))


@pytest.mark.parametrize("case", BAD_PROFILES)
def test_malformed_profile(case: str, shell: Callable[..., Shell], small: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(BAD_PROFILES[case])
    _one_line(_replay(shell, small, "--profile", str(bad), "--policy", "none"), INVALID, str(bad))


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_malformed_flag(case: str, shell: Callable[..., Shell], small: Path) -> None:
    flags, code, mention = BAD_FLAGS[case]
    _one_line(_replay(shell, small, *flags), code, mention)


@pytest.mark.parametrize("case", BAD_SCENARIOS)
def test_malformed_scenario(case: str, shell: Callable[..., Shell], small: Path, tmp_path: Path) -> None:
    change, mention = BAD_SCENARIOS[case]
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump({**GOOD_SCENARIO, "trace": str(small), **change}))
    _one_line(shell("run", bad), INVALID, mention)


@pytest.mark.parametrize("override", ["engine.replica=2", "engine", "=3", "trace.x=1", "engine.replicas=[", "seed=-1"])
def test_malformed_override(override: str, shell: Callable[..., Shell], small: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(yaml.safe_dump({**GOOD_SCENARIO, "trace": str(small)}))
    _one_line(shell("run", good, "--set", override), INVALID, str(good))


def test_nothing_to_draft_from(shell: Callable[..., Shell], small: Path) -> None:
    _one_line(shell("acceptance", small, "--no-history", "--no-own"), USAGE, "nothing to draft from")
    _one_line(
        _replay(shell, small, "--policy", "fixed:1", "--scope", "request", "--no-own"), USAGE, "nothing to draft from"
    )


def test_a_trace_without_token_ids_is_not_zero_acceptance(
    shell: Callable[..., Shell], small: Path, tmp_path: Path
) -> None:
    lengths_only = tmp_path / "lengths.parquet"
    pq.write_table(pq.read_table(small).drop_columns(["token_ids", "prompt_token_ids"]), lengths_only)
    _one_line(_replay(shell, lengths_only, "--policy", "fixed:4"), INVALID, "token_ids", "drafter none")
    assert _replay(shell, lengths_only, "--policy", "none", "--drafter", "none").code == 0


def test_a_failed_run_leaves_earlier_results_alone(shell: Callable[..., Shell], small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _replay(shell, small, "--policy", "none", "--out", str(out)).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert _replay(shell, small, "--policy", "os:name", "--out", str(out)).code == INVALID
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    _one_line(_replay(shell, small, "--policy", "none", "--out", str(blocked)), INVALID, str(blocked))
    assert blocked.read_text() == "mine"
