"""A run is simulated by costs of its own parallelism, or refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.replay_run import simulate_run
from calibration.runs.facts import EngineFacts, completed
from calibration.runs.measured import MeasuredRun, arranged
from simulator.catalogue import estimate
from simulator.cost.model import Profile
from traces.errors import InputError

COLUMNS = {"arrival_s": [0.0, 0.0], "prompt_tokens": [9, 9], "output_tokens": [4, 4], "first_token_s": [1.0, 1.0],
           "last_token_s": [2.0, 2.0]}  # fmt: skip
PROFILE = estimate("qwen3-30b-a3b", "h100", 2)


ORDERED = (tuple(name for name in COLUMNS if name.endswith("_s")),)


def settled_run() -> MeasuredRun:
    return MeasuredRun(
        Path("run"), "made up", "m", arranged(["a", "b"], COLUMNS, ORDERED), EngineFacts(), "arrival"
    )  # fmt: skip


def simulated(profile: Profile, **facts: object) -> tuple[str, ...]:
    run = settled_run()
    settings, _ = completed(replace(EngineFacts(), **facts))  # type: ignore[arg-type]
    result = simulate_run(run, settings, profile, None, "round_robin")
    assert np.isfinite(result.last_token_s).all()
    return result.notes


def test_costs_of_the_runs_own_parallelism_are_simulated() -> None:
    assert not simulated(PROFILE, tensor_parallel_size=2)
    spread = replace(PROFILE, parallel={"tensor_parallel_size": 2, "expert_parallel_size": 4})
    facts = {"tensor_parallel_size": 2, "data_parallel_size": 2, "enable_expert_parallel": True}
    assert any("2 ranks share experts and step together" in note for note in simulated(spread, **facts))


def test_ranks_of_a_run_step_together() -> None:
    """One request, on one of two ranks that share experts: what the other would do meanwhile makes its steps no shorter."""
    two = replace(PROFILE, parallel={"tensor_parallel_size": 1, "expert_parallel_size": 2})
    facts = {"data_parallel_size": 2, "enable_expert_parallel": True}
    (note,) = simulated(two, **facts)
    assert note.startswith("2 ranks share experts and step together: 0.0%")  # two requests alike, one on each
    run = replace(settled_run(), requests=arranged(["a"], {k: v[:1] for k, v in COLUMNS.items()}, ORDERED))
    settings, _ = completed(replace(EngineFacts(), **facts))  # type: ignore[arg-type]
    result = simulate_run(run, settings, two, None, "round_robin")
    assert any("step together: 50.0%" in note for note in result.notes)
    assert result.steps.replica.tolist() == [0] * 4


@pytest.mark.parametrize(
    ("parallel", "facts", "words"),
    [
        (
            {"tensor_parallel_size": 2},
            {"tensor_parallel_size": 4},
            "says tensor_parallel_size 2, but the run had 4: import one with --tp 4",
        ),
        ({"tensor_parallel_size": 2}, {}, "says tensor_parallel_size 2, but the run had 1"),
        ({}, {"tensor_parallel_size": 2}, "says no tensor_parallel_size, but the run had 2: import one with --tp 2"),
        (
            {"tensor_parallel_size": 2},
            {"tensor_parallel_size": 2, "enable_expert_parallel": True},
            "says no expert_parallel_size, but the run had 2: import one with --ep 2",
        ),
        ({"expert_parallel_size": 2}, {}, "says expert_parallel_size 2, but the run had 1"),
    ],
)
def test_costs_of_other_parallelism_are_refused(parallel: dict[str, int], facts: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        simulated(replace(PROFILE, parallel=parallel), **facts)


@pytest.mark.parametrize(
    ("parallel", "words"),
    [({"tensor": 2}, "parallel.tensor is not a kind"), ({"tensor_parallel_size": 0}, "= 0: give a whole number")],
)
def test_parallelism_is_checked(parallel: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(PROFILE, parallel=parallel)
