"""rolloutsim's own drafter and policies inside vLLM: no token changes, and the simulator steps as the engine did."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from calibration.live import recording, steps
from calibration.live.recording import Recorded
from tests.calibration.live.live_engine import PYTHON, TRACE, command, environment, needs_vllm


def configuration(most: int, **settings: Any) -> str:
    ours = {"profile": "h100-llama-3.1-8b-published", "max_tokens": 160, "stop_token_ids": [36], **settings}
    return json.dumps({
        "method": "custom_class", "model": "simulator.deploy.vllm_proposer.SuffixProposer", "num_speculative_tokens": most,
        "rolloutsim": ours,
    })  # fmt: skip


def recorded(out: Path, *more: str) -> dict[str, Recorded]:
    needs_vllm()
    if subprocess.run(
        [str(PYTHON), "-c", "import simulator, pyarrow"], check=False, stderr=subprocess.DEVNULL
    ).returncode:
        pytest.skip("vLLM's environment has no rolloutsim: `make vllm` puts it there")
    done = subprocess.run(command(out, *more), env=environment(), stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {run.name: run for run in recording.read(out)}


def test_greedy_output_is_that_without_drafts(tmp_path: Path) -> None:
    warm = configuration(24, history=str(TRACE), step=20, policy="das")
    runs = recorded(
        tmp_path / "R", "--temperature", "0", "--rollouts", "64", "--one-at-a-time",
        "--speculative-config", "none", "--speculative-config", f"das={warm}",
    )  # fmt: skip
    assert runs["das"].trace.table.column("token_ids") == runs["none"].trace.table.column("token_ids")
    found = steps.compare(runs["das"])
    assert found.measured.columns["accepted"].sum() > 0
    assert runs["das"].steps.num_rows < runs["none"].steps.num_rows
    facts = runs["das"].about["rolloutsim"]
    assert facts["history_tokens"] > 10_000
    assert facts["history_sha256"] == runs["das"].about["trace_sha256"]


def test_every_step_is_the_simulators(tmp_path: Path) -> None:
    runs = recorded(
        tmp_path / "R", "--rollouts", "32", "--one-at-a-time",
        "--speculative-config", "cold=" + configuration(8, policy="fixed:8"),
        "--speculative-config", "warm=" + configuration(6, history=str(TRACE), step=20, policy="aimd"),
    )  # fmt: skip
    for run in runs.values():
        found = steps.compare(run)
        assert found.first_difference is None, found.measured.row(found.first_difference or 0)
        assert found.measured.columns["accepted"].sum() > 0


def test_a_bad_setting_is_told_in_one_line(tmp_path: Path) -> None:
    needs_vllm()
    asked = command(tmp_path / "R", "--speculative-config", configuration(4, policy="oracle"), "--rollouts", "2")
    done = subprocess.run(asked, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "additional_config.rolloutsim: policy 'oracle' is unknown" in done.stderr.splitlines()[-1]
