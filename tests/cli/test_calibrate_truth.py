"""`calibrate campaign`, `replay` and `validate` from the command line, on a tiny model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.calibration.model.configs import PLAIN
from tests.calibration.truth.decoding import made_up
from tests.cli.conftest import Shell

SMALL = ("--max-num-seqs", 4, "--max-model-len", 128, "--max-width", 3, "--max-num-batched-tokens", 128, "--threads", 1)
RUN = {"policy", "live_batch", "context_tokens", "measured_s", "simulated_s", "error", "median_step_error"}


@pytest.fixture
def campaign(shell: Callable[..., Shell], tmp_path: Path) -> Callable[..., Shell]:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(PLAIN))
    trace = made_up(tmp_path).source

    def run(*more: Any) -> Shell:
        return shell(
            "calibrate", "campaign", trace, "--model", config, *SMALL, "--step", 1, "--at", 2, "--at", "3x40",
            "--max-output-tokens", 12, "--out", tmp_path / "out", *more,
        )  # fmt: skip

    return run


def test_a_campaign_keeps_what_it_measured_and_refuses_what_is_of_something_else(
    campaign: Callable[..., Shell], shell: Callable[..., Shell], tmp_path: Path
) -> None:
    asked = ("--policy", "none", "--policy", "fixed:2")
    first = campaign(*asked, "--repeats", 1)
    assert first.code == 0, first.err
    out = tmp_path / "out"
    truths = [out / "truth-2.parquet", out / "truth-3x40.parquet"]
    before = [path.read_bytes() for path in truths]
    assert campaign(*asked, "--repeats", 1).code == 0
    assert [path.read_bytes() for path in truths] == before
    assert campaign(*asked, "--repeats", 2).code == 0
    assert all(path.read_bytes() != content for path, content in zip(truths, before, strict=True))
    other = campaign("--policy", "none", "--policy", "fixed:1", "--repeats", 1)
    assert (other.code, other.err.count("\n")) == (3, 1)
    assert "truth-2.parquet: policies" in other.err
    told = json.loads(shell("calibrate", "validate", *truths, "--profile", out / "profile.parquet", "--json").out)
    assert told["schema_version"] == 1
    assert [run["policy"] for run in told["runs"]] == ["none", "fixed:2"] * 2
    assert all(run.keys() >= RUN for run in told["runs"])
    assert {path.name for path in out.iterdir()} >= {"ground_truth.md", "ground_truth.json", "ground_truth.png"}
