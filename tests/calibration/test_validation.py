"""Errors of a simulation against its measured run, and both sides over time: by hand, by laws, and on real logs."""

import csv
import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.runs.facts import EngineFacts
from calibration.runs.measured import MeasuredRun, Requests, Series
from calibration.runs.read import read_run
from calibration.validation import (
    SimulatedRun,
    StepLog,
    compare,
    document,
    latencies,
    measured_series,
    simulated_latencies,
    simulated_series,
)
from simulator.report import validation_plots
from tests.calibration.echo import echo

LOGS = ("RTX4090-Llama-3.1-8B", "RTXPRO6000-Llama-3.1-8B")


def seconds(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def run_of(anchor="queued", scheduled=(0.0, 1.0, 3.0), output_tokens=(1, 3, 5)) -> MeasuredRun:
    """Three requests: two arrive at once, the third at 2 s; the engine saw the second 0.5 s late."""
    requests = Requests(
        request_id=("a", "b", "c"),
        arrival_s=seconds(0.0, 0.0, 2.0),
        prompt_tokens=np.array([10, 20, 30]),
        output_tokens=np.array(output_tokens),
        queued_s=seconds(0.0, 0.5, 2.0),
        scheduled_s=seconds(*scheduled),
        first_token_s=seconds(1.0, 2.0, 4.0),
        last_token_s=seconds(1.0, 3.0, 6.0),
    )
    return MeasuredRun(Path("run"), "by hand", "m", requests, EngineFacts(), anchor)


def steps_of(start_s, duration_s, running, waiting, output_tokens, replica=None) -> StepLog:
    counts = (np.array(values) for values in (running, waiting, output_tokens))
    return StepLog(seconds(*start_s), seconds(*duration_s), *counts, np.array(replica or [0] * len(start_s)))


SIMULATED = SimulatedRun(
    queued_s=seconds(0.0, 1.0, 2.0),
    first_token_s=seconds(1.5, 2.0, 5.0),
    last_token_s=seconds(1.5, 4.0, 7.0),
    steps=steps_of([0.0, 1.5, 4.5], [1.5, 3.0, 2.5], [1, 2, 1], [1, 0, 0], [1, 3, 5]),
)


def table(metrics):
    return {(row.metric, row.stat): (row.measured, row.simulated, row.error) for row in metrics}


def test_metrics_by_hand() -> None:
    """TTFT 1, 1.5, 2 against 1.5, 1, 3; TPOT of the two longer ones 0.5, 0.5 against 1, 0.5; latency 1, 2.5, 4 and 1.5, 3, 5."""
    metrics = table(compare(run_of(), SIMULATED))
    assert metrics["ttft_s", "mean"] == (1.5, pytest.approx(5.5 / 3), pytest.approx(5.5 / 4.5 - 1))
    assert metrics["ttft_s", "p50"] == (1.5, 1.5, 0.0)
    assert metrics["ttft_s", "p90"] == (pytest.approx(1.9), pytest.approx(2.7), pytest.approx(2.7 / 1.9 - 1))
    assert metrics["ttft_s", "p99"] == (pytest.approx(1.99), pytest.approx(2.97), pytest.approx(2.97 / 1.99 - 1))
    assert metrics["tpot_s", "mean"] == (0.5, 0.75, 0.5)
    assert metrics["tpot_s", "p90"] == (0.5, pytest.approx(0.95), pytest.approx(0.9))
    assert metrics["latency_s", "mean"] == (2.5, pytest.approx(9.5 / 3), pytest.approx(9.5 / 7.5 - 1))
    assert metrics["latency_s", "p50"] == (2.5, 3.0, pytest.approx(0.2))
    assert metrics["makespan_s", "mean"] == (6.0, 7.0, pytest.approx(1 / 6))
    assert len(metrics) == 13
    ranged = compare(run_of(), replace(SIMULATED, makespan_factors=(0.8, 1.5)))
    assert [(one.metric, one.low, one.high) for one in ranged if one.low is not None] == [
        ("makespan_s", pytest.approx(5.6), pytest.approx(10.5))
    ]


def test_the_anchor_is_the_same_on_both_sides() -> None:
    """Seen by a client, times count from arrivals: the queueing of either side does not matter."""
    metrics = table(compare(run_of("arrival"), SIMULATED))
    assert metrics["ttft_s", "mean"] == (pytest.approx(5 / 3), pytest.approx(6.5 / 3), pytest.approx(0.3))
    later = replace(SIMULATED, queued_s=SIMULATED.queued_s + 0.25)
    assert table(compare(run_of("arrival"), later)) == metrics
    assert table(compare(run_of(), later))["ttft_s", "mean"][1] == pytest.approx(5.5 / 3 - 0.25)


def test_what_cannot_be_compared_is_left_out() -> None:
    single = run_of(output_tokens=(1, 1, 1))
    assert {row.metric for row in compare(single, SIMULATED)} == {"ttft_s", "latency_s", "makespan_s"}
    instant = replace(single, requests=replace(single.requests, first_token_s=single.requests.queued_s))
    assert table(compare(instant, SIMULATED))["ttft_s", "mean"][2] is None
    told = document(compare(instant, SIMULATED), {"run": "x"})
    assert (told["schema_version"], told["run"]) == (1, "x")
    assert json.loads(json.dumps(told, allow_nan=False))["metrics"][0] == {
        "metric": "ttft_s", "stat": "mean", "measured": 0.0, "simulated": pytest.approx(5.5 / 3), "error": None,
        "low": None, "high": None,
    }  # fmt: skip


def test_a_simulation_that_breaks_the_order_of_events_is_refused() -> None:
    with pytest.raises(AssertionError):
        replace(SIMULATED, first_token_s=SIMULATED.queued_s - 1.0)
    with pytest.raises(AssertionError):
        replace(SIMULATED, last_token_s=SIMULATED.last_token_s[:2])


@pytest.mark.parametrize("name", LOGS)
def test_real_metrics_are_those_of_the_raw_lines(shared_data: Path, name: str) -> None:
    """Means and medians again, straight from the lines; a simulation 10 % slower is 10 % off in every latency."""
    folder = shared_data / "vllm_runs" / name
    rows = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    ttft_s = [row["first_token_ts"] - row["queued_ts"] for row in rows]
    latency_s = [row["last_token_ts"] - row["queued_ts"] for row in rows]
    tpot_s = [(row["last_token_ts"] - row["first_token_ts"]) / (row["output_toks"] - 1) for row in rows]
    makespan_s = max(row["last_token_ts"] for row in rows) - min(row["queued_ts"] for row in rows)
    run = read_run(folder)
    exact, slower = table(compare(run, echo(run))), table(compare(run, echo(run, stretch=1.1)))
    for metric, values_s in (("ttft_s", ttft_s), ("tpot_s", tpot_s), ("latency_s", latency_s)):
        assert exact[metric, "mean"][0] == pytest.approx(statistics.fmean(values_s))
        assert exact[metric, "p50"][0] == pytest.approx(statistics.median(values_s))
        for stat in ("mean", "p50", "p90", "p99"):
            assert exact[metric, stat][2] == pytest.approx(0.0, abs=1e-12)
            assert slower[metric, stat][2] == pytest.approx(0.1)
    assert exact["makespan_s", "mean"][0] == pytest.approx(makespan_s)
    assert 0.0 < slower["makespan_s", "mean"][2] < 0.1  # arrivals take as long as before


@pytest.mark.parametrize("name", LOGS)
def test_series_agree_with_the_engines_own(shared_data: Path, name: str) -> None:
    """Drawn from the requests, each series is near the logged one: ticks are up to 1 s off, and preemption is not logged."""
    run = read_run(shared_data / "vllm_runs" / name)
    logged, drawn = measured_series(run), measured_series(replace(run, series=None))
    with (shared_data / "vllm_runs" / name / "timeseries.csv").open() as file:
        running = [float(row["running"]) for row in csv.DictReader(file)]
    assert logged["running"].tolist() == running
    for key in ("prompt_tokens_per_s", "output_tokens_per_s"):
        width_s = np.diff(drawn["t_s"], prepend=0.0)
        assert (drawn[key] * width_s).sum() == pytest.approx(logged[key].sum(), rel=1e-9)
    in_flight = np.interp(drawn["t_s"], logged["t_s"], logged["in_flight"])
    assert np.abs(in_flight - drawn["in_flight"]).mean() < 3.0  # of 300 requests
    assert np.abs(in_flight - np.roll(drawn["in_flight"], 10)).mean() > 15.0


def test_measured_series_by_hand() -> None:
    """60 bins of 0.1 s; the second request emits 1 token at 2 s and 2 over the next second, the third 4 over two."""
    series = measured_series(run_of())
    at = {round(float(t), 6): i for i, t in enumerate(series["t_s"])}
    assert len(at) == 60
    assert series["prompt_tokens_per_s"][at[1.1]] == pytest.approx(100.0)
    assert series["output_tokens_per_s"][at[1.0]] + series["output_tokens_per_s"][at[1.1]] == pytest.approx(10.0)
    assert series["output_tokens_per_s"][at[2.5]] == pytest.approx(2.0)
    assert series["output_tokens_per_s"][at[5.0]] == pytest.approx(2.0)
    assert [series["running"][at[t]] for t in (0.5, 1.5, 2.5, 3.5, 6.0)] == [1, 1, 1, 1, 0]
    assert [series["waiting"][at[t]] for t in (0.3, 0.7, 1.5, 2.5, 3.5)] == [0, 1, 0, 1, 0]
    unscheduled = measured_series(run_of(scheduled=(np.nan, np.nan, np.nan)))
    assert unscheduled.keys() == {"t_s", "prompt_tokens_per_s", "output_tokens_per_s", "in_flight"}
    assert [unscheduled["in_flight"][at[t]] for t in (0.7, 1.5, 2.5, 6.0)] == [2, 1, 2, 0]


def test_simulated_series_by_hand() -> None:
    """Steps end at 1.5, 4.5 and 7 s, first tokens come at 1.5, 2 and 5 s; after two measured ticks of 2 s two more follow."""
    series = simulated_series(run_of(), SIMULATED, seconds(2.0, 4.0))
    assert series["t_s"].tolist() == [2.0, 4.0, 6.0, 8.0]
    assert series["prompt_tokens_per_s"].tolist() == [15.0, 0.0, 15.0, 0.0]
    assert series["output_tokens_per_s"].tolist() == [0.5, 0.0, 1.5, 2.5]
    assert series["running"].tolist() == [2.0, 2.0, 1.0, 0.0]
    early = simulated_series(run_of(), SIMULATED, seconds(1.0, 9.0))
    assert early["t_s"].tolist() == [1.0, 9.0]
    assert early["waiting"].tolist() == [1.0, 0.0]


def test_replicas_add_up() -> None:
    """Two replicas, logged one after the other: each counts while it is in a step."""
    steps = steps_of([0.0, 1.0, 0.5], [1.0, 1.0, 1.0], [3, 4, 10], [1, 0, 5], [3, 4, 10], [0, 0, 1])
    series = simulated_series(run_of(), replace(SIMULATED, steps=steps), seconds(0.25, 0.75, 1.25, 1.75, 2.25))
    assert series["running"].tolist() == [3.0, 13.0, 14.0, 4.0, 0.0]
    assert series["waiting"].tolist() == [1.0, 6.0, 5.0, 0.0, 0.0]
    assert series["in_flight"].tolist() == [4.0, 19.0, 19.0, 4.0, 0.0]
    assert series["output_tokens_per_s"].tolist() == [0.0, 0.0, 6.0, 20.0, 8.0]


def test_a_simulation_that_hardly_ends_has_a_bounded_series() -> None:
    steps = steps_of([0.0, 1e9], [1.0, 1.0], [1, 1], [0, 0], [2, 3])
    series = simulated_series(run_of(), replace(SIMULATED, steps=steps), seconds(1.0, 2.0))
    assert series["t_s"].size == 1002
    assert series["t_s"][-1] >= 1e9 + 1
    assert (series["output_tokens_per_s"] * np.diff(series["t_s"], prepend=0.0)).sum() == pytest.approx(5.0)


@pytest.mark.parametrize("client", [False, True])
def test_the_picture_draws_both_sides(tmp_path: Path, client: bool) -> None:
    run = run_of("arrival", scheduled=(np.nan,) * 3) if client else run_of()
    if not client:
        log = (seconds(*values) for values in ((2, 4, 6), (5, 0, 7), (1, 2, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0)))
        run = replace(run, series=Series(*log))
    series = measured_series(run)
    sides = (
        series | latencies(run),
        simulated_series(run, SIMULATED, series["t_s"]) | simulated_latencies(run, SIMULATED),
    )
    path = tmp_path / "validation.png"
    validation_plots.save_validation_plot(*sides, "title", "note", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    figure = validation_plots._figure(*sides, "title", "")
    prompt, output, running, waiting, ttft, tpot, latency = figure.axes
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 2, 1 if client else 2, 2, 2, 2]
    assert running.get_ylabel() == ("requests in flight" if client else "requests running")
    name = "in_flight" if client else "running"
    for side, line in zip(sides, running.lines, strict=True):
        assert line.get_ydata()[1:].tolist() == side[name].tolist()
    for axes, unit, key in ((ttft, 1.0, "ttft_s"), (tpot, 1e3, "tpot_s"), (latency, 1.0, "latency_s")):
        for side, line in zip(sides, axes.lines, strict=True):
            assert line.get_xdata().tolist() == (unit * np.sort(side[key])).tolist()
            assert line.get_ydata()[-1] == 1.0
    assert prompt.get_xlim()[1] == output.get_xlim()[1] == waiting.get_xlim()[1] == sides[1]["t_s"][-1]
