"""A run that is killed again and again records what an uninterrupted one does."""

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from calibration.rl import sft  # noqa: E402
from calibration.rl.policy import fresh, logits  # noqa: E402
from calibration.rl.record import prompts_of, record  # noqa: E402
from calibration.rl.settings import Settings  # noqa: E402
from calibration.rl.table import name_of, rounded  # noqa: E402
from calibration.rl.vocabulary import encode, prompt_of  # noqa: E402
from tests.calibration.rl.small_run import SMALL, run  # noqa: E402
from traces import io  # noqa: E402
from traces.errors import InputError  # noqa: E402

ROOT = Path(__file__).parents[3]
START = "from pathlib import Path; from tests.calibration.rl.small_run import run; run(Path('killed.parquet'))"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("record") / "whole.parquet"
    run(out)
    return out


def test_a_run_killed_at_any_moment_goes_on_and_records_the_same(uninterrupted, tmp_path):
    random = np.random.default_rng(11)
    state = tmp_path / "killed.parquet.state"
    for waits_for in ("configuration.json", "checkpoint.pt", "step-0000.parquet"):
        process = _start(tmp_path)
        while process.poll() is None and not (state / waits_for).exists():
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        process.wait()
    assert any(state.glob("step-*"))  # the last one was killed after an RL step
    assert _start(tmp_path).wait(timeout=60) == 0
    whole, killed = io.read(uninterrupted).table, io.read(tmp_path / "killed.parquet").table
    assert not killed.column("next_logprobs").equals(killed.column("logprobs"))  # it learnt
    assert killed.equals(whole)  # every column: ids, rewards and log-probabilities to the last bit


def _start(folder):
    return subprocess.Popen([sys.executable, "-c", START], cwd=folder, env={"PYTHONPATH": str(ROOT)})


def test_a_finished_run_is_not_run_again(uninterrupted):
    content, told = uninterrupted.read_bytes(), []
    record(SMALL, uninterrupted, "test", told.append)
    assert told == [f"{uninterrupted} is recorded already"]
    assert uninterrupted.read_bytes() == content


def test_a_lost_file_is_written_again_from_the_state(uninterrupted, tmp_path):
    out = tmp_path / uninterrupted.name
    shutil.copytree(f"{uninterrupted}.state", f"{out}.state")
    told = []
    record(SMALL, out, "test", told.append)
    assert told == [f"going on after 5 RL steps, from {out}.state"]
    assert io.read(out).table.equals(io.read(uninterrupted).table)


def test_another_file_is_not_overwritten(tmp_path):
    out = tmp_path / "mine.parquet"
    out.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"mine\.parquet: already exists"):
        record(SMALL, out, "test", lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.parquet"]


def test_another_configuration_is_refused_and_told_apart(uninterrupted):
    with pytest.raises(InputError, match=r"holds another run \(samples 4 there, 8 here; seed 3 there, 4 here\)"):
        record(replace(SMALL, samples=8, seed=4), uninterrupted, "test", lambda line: None)


def test_a_broken_checkpoint_is_named(tmp_path):
    out = tmp_path / "run.parquet"
    record(replace(SMALL, steps=1, sft_steps=1), out, "test", lambda line: None)
    out.unlink()
    checkpoint = tmp_path / "run.parquet.state" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"checkpoint\.pt: is no checkpoint .*delete"):
        record(replace(SMALL, steps=1, sft_steps=1), out, "test", lambda line: None)


@pytest.mark.parametrize(("change", "named"), [({"samples": 1}, "--samples"), ({"prompts": 2}, "--prompts")])
def test_settings_that_cannot_learn_are_refused(change, named):
    with pytest.raises(InputError, match=named):
        replace(SMALL, **change)


def test_the_file_says_what_was_run_and_how_long_each_phase_took(uninterrupted):
    trace = io.read(uninterrupted)
    origin = io.provenance(trace.table)
    assert origin["settings"]["seed"] == 3
    assert {"torch", "python", "rolloutsim"} <= set(origin["versions"])
    assert len(origin["phases"]) == len(trace.steps) == 5
    assert all(set(phase) == {"rollout_s", "reward_s", "update_s", "logprob_s"} for phase in origin["phases"])
    assert {len(group) for group in np.split(trace.sample, 5)} == {8 * 4}
    assert trace.prompt_ids == [name_of(problem) for problem in prompts_of(SMALL)]


def test_prompts_are_held_out_of_the_lessons():
    problems = prompts_of(Settings())
    assert len(set(problems)) == 64
    posed = {tuple(encode(prompt_of(problem))) for problem in problems}
    lessons = [sft.lesson(0, step, 16, set(problems)) for step in range(20)]
    assert not posed & {tuple(prompt) for lesson in lessons for prompt in lesson.prompts}
    freely = [sft.lesson(0, step, 16) for step in range(20)]
    assert posed & {tuple(prompt) for lesson in freely for prompt in lesson.prompts}


def test_supervised_steps_lower_the_loss():
    shape = SMALL.shape
    weights = {name: weight.requires_grad_() for name, weight in fresh(shape, 0).items()}
    optimiser = torch.optim.AdamW(weights.values(), lr=1e-2)
    losses = [
        sft.teach(weights, shape, optimiser, sft.lesson(0, step, 40), np.random.default_rng(step), 2, "cpu")
        for step in range(5)
    ]
    assert losses[-1] < losses[0] - 0.5
    assert torch.isfinite(logits(weights, shape, torch.tensor([[1, 2]]))).all()


def test_rounding_keeps_ten_bits_and_compares_with_exact_arithmetic():
    values = -np.random.default_rng(0).exponential(size=10_000).astype(np.float32)
    found = rounded(values)
    mantissa, exponent = np.frexp(values.astype(np.float64))
    expected = np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent)
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    assert not np.signbit(rounded(np.array([-0.0], np.float32)))[0]
