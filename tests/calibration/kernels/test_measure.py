"""Measuring kernels: what a killed run keeps, what is refused, and what a profile holds of what was measured."""

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.kernels.grid import Limits, points, room_of, step_at, token_grid
from calibration.kernels.journal import Journal
from calibration.kernels.measure import Settings, journal_of, measure
from simulator.catalogue import load_model
from simulator.cost.model_config import model_shape
from simulator.cost.profiles import load_profile
from simulator.cost.work import StepWork
from tests.calibration.model.configs import KINDS, PLAIN
from traces.errors import InputError

SMALL = Settings(PLAIN, "tiny", max_num_seqs=4, max_model_len=128, max_width=3, max_num_batched_tokens=128)
LIMITS = Limits(16, 512, 9, 256, 20 * 640)


def small(**others: object) -> Settings:
    return replace(SMALL, **others)  # type: ignore[arg-type]


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """SIGKILL at random moments, three times; then every point is there once, those of before as they were."""
    config, out = tmp_path / "config.json", tmp_path / "tiny.parquet"
    config.write_text(json.dumps(PLAIN))
    command = [
        sys.executable, "-c", "from simulator.cli import main; main()", "calibrate", "kernels", "--model", str(config),
        "--out", str(out), "--max-num-seqs", "4", "--max-model-len", "128", "--max-width", "3",
        "--max-num-batched-tokens", "128", "--threads", "1",
    ]  # fmt: skip
    journal, rng = journal_of(out), random.Random(4)
    kept: list[bytes] = []
    for _ in range(3):
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while run.poll() is None and (not journal.exists() or len(journal.read_bytes().splitlines()) < len(kept) + 3):
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.4))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        lines = journal.read_bytes().split(b"\n")[:-1]
        assert lines[: len(kept)] == kept
        assert len(lines) > len(kept)
        assert not out.exists()
        kept = lines
    with journal.open("ab") as file:
        file.write(b'{"operator": "qkv_pr')  # cut short, as a power failure may leave it
    subprocess.run(command, check=True, capture_output=True)
    lines = journal.read_bytes().splitlines()
    assert lines[: len(kept)] == kept
    keys = [(line["operator"], *line["at"][:-1]) for line in map(json.loads, lines[1:])]
    limits = Limits(**{name: json.loads(lines[0])["about"][name] for name in Limits.__dataclass_fields__})
    assert sorted(keys) == sorted((name, *at) for name, at in points(model_shape(PLAIN), limits, "quick", (), False))
    before = journal.read_bytes()
    subprocess.run(command, check=True, capture_output=True)
    assert journal.read_bytes() == before


def test_a_journal_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path, {"model": "a", "seed": 1}).close()
    with pytest.raises(InputError, match="measured with model = a, and this run has b"):
        Journal(path, {"model": "b", "seed": 1})
    path.write_text("nonsense\n")
    with pytest.raises(InputError, match="line 1: not a measured point"):
        Journal(path, {"model": "a"})


@pytest.mark.parametrize(("seqs", "width", "tokens"), [(2, 2, 128), (2, 2, 64)])
def test_little_room_is_enough(tmp_path: Path, seqs: int, width: int, tokens: int) -> None:
    """With room for hardly more than one sequence, fewer prompts come in beside it."""
    out = tmp_path / "tiny.parquet"
    profile = measure(small(max_num_seqs=seqs, max_width=width, max_num_batched_tokens=tokens), out)
    assert profile.held_out["whole steps"]["points"] == 40
    assert '"operator": "mixed"' in journal_of(out).read_text()


@pytest.mark.parametrize("kind", ["qwen3", "experts beside a shared one", "one dense layer, then experts"])
def test_a_profile_holds_what_was_measured(tmp_path: Path, kind: str) -> None:
    """Each point of a table is its journal's median, and the profile reads back the same."""
    out = tmp_path / "tiny.parquet"
    profile = measure(small(config=KINDS[kind], draft=PLAIN), out)
    lines = [json.loads(line) for line in journal_of(out).read_text().splitlines()[1:]]
    seconds = {(line["operator"], *line["at"][:-1]): line["median_s"] for line in lines}
    for name in ("qkv_proj", "o_proj", "lm_head"):
        found = profile.operator_times(StepWork.decode([1, 4, 64], 10.0))[name]
        np.testing.assert_allclose(found, [seconds[name, count] for count in (1, 4, 64)], rtol=1e-9)
    found = profile.operator_times(StepWork.decode([1, 4], 128.0, 3))["attention"]
    np.testing.assert_allclose(found, [seconds["attention", n, 128, 3] for n in (1, 4)], rtol=1e-9)
    assert ("experts" in profile.held_out) == ("experts" in kind)
    assert profile.relative_error == profile.held_out["whole steps"]["median"]
    assert profile.held_out["whole steps"]["points"] == 40
    assert set(profile.fits) == {"das", "additive", "roofline"}
    assert set(profile.drafter_costs) == {"eagle", "draft_model", "suffix"}
    assert profile.measured["copy_bandwidth_bytes_per_s"] > 1e9
    assert profile.spread["attention"]["points"] == 3 * 3 * 2
    assert not profile.derived, "verification is measured, not derived"
    again = load_profile(out)
    assert (again.fits, again.spread, again.measured) == (profile.fits, profile.spread, profile.measured)
    work = StepWork.decode([1, 2, 3], 77.0, 2)
    np.testing.assert_array_equal(again.step_time_s(work), profile.step_time_s(work))
    assert again.outside(StepWork.decode([4, 5, 4, 4], [100, 100, 200, 100], [1, 1, 1, 4])).tolist() == [
        False,
        True,
        True,
        True,
    ]


def test_points_stay_within_what_fits() -> None:
    limits = replace(LIMITS, kv_tokens=5000)
    for operator, at in points(model_shape(PLAIN), limits, "full", (), True):
        if operator in ("attention", "eagle"):
            assert (at[0] + 1) * room_of(at[1], limits.max_width) <= limits.kv_tokens
        if operator == "prefill":
            assert sum(at) <= limits.max_model_len
    for number in range(50):
        contexts, widths = step_at(number, limits, 0)
        assert (contexts.size + 1) * (contexts.max() + 64) <= limits.kv_tokens
        assert widths.max() <= limits.max_width
        assert widths.sum() <= limits.max_num_batched_tokens


def test_token_grids_hold_all_small_numbers_or_the_sizes_of_graphs() -> None:
    plain, graphs = (
        token_grid(LIMITS, "quick", ()),
        token_grid(replace(LIMITS, max_num_batched_tokens=2048), "quick", (1, 2, 4, 8, 64)),
    )
    assert plain[:16] == list(range(1, 17))
    assert plain[-1] == 256
    assert graphs[:5] == [1, 2, 4, 8, 64]
    assert graphs[-1] == 2048
    assert max(b / a for a, b in itertools.pairwise(graphs[4:])) <= 2


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"device": "cuda"}, "torch finds no GPU here"),
        ({"device": "tpu"}, "use cpu or cuda"),
        ({"max_model_len": 5}, "max_model_len = 5: give at least 128"),
        ({"max_num_seqs": 1}, "max_num_seqs = 1: give at least 2"),
        ({"config": PLAIN | {"num_hidden_layers": 64, "num_key_value_heads": 6, "head_dim": 512}, "max_model_len": 4096},
         "are left for KV"),
        ({"config": load_model("gpt-oss-20b")}, "attention windows, .* which the decoder that is measured does not have: import"),
        ({"draft": load_model("gemma-3-4b")}, "norms .* does not have: import tables .* roofline estimate"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(tmp_path: Path, others: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(small(**others), tmp_path / "p.parquet")
    with pytest.raises(InputError, match="give one of these suffixes"):
        measure(SMALL, tmp_path / "p.csv")
