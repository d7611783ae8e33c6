"""Recordings of vLLM as measured runs: when requests had their tokens, and the same of the simulation."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calibration.live import recording
from calibration.live.recording import Run
from calibration.replay_run import simulate_run
from calibration.runs.measured import MeasuredRun
from calibration.runs.read import read_run
from calibration.runs.settled import settle
from calibration.validation import SimulatedRun, compare
from simulator.catalogue import load_model
from simulator.cost import load_profile
from simulator.cost.model_config import model_shape
from tests.cli.conftest import PROFILE, Shell
from tests.cli.conftest import shell as shell

HERE = Path(__file__).parent
RECORDED, ATTACHED = HERE / "recorded", HERE / "attached"
"""`calibrate vllm` of vLLM 0.32.0 on a CPU, driven and attached to, as the commands in their run.json say."""
FLAGS = ("--profile", PROFILE, "--model", "llama-3.1-8b")


def both(path: Path) -> tuple[MeasuredRun, SimulatedRun]:
    """A run and its simulation, at costs of another model on another device."""
    run = read_run(path)
    facts = settle(run, model_shape(load_model("llama-3.1-8b"))).facts
    return run, simulate_run(run, facts, load_profile(PROFILE), None, "round_robin")


def step_of(ends_s: np.ndarray, times_s: np.ndarray) -> list[int]:
    """In which step each time lies, by when steps end."""
    return np.searchsorted(ends_s, times_s - 1e-9).tolist()


@pytest.mark.parametrize("slots", [4, 16])
@pytest.mark.parametrize("name", ["none", "ngram-2", "ngram-8"])
def test_tokens_come_in_the_steps_of_the_simulation(name: str, slots: int) -> None:
    # Seconds are another device's; where steps are vLLM's, so is the step that has a rollout's first and last token.
    recorded = recording.read_one(RECORDED, Run(name, slots, 0))
    run, simulated = both(RECORDED / f"{name}-at-{slots}.0.parquet")
    ends_s, steps = recorded.steps.column("end_s").to_numpy(), simulated.steps
    for measured_s, simulated_s in (
        (run.requests.first_token_s, simulated.first_token_s), (run.requests.last_token_s, simulated.last_token_s),
    ):  # fmt: skip
        expected = step_of(ends_s, measured_s)
        assert step_of(steps.start_s + steps.duration_s, simulated_s) == expected
        assert len(set(expected)) > 8
    assert simulated.counts.items() >= run.counts.items()
    assert ("drafted" in run.counts) == (name != "none")


def test_times_are_those_of_the_steps() -> None:
    recorded = recording.read_one(RECORDED, Run("ngram-8", 4, 0))
    run = read_run(RECORDED / "ngram-8-at-4.0.steps.parquet")
    had = dict.fromkeys(range(len(recorded.trace)), 0)
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    begun: dict[int, float] = {}
    for step in recorded.steps.to_pylist():
        for rollout, emitted in zip(step["rollout"], step["emitted"], strict=True):
            begun.setdefault(rollout, step["scheduled_s"])
            had[rollout] += emitted
            if had[rollout]:
                first.setdefault(rollout, step["end_s"])
            if had[rollout] >= recorded.trace.output_tokens[rollout]:
                last.setdefault(rollout, step["end_s"])
    requests = run.requests
    for found, expected in (
        (requests.first_token_s, first),
        (requests.last_token_s, last),
        (requests.scheduled_s, begun),
    ):
        assert found.tolist() == [expected[rollout] for rollout in sorted(expected)]
    assert (requests.arrival_s == 0).all()
    assert run.settings.cudagraph_capture_sizes == ()


def test_sums_of_suffix_drafts_are_close() -> None:
    run, simulated = both(RECORDED / "suffix-8-at-16.0.parquet")
    for name in ("drafted", "accepted"):
        assert simulated.counts[name] == pytest.approx(run.counts[name], rel=0.04)
        assert simulated.counts[name] != run.counts[name]


@pytest.mark.parametrize("slots", [4, 8])
def test_a_servers_requests(slots: int) -> None:
    recorded = recording.read_one(ATTACHED, Run("ngram-4", slots, 0))
    run, simulated = both(ATTACHED / f"ngram-4-at-{slots}.0.parquet")
    assert recorded.requests is not None
    rows = recorded.requests.to_pylist()
    assert run.requests.first_token_s.tolist() == [row["chunk_s"][0] for row in rows]
    assert run.requests.last_token_s.tolist() == [row["chunk_s"][-1] for row in rows]
    assert run.requests.output_tokens.tolist() == [row["completion_tokens"] for row in rows]
    assert run.requests.prompt_tokens.tolist() == [row["prompt_tokens"] for row in rows]
    for row in rows:
        assert row["sent_s"] < row["chunk_s"][0] <= row["chunk_s"][-1] <= row["finished_s"] <= recorded.about["seconds"]
        assert row["chunk_s"] == sorted(row["chunk_s"])
        assert sum(row["chunk_tokens"]) == row["completion_tokens"]
        assert min(row["chunk_tokens"]) > 0
    # At temperature 0 all is decided: what the server drafted and accepted in sum is what the simulator does.
    assert run.counts == {"drafted": 1728, "accepted": 976, "preempted": 0}
    assert simulated.counts == run.counts
    makespan = compare(run, simulated)[-4]
    assert (makespan.metric, makespan.measured) == (
        "makespan_s",
        pytest.approx(max(row["chunk_s"][-1] for row in rows)),
    )


def test_requests_that_wait_for_a_slot_are_sent_when_one_is_free() -> None:
    held, queued = (recording.read_one(ATTACHED, Run("ngram-4", slots, 0)).requests for slots in (4, 8))
    assert held is not None
    assert queued is not None
    sent_s, finished_s = (np.sort(held.column(name).to_numpy()) for name in ("sent_s", "finished_s"))
    assert (sent_s[4:] >= finished_s[:-4]).all(), "at most 4 are in flight"
    assert queued.column("sent_s").to_numpy().max() < queued.column("finished_s").to_numpy().min(), "the server queues"


def test_the_command_compares_one_run(shell: Callable[..., Shell], tmp_path: Path) -> None:
    told = shell("validate", RECORDED / "ngram-8-at-16.0.parquet", *FLAGS, "--out", tmp_path / "out")
    assert told.code in (0, 4), told.err
    rows = {tuple(line.split()[:2]): line.split()[2:] for line in told.out.splitlines() if line}
    run = read_run(RECORDED / "ngram-8-at-16.0.parquet")
    assert rows["drafted", "sum"] == [str(run.counts["drafted"])] * 2 + ["+0.00%"]
    assert float(rows["ttft_s", "mean"][0]) == pytest.approx(run.requests.first_token_s.mean(), rel=1e-4)
    assert "what drafting takes on the host is not simulated" in told.out
    assert (tmp_path / "out" / "validation.png").read_bytes().startswith(b"\x89PNG")
    document = json.loads(shell("validate", ATTACHED / "ngram-4-at-4.0.parquet", *FLAGS, "--json").out)
    assert document["run"]["kind"] == "vLLM server"
    assert document["model"]["name"] == "calibration/models/countdown"
    assert [row["metric"] for row in document["metrics"][-3:]] == ["drafted", "accepted", "preempted"]
    assert any("accepted past the end" in warning for warning in document["warnings"])


def test_which_run_is_said_by_its_file(shell: Callable[..., Shell], tmp_path: Path) -> None:
    several = shell("validate", ATTACHED, *FLAGS)
    assert several.code == 3
    assert "holds 2 runs (ngram-4-at-4.0, ngram-4-at-8.0): give the file of one, such as" in several.err
    for name in ("run.json", "ngram-4-at-4.0.parquet", "ngram-4-at-4.0.requests.parquet"):
        shutil.copy(ATTACHED / name, tmp_path)
    assert (
        read_run(tmp_path).requests.last_token_s.tolist()
        == read_run(ATTACHED / "ngram-4-at-4.0.requests.parquet").requests.last_token_s.tolist()
    )
    shutil.copy(ATTACHED / "ngram-4-at-8.0.parquet", tmp_path)
    undone = shell("validate", tmp_path / "ngram-4-at-8.0.parquet", *FLAGS)
    assert "is of no run that is done: give that of ngram-4-at-4.0" in undone.err
    assert len(undone.err.splitlines()) == 1


def test_a_server_shows_no_steps(shell: Callable[..., Shell]) -> None:
    told = shell("validate", ATTACHED, "--steps")
    assert told.code == 3
    assert "whose steps nobody sees" in told.err
