"""The means of speed-ups are those of their definitions, and differ as they must."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from simulator.compare.speedups import geometric_mean, mean
from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from tests.cli.conftest import PROFILE
from tests.conftest import ROOT


def test_they_are_what_they_say() -> None:
    base, own = np.array([8.0, 1.0]), np.array([2.0, 1.0])
    assert geometric_mean(base, own) == pytest.approx(2.0)
    assert mean(base, own) == pytest.approx(2.5)
    assert geometric_mean(base, own[:1]) is None
    assert geometric_mean([], []) is None
    assert mean(np.array([1.0]), np.array([0.0])) is None


@pytest.fixture(scope="module")
def played() -> Callable[..., Result]:
    def play(**more: object) -> Result:
        return run(build({
            "trace": str(ROOT / "traces/data/demo.parquet"), "profile": PROFILE, "steps": [2, 3], "engine": {"max_num_seqs": 4},
            "policies": ["none", "fixed:4"], **more,
        }))  # fmt: skip

    return play


def test_a_result_has_them_by_their_definitions(played: Callable[..., Result]) -> None:
    found = played(compare={"bootstrap": 0})
    rollouts = found.rollouts.to_pandas().set_index(["system", "step", "prompt_id", "sample"])
    seconds = rollouts["finished_s"] - rollouts["admitted_s"]
    ratios = seconds["none"] / seconds["fixed:4"]
    steps = found.rl_steps.to_pandas().pivot_table(index="step", columns="system", values="makespan_s")
    by_step = math.exp(np.log(steps["none"] / steps["fixed:4"]).mean())
    assert found.comparison is not None
    for row in (found.runs.to_pylist()[1], found.comparison.table.to_pylist()[1]):
        assert row["speedup"] == pytest.approx(steps["none"].sum() / steps["fixed:4"].sum(), rel=1e-12)
        assert row["step_speedup"] == pytest.approx(by_step, rel=1e-12)
        assert row["rollout_speedup"] == pytest.approx(math.exp(np.log(ratios).mean()), rel=1e-9)
        assert row["rollout_speedup_mean"] == pytest.approx(ratios.mean(), rel=1e-9)
        assert row["rollout_speedup_mean"] > row["rollout_speedup"] != row["speedup"]
    assert [
        found.runs.to_pylist()[0][name] for name in ("step_speedup", "rollout_speedup", "rollout_speedup_mean")
    ] == [1] * 3


def test_other_rollouts_have_no_speed_up_each(played: Callable[..., Result]) -> None:
    shorter = {"name": "cut", "policy": "none", "transforms": ["compress:to=0.5"]}
    row = played(systems=[shorter]).runs.to_pylist()[2]
    assert row["rollout_speedup"] is row["rollout_speedup_mean"] is None
    assert row["step_speedup"] > 1.5


def test_a_drafter_that_is_not_lossless_marks_the_policies_that_draft(
    played: Callable[..., Result], tmp_path: Path
) -> None:
    found = played(
        drafter={"kind": "diffusion", "curve": [0.8, 0.7], "cost": {"per_pass_s": 0.001}}, compare={"bootstrap": 0}
    )
    assert found.runs["lossless"].to_pylist() == [True, False]
    assert found.comparison is not None
    text = found.comparison.text()
    assert "fixed:4 (lossy)" in text
    assert "none (lossy)" not in text
