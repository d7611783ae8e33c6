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


def simulated(profile: Profile, **facts: object) -> tuple[str, ...]:
    run = MeasuredRun(
        Path("run"), "made up", "m", arranged(["a", "b"], COLUMNS, (tuple(k for k in COLUMNS if k.endswith("_s")),)),
        EngineFacts(), "arrival",
    )  # fmt: skip
    settings, _ = completed(replace(EngineFacts(), **facts))  # type: ignore[arg-type]
    result = simulate_run(run, settings, profile, None, "round_robin")
    assert np.isfinite(result.last_token_s).all()
    return result.notes


def test_costs_of_the_runs_own_parallelism_are_simulated() -> None:
    assert not simulated(PROFILE, tensor_parallel_size=2)
    spread = replace(PROFILE, parallel={"tensor_parallel_size": 2, "expert_parallel_size": 4})
    facts = {"tensor_parallel_size": 2, "data_parallel_size": 2, "enable_expert_parallel": True}
    assert any("ranks step on their own" in note for note in simulated(spread, **facts))
    silent = replace(PROFILE, parallel={})
    assert any("tensor parallel size 2" in note for note in simulated(silent, tensor_parallel_size=2))


@pytest.mark.parametrize(
    ("parallel", "facts", "words"),
    [
        (
            {"tensor_parallel_size": 2},
            {"tensor_parallel_size": 4},
            "says tensor_parallel_size 2, but the run had 4: import one with --tp 4",
        ),
        ({"tensor_parallel_size": 2}, {}, "says tensor_parallel_size 2, but the run had 1"),
        (
            {},
            {"tensor_parallel_size": 2, "enable_expert_parallel": True},
            "says no expert_parallel_size, but the run had 2: import one with --ep 2",
        ),
        ({"expert_parallel_size": 2}, {"tensor_parallel_size": 2}, "says expert_parallel_size 2, but the run had 1"),
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
