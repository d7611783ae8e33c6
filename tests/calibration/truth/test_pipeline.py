"""Measure, decode, simulate, compare: with a clock that counts operations, and with the real one."""

from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from calibration.kernels.measure import Settings, measure
from calibration.truth.chosen import Choice
from calibration.truth.compare import Comparison, compare, verdicts
from calibration.truth.replay import replay
from simulator.drafting.suffix import Suffix
from tests.calibration.counting import CountingClock
from tests.calibration.truth.decoding import made_up, settings

CONFIG = {
    "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512, "max_position_embeddings": 4096, "torch_dtype": "float32",
}  # fmt: skip
POLICIES = ["none", "fixed:2", "fixed:4", "das"]
KERNELS = Settings(CONFIG, "tiny", max_num_seqs=8, max_model_len=256, max_width=5, max_num_batched_tokens=256)


def pipeline(folder: Path, repeats: int) -> list[Comparison]:
    """Profile a model, decode 12 rollouts under four policies, and simulate them with the profile."""
    profile = measure(KERNELS, folder / "tiny.parquet")
    trace = made_up(folder, prompts=2, samples=6, median_tokens=60.0, max_tokens=200)
    asked = settings(POLICIES, choice=Choice(1), max_num_seqs=8, drafter=Suffix(factor=1.0), repeats=repeats)
    truth = replay(replace(asked, config=CONFIG, profile=profile), trace, "test")
    return compare(truth, trace, profile)


def test_nothing_is_lost_between_operators_and_makespans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock without noise what is left is interpolation, and what a batch's means do not tell of its members."""
    with CountingClock(monkeypatch):
        found = pipeline(tmp_path, 1)
    for one in found:
        assert abs(one.error) < 0.01, one.row()
        assert one.median_step_error < 0.01, one.row()
        assert one.spread < 1e-6
    (verdict,) = verdicts(found)
    assert verdict.order_kept
    assert verdict.regret == 0.0


def test_an_operator_left_out_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: without its attention a profile is far off."""
    with CountingClock(monkeypatch):
        profile = measure(KERNELS, tmp_path / "tiny.parquet")
        trace = made_up(tmp_path, prompts=2, samples=6, median_tokens=60.0, max_tokens=200)
        asked = replace(settings(["fixed:4"], max_num_seqs=8), config=CONFIG, profile=profile)
        truth = replay(asked, trace, "test")
    without = replace(profile, operators=tuple(one for one in profile.operators if one.name != "attention"))
    (found,) = compare(truth, trace, without)
    assert found.error < -0.1


def test_makespans_by_the_real_clock_are_of_the_right_size(tmp_path: Path) -> None:
    """By the real clock nothing is off by a factor: a wrong unit or a pass left out would be.

    How near they come depends on the machine of the moment: `python -m tests.benchmarks.calibration` prints it.
    """
    found = pipeline(tmp_path, 3)
    assert all(one.simulated_s > 0 for one in found)
    assert median(abs(one.error) for one in found) < 0.5, [one.row() for one in found]
