"""Nothing that was given is dropped without a word: it counts, or it is refused in one line, from the shell and from Python."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from simulator import Scenario, run
from tests.cli.conftest import PROFILE, Shell
from traces.errors import InputError
from traces.io import from_table, read, write

USAGE, INVALID = 2, 3
FLAGS = ("--policy", "fixed:4", "--steps", "2", "--max-num-seqs", "8")


def replay(shell: Callable[..., Shell], trace: Path, *flags: str, profile: bool = True) -> Shell:
    return shell("replay", trace, *(("--profile", PROFILE) if profile else ()), *FLAGS, *flags, "--json")


def refused(result: Shell, code: int, *words: str) -> None:
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    for word in words:
        assert word in result.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--drafter", "suffix:depth=8", "--depth", "9"), ("--depth and --drafter suffix:depth=8 say the same thing",)),
        (("--drafter", "suffix:depth=8,depth=9"), ("depth is given twice",)),
        (("--drafter", "ngram", "--scope", "problem"), ("--scope: drafter ngram has no setting 'scope'",)),
        (("--drafter", "ngram", "--window", "3"), ("--window: drafter ngram has no setting 'window'",)),
        (("--drafter", "last", "--draft-cost", "none"), ("--draft-cost: drafter last has no setting 'cost'",)),
        (("--tensor-parallel-size", "8"), ("tensor_parallel_size = 8 does not change", PROFILE)),
        (("--kv-cache-dtype", "fp8"), ("kv_cache_dtype = fp8 does not change what profile", PROFILE)),
        (("--model", "nosuch"), ("model and device go together",)),
        (("--model", "nosuch", "--device", "h100"), ("model 'nosuch' is unknown",)),
        (("--engine", "max_num_seqs=2"), ("max_num_seqs = 8 was given before",)),
        (("--engine", "block_size=8", "--engine", "block_size=9"), ("block_size = 8 was given before",)),
        (("--engine", "gpu_memory_utilization=0.5"), ("gpu_memory_utilization = 0.5 has no effect",)),
        (("--policy", "fixed:4"), ("'fixed:4' is named twice",)),
    ],
    ids=str,
)
def test_what_is_given_twice_or_in_vain_is_refused(
    flags: tuple[str, ...], words: tuple[str, ...], shell: Callable[..., Shell], small: Path
) -> None:
    result = replay(shell, small, *flags)
    refused(result, result.code, *words)
    assert result.code in (USAGE, INVALID)


def test_flags_beside_a_drafters_settings_count(shell: Callable[..., Shell], small: Path) -> None:
    def drafter(*flags: str) -> str:
        found: str = json.loads(replay(shell, small, *flags).out)["runs"][0]["drafter"]
        return found

    together = ("--window", "1", "--scope", "request", "--min-prob", "0.9")
    assert drafter("--drafter", "suffix:depth=8", *together) == drafter("--depth", "8", *together)
    assert drafter("--drafter", "suffix:depth=8") != drafter("--depth", "8", *together)


@pytest.mark.parametrize(("model", "device"), [("qwen3-235b-a22b", "h100"), ("llama-3.1-70b", "rtx-4090")])
def test_a_model_that_does_not_fit_is_refused(
    model: str, device: str, shell: Callable[..., Shell], small: Path
) -> None:
    flags = ("--model", model, "--device", device)
    refused(replay(shell, small, *flags, profile=False), INVALID, f"{model} on {device}", "leave no room for KV blocks")
    with pytest.raises(InputError, match="leave no room for KV blocks"):
        run(Scenario(trace=str(small), model=model, device=device, policies=["none"]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"policies": ["none"]}, "profile: missing"),
        ({"profile": PROFILE, "policies": ["none", "none"]}, "'none' is named twice"),
        ({"profile": PROFILE, "policies": []}, "policies"),
        ({"profile": PROFILE, "policies": ["none"], "tensor_parallel_size": 8}, "tensor_parallel_size = 8"),
        ({"profile": PROFILE, "policies": ["none"], "model": "qwen3-8b"}, "model and device go together"),
        (
            {"profile": PROFILE, "policies": ["none"], "drafter": {"kind": "suffix", "depth": 999}},
            "drafter.depth = 999",
        ),
        ({"profile": PROFILE, "policies": ["none"], "engine": {"max_num_seqs": 0}}, "engine.max_num_seqs = 0"),
        ({"profile": PROFILE, "policies": ["none"], "polices": []}, "polices: unknown key: did you mean 'policies'"),
    ],
    ids=str,
)
def test_a_scenario_cannot_be_invalid(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as refusal:
        Scenario(trace="trace.parquet", **settings)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_changed_scenario_is_checked_again() -> None:
    good = Scenario(trace="trace.parquet", profile=PROFILE, policies=["none"])
    with pytest.raises(InputError, match="named twice"):
        good.model_copy(update={"policies": ["none", "none"]})


def arriving(path: Path, first_s: float, to: Path) -> Path:
    trace = read(path)
    gaps_s = np.random.default_rng(0).exponential(2**-6, len(trace))
    arrival_s = first_s + np.round(np.cumsum(gaps_s) * 64) / 64  # exact at 1e14, too
    write(from_table(trace.table.append_column("arrival_s", pa.array(arrival_s))).table, to, {"made": "for tests"})
    return to


def test_calendar_arrivals_count_from_the_earliest(shell: Callable[..., Shell], small: Path, tmp_path: Path) -> None:
    makespans = []
    for first_s in (0.0, 1e9, 1e12, 1e13):
        trace = arriving(small, first_s, tmp_path / f"{first_s:g}.parquet")
        makespans.append(json.loads(replay(shell, trace).out)["runs"][0]["makespan_s"])
    assert makespans == [makespans[0]] * 4
    assert makespans[0] > 0.1


def test_arrivals_that_are_no_seconds_are_refused(shell: Callable[..., Shell], small: Path, tmp_path: Path) -> None:
    trace = read(small)
    arrival_s = np.arange(len(trace)) * 1e12
    write(trace.table.append_column("arrival_s", pa.array(arrival_s)), tmp_path / "far.parquet", {"made": "for tests"})
    refused(replay(shell, tmp_path / "far.parquet"), INVALID, "arrival_s spans", "give seconds")


POLICY = """
import sys

def writes(view):
    view.requests.prompt_tokens[:] = 10**6
    return 0

def leaves(view):
    sys.exit(0)

class Early:
    def prepare(self, context):
        sys.exit(0)

early = Early()
"""


@pytest.mark.parametrize(
    ("spec", "words"),
    [("writes", "read-only"), ("leaves", "SystemExit"), ("early", "prepare raised SystemExit")],
)
def test_a_policy_can_neither_write_nor_exit(
    spec: str, words: str, shell: Callable[..., Shell], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quiet_policies.py").write_text(POLICY)
    monkeypatch.syspath_prepend(tmp_path)
    refused(replay(shell, small, "--policy", f"quiet_policies:{spec}"), INVALID, words)
    sys.modules.pop("quiet_policies", None)


def test_a_module_that_exits_is_an_error(
    shell: Callable[..., Shell], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    for flag in ("--policy", "--drafter"):
        result = replay(shell, small, flag, "leaving:anything")
        refused(result, result.code, "importing it raised SystemExit")


def test_settings_without_effect_are_told(shell: Callable[..., Shell], small: Path) -> None:
    warnings = json.loads(replay(shell, small, "--engine", "block_size=32").out)["warnings"]
    assert any("engine.block_size = 32 has no effect" in warning for warning in warnings)


def test_show_refuses_what_only_a_roof_reads(shell: Callable[..., Shell]) -> None:
    refused(shell("profile", "show", PROFILE, "--tp", "4"), USAGE, "--tp: says how many GPUs a --roof is of")
