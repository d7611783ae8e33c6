"""The pictures of a replay: their series equal the tables, and the files are whole."""

import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from simulator.engine.state import STEP
from simulator.replay import run
from simulator.report import plots, system_plots
from simulator.report.drawing import trusted
from simulator.report.series import (
    LiveBatch,
    accepted_by_emitted,
    accepted_by_position,
    last_rl_step,
    live_batches,
    tail_start_s,
    thinned,
)
from simulator.results import ACCEPTANCE, OPERATORS, RL_STEPS, ROLLOUTS, RUNS, SPANS, STEPS, Result, table
from simulator.scenario import build
from traces.errors import InputError

POLICIES = ("none", "fixed:4", "das")
STEP_NUMBERS = (3, 7)
REPLICAS = 3


def decode_log(rng, steps=400):
    """One replica's starts, durations and live sequences, with idle gaps here and there."""
    duration_s = rng.uniform(0.005, 0.03, steps)
    gap_s = np.where(rng.random(steps) < 0.02, rng.uniform(0.0, 0.5, steps), 0.0)
    end_s = np.cumsum(duration_s + gap_s)
    return end_s - duration_s, duration_s, rng.integers(1, 65, steps)


def step_table(seed=1):
    """Decode steps of every policy, RL step and replica, rows in no order."""
    rng = np.random.default_rng(seed)
    blocks = []
    for step in STEP_NUMBERS:
        for policy in POLICIES:
            for replica in range(REPLICAS):
                start_s, duration_s, live = decode_log(rng)
                made = {"system": policy, "step": step, "replica": replica, "start_s": start_s, "duration_s": duration_s,
                        "live": live, "emitted_tokens": live, "extrapolated": False}  # fmt: skip
                blocks.append(dict.fromkeys(STEP.names, 0) | made)
    steps = table(STEPS, blocks)
    return steps.take(pa.array(rng.permutation(steps.num_rows)))


def acceptance_table():
    """Drafts of up to two tokens over 3 + 4 positions of a few rollouts; one bin has no positions."""
    rows = [("position", 1, 1, 10, 8, 10), ("position", 2, 2, 4, 1, 4),
            ("emitted", 0, 0, 0, 0, 3), ("emitted", 1, 2, 14, 9, 4), ("emitted", 3, 6, 0, 0, 0)]  # fmt: skip
    return table(ACCEPTANCE, (dict(zip(ACCEPTANCE.names, row, strict=True)) for row in rows))


TEXTS = {name: "{}" for name in RUNS.names if pa.types.is_string(RUNS.field(name).type)}


def made_result(policies=POLICIES, drafter="suffix(problem)", acceptance=None, extrapolated=0.25):
    """A result whose makespans are those of its decode steps."""
    steps = step_table()
    ends_s = {series.policy: float(series.ends_s[-1]) for series in live_batches(steps)}
    makespans_s = [ends_s[name] for name in POLICIES]
    names = dict(zip(POLICIES, policies, strict=True))
    column = pa.array([names[name] for name in steps["system"].to_pylist()])
    rows = []
    for name, makespan_s in zip(policies, makespans_s, strict=True):
        row = dict.fromkeys(RUNS.names, 1)
        rows.append(row | TEXTS | {"system": name, "policy": name, "drafter": drafter, "lossless": True,
                           "facts": "{}", "rl_steps": 2, "makespan_s": makespan_s, "makespan_low_s": 0.9 * makespan_s,
                           "makespan_high_s": 1.2 * makespan_s, "straggler_s": 0.1 * makespan_s,
                           "speedup": makespans_s[0] / makespan_s, "extrapolated_fraction": extrapolated})  # fmt: skip
    about = {
        "trace": {"path": "folder/some_trace.parquet"},
        "profile": {"name": "some-profile"},
        "scenario": {"engine": {"replicas": REPLICAS, "max_num_seqs": 64}, "systems": []},
    }
    acceptance = acceptance_table() if acceptance is None else acceptance
    return Result(
        table(RUNS, rows),
        RL_STEPS.empty_table(),
        ROLLOUTS.empty_table(),
        steps.set_column(0, "system", column),
        acceptance,
        SPANS.empty_table(),
        OPERATORS.empty_table(),
        about,
    )


def live_at(series, when_s):
    """Read a step line."""
    return series.live[np.searchsorted(series.time_s, when_s, side="right") - 1]


def texts(figure):
    """Every word drawn outside and around the axes."""
    around = [text for axes in figure.axes for text in (axes.title, axes.get_title(loc="left"), *axes.texts)]
    return " | ".join(text if isinstance(text, str) else text.get_text() for text in [*around, *figure.texts])


def test_live_batch_is_the_sum_over_replicas_at_any_moment():
    steps = step_table()
    frame = steps.to_pandas()
    for series in live_batches(steps):
        mine = frame[frame.system == series.policy]
        begins_s = np.append(0.0, series.ends_s[:-1])
        for step, begin_s, end_s in zip(STEP_NUMBERS, begins_s, series.ends_s, strict=True):
            rows = mine[mine.step == step]
            when_s = np.random.default_rng(2).uniform(0.0, end_s - begin_s, 500)
            inside = (rows.start_s.to_numpy() <= when_s[:, None]) & (
                when_s[:, None] < (rows.start_s + rows.duration_s).to_numpy()
            )
            np.testing.assert_array_equal(live_at(series, begin_s + when_s), inside @ rows.live.to_numpy())


def test_integral_of_the_live_batch_is_live_times_duration():
    steps = step_table()
    frame = steps.to_pandas()
    for series in live_batches(steps):
        rows = frame[frame.system == series.policy]
        assert series.live[-1] == 0
        assert (series.live >= 0).all()
        assert (np.diff(series.time_s) > 0).all()
        drawn = series.live[:-1] @ np.diff(series.time_s)
        assert drawn == pytest.approx((rows.live * rows.duration_s).sum(), rel=1e-12)


def test_policies_and_rl_steps_of_one_replica_stay_apart():
    row = {**dict.fromkeys(STEPS.names, 0), "extrapolated": False, "duration_s": 2.0}
    decoded = [("z", 0, 0.0, 4), ("a", 0, 0.0, 4), ("z", 1, 0.5, 4), ("a", 1, 1.0, 3)]
    blocks = [row | dict(zip(("system", "step", "start_s", "live"), values, strict=True)) for values in decoded]
    z, a = live_batches(table(STEPS, blocks))
    assert (z.policy, z.time_s.tolist(), z.live.tolist()) == ("z", [0.0, 2.0, 2.5, 4.5], [4, 0, 4, 0])
    assert (a.policy, a.time_s.tolist(), a.live.tolist()) == ("a", [0.0, 2.0, 3.0, 5.0], [4, 0, 3, 0])
    assert z.ends_s.tolist() == [2.0, 4.5]


def test_rounding_between_decode_steps_is_no_gap():
    row = {**dict.fromkeys(STEPS.names, 0), "system": "none", "extrapolated": False}
    start_s = np.array([0.0, 0.1, 0.1 + 0.2 + 1e-13])
    (series,) = live_batches(
        table(STEPS, [row | {"start_s": start_s, "duration_s": np.array([0.1, 0.2, 0.1]), "live": np.array([5, 5, 2])}])
    )
    np.testing.assert_array_equal(series.live, [5, 2, 0])
    np.testing.assert_allclose(series.time_s, [0.0, 0.3, 0.4])


def test_thinning_keeps_extremes_and_ends_of_every_cell():
    rng = np.random.default_rng(4)
    time_s = np.cumsum(rng.exponential(1.0, 50_000))
    live = rng.integers(100, 200, 50_000)
    live[[31_234, 40_001]] = 999, 1
    kept_s, kept = thinned(time_s, live, columns=100)
    assert kept_s.size <= 4 * 101
    at = np.searchsorted(time_s, kept_s)
    np.testing.assert_array_equal(time_s[at], kept_s)
    np.testing.assert_array_equal(live[at], kept)
    cells = np.array([(x - time_s[0]) * (100 / (time_s[-1] - time_s[0])) for x in (time_s, kept_s)], dtype=object)
    of_all, of_kept = (cell.astype(np.int64) for cell in cells)
    for cell in range(101):
        before, after = live[of_all == cell], kept[of_kept == cell]
        assert (before.min(), before.max(), before[0], before[-1]) == (after.min(), after.max(), after[0], after[-1])


def test_short_lines_are_drawn_as_they_are():
    time_s, live = np.linspace(0.0, 1.0, 400), np.arange(400)
    assert thinned(time_s, live, columns=100)[0] is time_s


def test_tail_begins_after_the_last_time_that_the_batch_was_large():
    two = LiveBatch(
        "none", np.array([0.0, 1, 2, 3, 4, 10, 11, 12]), np.array([9, 1, 8, 2, 1, 9, 3, 0]), np.array([10.0, 12])
    )
    last = last_rl_step(two)
    np.testing.assert_array_equal(last.time_s, [0.0, 1, 2])
    np.testing.assert_array_equal(last.live, [9, 3, 0])
    assert last.ends_s.tolist() == [2.0]
    assert tail_start_s(last, 5.0) == 1.0
    first = LiveBatch("none", two.time_s[:5], two.live[:5], two.ends_s[:1])
    assert tail_start_s(first, 5.0) == 3.0
    assert tail_start_s(first, 50.0) == 0.0


def test_acceptance_series_are_ratios_of_the_table():
    position, probability, drafts = accepted_by_position(acceptance_table())
    assert (position.tolist(), probability.tolist(), drafts.tolist()) == ([1, 2], [0.8, 0.25], [10, 4])
    edges, drafted, accepted, positions = accepted_by_emitted(acceptance_table())
    assert (edges.tolist(), positions.tolist()) == ([0, 1, 3, 7], [3, 4, 0])
    np.testing.assert_array_equal(drafted, [0.0, 3.5, np.nan])
    np.testing.assert_array_equal(accepted, [0.0, 2.25, np.nan])


def test_drawn_lines_are_the_series():
    result = made_result()
    whole, tail = plots._live_batch(result).axes
    for axes, batches in (
        (whole, live_batches(result.steps)),
        (tail, map(last_rl_step, live_batches(result.steps))),
    ):
        lines = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
        for line, series in zip(lines, batches, strict=True):
            x, y = line.get_data()
            shown = ~np.isnan(y)
            np.testing.assert_array_equal(np.unique(x[shown]), series.time_s)
            assert x[-1] == series.ends_s[-1]
            assert np.isnan(y).sum() == series.ends_s.size - 1


def test_bars_are_the_makespans_and_name_the_baseline():
    result = made_result()
    figure = plots._makespan(result)
    others, stragglers, ranges = figure.axes[0].containers
    runs = result.runs.to_pydict()
    ends_s = [bar.get_x() + bar.get_width() for bar in stragglers]
    np.testing.assert_allclose(ends_s, runs["makespan_s"])
    np.testing.assert_allclose([bar.get_width() for bar in stragglers], runs["straggler_s"])
    (lines,) = ranges.lines[2]
    found = np.array([line[:, 0] for line in lines.get_segments()]).T
    np.testing.assert_allclose(found, [runs["makespan_low_s"], runs["makespan_high_s"]])
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > others[-1].get_y() > others[0].get_y() > top, "the first named is at the top"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(POLICIES)
    words = texts(figure)
    for expected in (f"{runs['makespan_s'][1]:.1f} s   {runs['speedup'][1]:.2f}x", "baseline “none”", "some_trace",
                     "some-profile", "3 replicas", "25 % of decoding time lies outside"):  # fmt: skip
        assert expected in words


@pytest.mark.parametrize(("share", "words"), [(0.0, ""), (1e-6, "< 1 % of"), (0.994, "99 % of"), (1.0, "100 % of")])
def test_footnote_tells_the_extrapolated_share(share, words):
    note = trusted(made_result(extrapolated=share))
    assert note.startswith(words)
    assert bool(note) == bool(words)


def assert_is_png(path):
    """Whole, and of a size that a reader can use."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", content[16:24])
    assert 1000 <= width <= 2400
    assert 300 <= height <= 1600
    assert 8_000 < len(content) < 1_000_000


def test_three_files_replace_earlier_ones_and_nothing_else_is_left(tmp_path):
    (tmp_path / "makespan.png").write_text("old")
    paths = plots.save_plots(made_result(), tmp_path)
    assert [path.name for path in paths] == ["live_batch.png", "makespan.png", "acceptance.png"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    for path in paths:
        assert_is_png(path)


def test_names_are_drawn_as_written_however_long(tmp_path):
    odd = ("$\\nope$", "module_of_mine.budgets:policy_$\\frac{1$_with_a_long_name", "a%b{c}")
    for path in plots.save_plots(made_result(policies=odd), tmp_path):
        assert_is_png(path)


def test_a_drafter_without_drafts_says_so(tmp_path):
    for acceptance in (ACCEPTANCE.empty_table(), acceptance_table().slice(2)):
        result = made_result(drafter="none", acceptance=acceptance)
        assert "nothing was drafted" in texts(plots._acceptance_profile(result))
        for path in plots.save_plots(result, tmp_path):
            assert_is_png(path)


def test_folder_that_cannot_be_written_to_is_the_users_error(tmp_path):
    with pytest.raises(InputError, match="create the folder"):
        plots.save_plots(made_result(), tmp_path / "absent")


@pytest.fixture(scope="module")
def replayed(shared_data: Path) -> Result:
    """Long chains of thought on two replicas with too few slots for all."""
    trace = str(shared_data / "rollouts" / "qwq32b_long_cot.parquet")
    return run(build({"trace": trace, "profile": "h100-llama-3.1-8b-published", "policies": ["none", "fixed:4"],
                      "engine": {"max_num_seqs": 32, "replicas": 2}}))  # fmt: skip


def test_series_of_a_replay_agree_with_its_tables(replayed, tmp_path):
    frame = replayed.steps.to_pandas()
    runs = replayed.runs.to_pydict()
    for series, makespan_s in zip(live_batches(replayed.steps), runs["makespan_s"], strict=True):
        rows = frame[frame.system == series.policy]
        assert series.ends_s[-1] == series.time_s[-1] == pytest.approx(makespan_s, rel=1e-12)
        assert series.live.max() == 64
        drawn = series.live[:-1] @ np.diff(series.time_s)
        assert drawn == pytest.approx((rows.live * rows.duration_s).sum(), rel=1e-9)
    for path in plots.save_plots(replayed, tmp_path):
        assert_is_png(path)


def test_systems_are_drawn_by_rl_step_and_by_gpu_time(tmp_path):
    document = {"trace": "traces/data/demo.parquet", "model": "qwen3-8b", "device": "h100", "steps": [1, 2],
                "systems": ["sync", "das"], "stages": ["update"]}  # fmt: skip
    result = run(build(document))
    paths = plots.save_plots(result, tmp_path)
    assert {path.name for path in paths} == {
        "live_batch.png",
        "makespan.png",
        "acceptance.png",
        "rl_steps.png",
        "gpu_time.png",
    }
    lines = system_plots.rl_steps(result).axes[0].lines
    steps_s = result.rl_steps["step_s"].to_numpy().reshape(2, 2).T
    assert all((line.get_ydata() == seconds).all() for line, seconds in zip(lines, steps_s, strict=True))
    patches = np.array([patch.get_width() for patch in system_plots.gpu_time(result).axes[0].patches]).reshape(3, 2)
    runs = result.to_pandas("runs")
    assert patches.sum(axis=0) == pytest.approx(runs["gpus"] * runs["run_s"] / (runs["samples_per_s"] * runs["run_s"]))
    assert patches[1] == pytest.approx(runs["train_gpu_s"] / (runs["samples_per_s"] * runs["run_s"]))
    assert result.runs["gpu_speedup"][1].as_py() == pytest.approx(result.runs["run_speedup"][1].as_py())
