"""What answers at once, what is named where something is misspelt, what a shell completes, and what needs no drafter."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pyarrow.parquet as pq
import pytest

from simulator.cli.flags import parse_drafter
from simulator.drafting.settings import BUILT_IN_KINDS
from simulator.limits import DrafterKind
from tests.cli.conftest import PROFILE, Shell

HEAVY = ("numpy", "numba", "pyarrow", "pydantic", "scipy", "matplotlib", "pandas", "rich", "yaml", "simpy")


def ask(*arguments: str, **environment: str) -> str:
    """What a process of its own prints."""
    return subprocess.run(
        [sys.executable, "-m", "simulator.cli", *arguments],
        capture_output=True, text=True, check=True, env={**os.environ, **environment},
    ).stdout  # fmt: skip


def completed(typed: str) -> set[str]:
    """What a bash would offer for the last word of what was typed."""
    words = f"rolloutsim {typed}"
    shown = ask(COMP_WORDS=words, COMP_CWORD=str(words.count(" ")), _ROLLOUTSIM_COMPLETE="bash_complete")
    return {line.partition(",")[2] for line in shown.splitlines()}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["replay", "--help"], ["acceptance", "--help"], ["policies"]]
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom simulator.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', *sorted(set({HEAVY}) & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1].split() == ["LOADED"]
    assert len(shown.splitlines()) > 1


@pytest.mark.parametrize(("typed", "offered"), [
    ("rep", {"replay"}), ("trace des", {"describe"}), ("replay x --polic", {"--policy"}),
    ("replay x --policy sch", {"schedule:"}),
    ("replay x --drafter eag", {"eagle", "eagle3"}), ("acceptance x --drafter ngr", {"ngram"}),
    ("replay x --system sy", {"sync"}), ("replay x --profile h100-l", {PROFILE}), ("replay x --scope p", {"problem"}),
    ("replay x --device h200-", set()), ("replay x --model qwen3-8", {"qwen3-8b"}),
])  # fmt: skip
def test_a_shell_completes_commands_flags_and_names(typed: str, offered: set[str]) -> None:
    found = completed(typed)
    assert offered <= found
    assert not offered or all(one.startswith(typed.split()[-1]) for one in found)


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(shell_name: str) -> None:
    script = ask(_ROLLOUTSIM_COMPLETE=f"{shell_name}_source")
    assert f"_ROLLOUTSIM_COMPLETE={shell_name}_complete" in script


@pytest.mark.parametrize(("arguments", "near", "code"), [
    (["replya", "T"], "Did you mean 'replay'?", 2),
    (["trace", "descrbe", "T"], "Did you mean 'describe'?", 2),
    (["replay", "T", "--polcy", "none"], "'--policy'", 2),
    (["replay", "T", "--max-num-seq", "4"], "Did you mean '--max-num-seqs'?", 2),
    (["replay", "T", "--profile", PROFILE, "--policy", "fixd:4"], "did you mean 'fixed:4'?", 2),
    (["replay", "T", "--profile", PROFILE, "--policy", "none", "--drafter", "sufix"], "did you mean 'suffix'?", 3),
    (["replay", "T", "--profile", PROFILE, "--policy", "das:formm=x"], "did you mean form=?", 2),
    (["replay", "T", "--profile", PROFILE, "--policy", "none", "--drafter", "suffix:windw=3"], "did you mean 'window'", 2),
    (["replay", "T", "--profile", PROFILE, "--policy", "none", "--engine", "max_num_batched_token=9"],
     "did you mean 'max_num_batched_tokens'", 2),
    (["replay", "T", "--profile", "h100-llama-3.1-8b", "--policy", "none"], f"did you mean {PROFILE}?", 3),
    (["replay", "T", "--profile", PROFILE, "--policy", "none", "--stage", "updat"], "did you mean 'update'?", 2),
])  # fmt: skip
def test_what_is_misspelt_is_answered_with_what_is_near(
    shell: Callable[..., Shell], small: Path, arguments: list[str], near: str, code: int
) -> None:
    found = shell(*(str(small) if one == "T" else one for one in arguments))
    assert (found.code, found.out) == (code, "")
    assert near in found.err
    assert len(found.err.splitlines()) == 1


def test_a_key_of_a_scenario_is_answered_with_what_is_near(shell: Callable[..., Shell], tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(f"version: 1\ntrace: x\nprofile: {PROFILE}\npolices: [none]\n")
    assert f"{file}: polices: unknown key: did you mean 'policies'" in shell("run", file).err
    file.write_text(f"version: 1\ntrace: x\nprofile: {PROFILE}\npolicies: [none]\nengine: {{replica: 2}}\n")
    assert "engine.replica: unknown key: did you mean 'replicas'" in shell("run", file).err


@pytest.mark.parametrize(("text", "settings"), [
    ("recorded:cost={a: {b: [1, {c: 2, d: 3}]}, e: 4},draft_tokens=3",
     {"kind": "recorded", "cost": {"a": {"b": [1, {"c": 2, "d": 3}]}, "e": 4}, "draft_tokens": 3}),
    ("eagle:strategies=[{depth: 1, topk: 2, verify: 3, curve: [0.5, 0.4]}],use=['1-2-3', '4-5-6']", {
        "kind": "eagle", "strategies": [{"depth": 1, "topk": 2, "verify": 3, "curve": [0.5, 0.4]}], "use": ["1-2-3", "4-5-6"],
    }),
    ("my.module:make,name='a,b',list=[[1,2],[3]]", {"kind": "my.module:make", "name": "a,b", "list": [[1, 2], [3]]}),
    ("ngram:prompt_lookup_min=2,,prompt_lookup_max=4,", {"kind": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 4}),
    ("custom:target=a:b", {"kind": "custom", "target": "a:b"}),
])  # fmt: skip
def test_settings_of_a_drafter_nest(text: str, settings: dict[str, object]) -> None:
    assert parse_drafter(text) == settings


@pytest.mark.parametrize(("text", "problem"), [
    ("eagle:curve=[0.8,0.7", "']' is missing"), ("eagle:curve=0.8],layers=1", "']' closes nothing"),
    ("eagle:cost={a: [1}", "'}' closes nothing"), ("eagle:curve='0.8", "\"'\" is missing"),
])  # fmt: skip
def test_an_open_bracket_is_said(shell: Callable[..., Shell], small: Path, text: str, problem: str) -> None:
    found = shell("replay", small, "--profile", PROFILE, "--policy", "none", "--drafter", text)
    assert found.code == 2
    assert problem in found.err


def test_the_help_names_every_kind_of_drafter(shell: Callable[..., Shell]) -> None:
    assert get_args(DrafterKind) == BUILT_IN_KINDS
    for command in ("replay", "acceptance"):
        told = " ".join(shell(command, "--help").out.split())
        assert all(kind in told for kind in BUILT_IN_KINDS)


def test_a_trace_without_tokens_runs_none_alone(shell: Callable[..., Shell], small: Path, tmp_path: Path) -> None:
    lengths, flags = tmp_path / "lengths.parquet", ["--profile", PROFILE, "--steps", 2, "--max-num-seqs", 4]
    pq.write_table(pq.read_table(small).drop_columns(["token_ids", "prompt_token_ids"]), lengths)
    with_tokens, without = (
        json.loads(shell("replay", path, *flags, "--policy", "none", "--json").out)["runs"][0]
        for path in (small, lengths)
    )
    assert without["drafter"] == "none"
    assert without["makespan_s"] == with_tokens["makespan_s"]
    refused = shell("replay", lengths, *flags, "--policy", "none", "--policy", "fixed:4")
    assert refused.code == 3
    assert "has no token_ids" in refused.err
    assert "use policy none alone" in refused.err
