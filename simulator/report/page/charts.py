"""What the page draws, as places and paths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from simulator.report.chosen import of_systems, with_all_steps
from simulator.report.page.axes import Tick, line, share, staircase, stretches, ticks
from simulator.report.series import accepted_by_emitted, accepted_by_position, live_batches, on_run_clock, thinned
from simulator.results import Result

Row = Mapping[str, Any]

COLUMNS = 400
"""Cells of the time axis of a live batch; of each its ends and extremes are drawn."""
MOST_OPERATORS = 6
OTHER = "other operators"
BESIDES = ("drafting", "host time", "waiting")
TRAINING = ("reward", "log_probs", "update", "sync")


@dataclass(frozen=True)
class Part:
    """A piece of a bar, in percent of the axis. kind: its colour; told: what it is, for who points at it."""

    kind: str
    at: float
    width: float
    told: str


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart: a name, pieces end to end, a range, and words after it."""

    name: str
    parts: list[Part]
    told: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bars:
    """A bar chart. legend: kinds of pieces and what they are."""

    rows: list[Bar]
    legend: list[tuple[str, str]]
    axis: list[Tick]
    unit: str


@dataclass(frozen=True)
class Strip:
    """A system's live batch over the run's clock. stages: kinds and boxes of what else went on; told: words about it."""

    name: str
    told: str
    live: str
    tails: str
    stages: list[tuple[str, str]]


@dataclass(frozen=True)
class Strips:
    """Live batches on one clock and one scale; missing: systems whose decode steps were not kept."""

    rows: list[Strip]
    legend: list[tuple[str, str]]
    axis: list[Tick]
    most: int
    thinned: bool
    missing: list[str]


@dataclass(frozen=True)
class Plot:
    """Lines over faint bars. lines: kinds and paths; behind: path of the bars; told: the picture in words."""

    lines: list[tuple[str, str]]
    behind: str
    x_axis: list[Tick]
    y_axis: list[Tick]
    x_label: str
    legend: list[tuple[str, str]]
    told: str


def makespans(runs: Sequence[Row]) -> Bars:
    """Makespan of each, the time of stragglers alone apart, and the 90 % range."""
    most = 1.02 * max(run["makespan_high_s"] for run in runs)
    rows = []
    for run in runs:
        before, tail = run["makespan_s"] - run["straggler_s"], run["straggler_s"]
        parts = [
            Part("decode", 0.0, share(before, most), f"others live too: {before:.2f} s"),
            Part("tail", share(before, most), share(tail, most), f"stragglers alone: {tail:.2f} s"),
        ]
        told = f"{run['makespan_s']:.2f} s{_beside(run, runs[0], 'speedup')}"
        ends = (share(run[f"makespan_{end}_s"], most) for end in ("low", "high"))
        rows.append(Bar(run["system"], parts, told, *ends))
    legend = [("decode", "other rollouts live too"), ("tail", "stragglers alone"), ("range", "90 % range")]
    return Bars(rows, legend, ticks(most), "seconds")


def gpu_time(runs: Sequence[Row]) -> Bars | None:
    """GPU-seconds for each sample trained on: decoding, training, idle; nothing where one trains on none."""
    if not all(run["samples_per_s"] for run in runs):
        return None
    each = []
    for run in runs:
        samples, whole = run["samples_per_s"] * run["run_s"], run["gpus"] * run["run_s"]
        idle, train = run["idle_gpu_s"], run["train_gpu_s"]
        each.append({"decode": (whole - train - idle) / samples, "train": train / samples, "idle": idle / samples})
    most = 1.02 * max(sum(one.values()) for one in each)
    rows = []
    for run, seconds in zip(runs, each, strict=True):
        told = f"{sum(seconds.values()):.3g} s{_beside(run, runs[0], 'gpu_speedup')}"
        rows.append(Bar(run["system"], _stacked(seconds, most, "{0}: {1:.3g} GPU-seconds"), told))
    legend = [("decode", "decoding"), ("train", "training"), ("idle", "idle")]
    return Bars(rows, legend, ticks(most), "GPU-seconds a sample trained on")


def operators(seconds: Mapping[str, Mapping[str, float]]) -> Bars | None:
    """Seconds of decode steps by operator, the largest apart; nothing where there are none."""
    if not any(seconds.values()):
        return None
    named, summed = largest(seconds), [gathered(of, largest(seconds)) for of in seconds.values()]
    present = [name for name in (*named, OTHER, *BESIDES) if any(name in of for of in summed)]
    kinds = {name: f"k{i}" for i, name in enumerate(present)}
    most = 1.02 * max(sum(of.values()) for of in summed)
    rows = []
    for name, of in zip(seconds, summed, strict=True):
        inside = {kinds[one]: of[one] for one in present if one in of}
        words = {kinds[one]: one for one in present}
        rows.append(Bar(name, _stacked(inside, most, "{0}: {1:.2f} s", words), f"{sum(of.values()):.2f} s"))
    return Bars(
        rows, [(kinds[name], name) for name in present], ticks(most), "seconds of decode steps, over all replicas"
    )


def largest(seconds: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Operators that take most, over all systems, the largest first."""
    total: dict[str, float] = {}
    for of in seconds.values():
        for name, one in of.items():
            total[name] = total.get(name, 0.0) + one
    ranked = sorted((name for name in total if name not in BESIDES), key=lambda name: -total[name])
    return ranked if len(ranked) <= MOST_OPERATORS + 1 else ranked[:MOST_OPERATORS]


def gathered(of: Mapping[str, float], named: Sequence[str]) -> dict[str, float]:
    """Seconds of these operators and of what comes besides, those of others together."""
    found = {name: of[name] for name in (*named, *BESIDES) if name in of}
    rest = sum(one for name, one in of.items() if name not in found)
    return found | ({OTHER: rest} if rest else {})


def live(result: Result, runs: Sequence[Row]) -> Strips:
    """Live batches of these systems on the run's clock, with their stages and the time of stragglers alone."""
    names = [run["system"] for run in runs]
    whole = with_all_steps(result.steps, runs)
    mine = of_systems(result.steps.select(["system", "step", "replica", "start_s", "duration_s", "live"]), whole)
    series = {one.policy: one for one in live_batches(on_run_clock(mine, result.rl_steps))} if whole else {}
    spans = _spans(result.spans, names)
    end_s = 1.01 * max(*(run["run_s"] for run in runs), *(float(one.time_s[-1]) for one in series.values()), 0.0)
    most = max((int(one.live.max()) for one in series.values()), default=1)
    rows, tails, stages = [], _tails(result, whole), list[str]()
    for run in runs:
        if (one := series.get(run["system"])) is None:
            continue
        time_s, batch = thinned(one.time_s, one.live, COLUMNS)
        other = spans.get(run["system"], {})
        stages += [stage for stage in other if stage not in stages]
        rows.append(Strip(
            run["system"], f"{run['run_s']:.2f} s", staircase(time_s, batch.astype(float), end_s, most),
            stretches(tails[run["system"]], end_s),
            [(stage, stretches(those, end_s)) for stage, those in other.items()],
        ))  # fmt: skip
    stages.sort(key=lambda stage: TRAINING.index(stage) if stage in TRAINING else len(TRAINING))
    kinds = {stage: f"s{i % 6}" for i, stage in enumerate(stages)}
    rows = [
        Strip(one.name, one.told, one.live, one.tails, [(kinds[s], path) for s, path in one.stages]) for one in rows
    ]
    legend = [("live", "live sequences"), ("alone", "only stragglers live"), *((kinds[s], s) for s in stages)]
    cut = any(one.time_s.size > 4 * COLUMNS for one in series.values())
    return Strips(rows, legend, ticks(end_s), most, cut, [name for name in names if name not in whole])


def acceptance_lengths(runs: Sequence[Row]) -> Bars | None:
    """Mean acceptance length of each; nothing where nothing was drafted."""
    if not any(run["drafted_tokens"] for run in runs):
        return None
    lengths = [run["mean_acceptance_length"] or 0.0 for run in runs]
    most, rows = 1.02 * max(lengths), []
    for run, length in zip(runs, lengths, strict=True):
        rate = run["draft_acceptance_rate"]
        told = f"{length:.3f}" + ("" if rate is None else f" · {rate:.0%} of drafts")
        rows.append(Bar(run["system"], [Part("decode", 0.0, share(length, most), f"{length:.3f} tokens")], told))
    return Bars(rows, [], ticks(most), "tokens, the bonus counted")


def by_position(acceptance: pa.Table) -> Plot | None:
    """Probability that a draft's token is accepted, by its position; bars: drafts that reach it."""
    position, probability, drafts = accepted_by_position(acceptance)
    if not drafts.any():
        return None
    last = float(position[-1]) + 0.5
    edges = np.append(position - 0.5, last).astype(float)
    behind = staircase(edges, np.append(drafts, 0).astype(float), last, float(drafts.max()))
    first, end = (f"{one:.0%}" for one in (probability[0], probability[-1]))
    return Plot(
        [("c1", line(position.astype(float), probability, last, 1.0))], behind,
        [one for one in ticks(last, 6) if float(one.label.replace(",", "")).is_integer() and one.at > 0],
        [Tick(at, f"{at} %") for at in (0, 25, 50, 75, 100)], "position in the draft (tokens)",
        [("c1", "accepted"), ("behind", f"drafts that reach it, of {drafts.max():,}")],
        f"Probability that a drafted token is accepted: {first} at position {position[0]}, {end} at position {position[-1]}.",
    )  # fmt: skip


def by_emitted(acceptance: pa.Table) -> Plot | None:
    """Tokens drafted and accepted a decode step, by what the rollout has emitted, on a log scale."""
    edges, drafted, accepted, positions = accepted_by_emitted(acceptance)
    if not np.nansum(drafted) or edges[-1] < 2:
        return None
    at, most = np.log2(np.maximum(edges, 1).astype(float)), 1.05 * float(np.nanmax(drafted))
    inside = np.repeat(at, 2)[1:-1]
    marks = range(0, int(at[-1]) + 1, 2 if at[-1] < 16 else 4)
    return Plot(
        [(kind, line(inside, np.repeat(values, 2), float(at[-1]), most)) for kind, values in (("c2", drafted), ("c1", accepted))],
        staircase(at, np.append(positions, 0).astype(float), float(at[-1]), float(positions.max())),
        [Tick(100 * mark / float(at[-1]), f"{2**mark:,}") for mark in marks], ticks(most),
        "tokens emitted so far (log scale)",
        [("c2", "drafted"), ("c1", "accepted"), ("behind", f"positions of rollouts, of {positions.max():,}")],
        f"Tokens a decode step: up to {np.nanmax(drafted):.3g} drafted, up to {np.nanmax(accepted):.3g} accepted.",
    )  # fmt: skip


def seconds_by_operator(result: Result, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The table `operators` by system."""
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for row in result.operators.to_pylist():
        if row["system"] in found:
            found[row["system"]][row["operator"]] = row["seconds"]
    return found


def _beside(run: Row, base: Row, ratio: str) -> str:
    """Words after a bar's seconds."""
    return ("" if run is base else f" · {run[ratio]:.2f}×") + ("" if run["lossless"] else " · lossy")


def _stacked(
    seconds: Mapping[str, float], most: float, told: str, words: Mapping[str, str] | None = None
) -> list[Part]:
    parts, before = [], 0.0
    for kind, one in seconds.items():
        name = kind if words is None else words[kind]
        parts.append(Part(kind, share(before, most), share(one, most), told.format(name, one)))
        before += one
    return parts


def _spans(spans: pa.Table, names: Sequence[str]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """When stages were busy, by system and stage."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in of_systems(spans, names).to_pylist():
        if row["what"] == "decode":
            continue
        stage = row["who"] if row["what"] in {"batch", "sync"} else row["what"]
        found.setdefault(row["system"], {}).setdefault(stage, []).append((row["start_s"], row["end_s"]))
    return found


def _tails(result: Result, names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """When only stragglers were live, by system, on the run's clock."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for row in result.rl_steps.select(["system", "start_s", "makespan_s", "straggler_s"]).to_pylist():
        if row["system"] in found and row["straggler_s"] > 0:
            end_s = row["start_s"] + row["makespan_s"]
            found[row["system"]].append((end_s - row["straggler_s"], end_s))
    return found
