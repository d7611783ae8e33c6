"""A measured run against its simulation: errors of latency figures, and both sides over time."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from calibration.runs.measured import Float64, Int64, MeasuredRun

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
COUNTS = {"drafted": "drafted_tokens", "accepted": "accepted_tokens", "preempted": "preempted"}
"""What is compared in sum where a run tells it, by its name: the column of the simulated steps that counts it."""
BINS = 60
"""Ticks where the run recorded none."""
MOST_EXTRA_TICKS = 1000
"""Ticks after the last recorded one, however much longer the simulation takes."""


@dataclass(frozen=True, eq=False)
class StepLog:
    """Every step of every replica, one element each: when, how many requests ran and waited in it, and what it did.

    `output_tokens` are those emitted.
    """

    start_s: Float64
    duration_s: Float64
    running: Int64
    waiting: Int64
    output_tokens: Int64
    replica: Int64


@dataclass(frozen=True, eq=False)
class SimulatedRun:
    """The simulation of a measured run: an element for each of its requests, in its order, on the clock of its arrivals.

    `outside_fraction` is the share of the simulated time in steps outside the range that the costs were measured in,
    `makespan_factors` the range of true over simulated makespan in nine of ten cases, and `errors` in words what it rests on.
    """

    queued_s: Float64
    first_token_s: Float64
    last_token_s: Float64
    steps: StepLog
    outside_fraction: float = 0.0
    makespan_factors: tuple[float, float] | None = None
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Hold the simulator to the order of events."""
        assert self.queued_s.shape == self.first_token_s.shape == self.last_token_s.shape
        assert (self.queued_s <= self.first_token_s).all()
        assert (self.first_token_s <= self.last_token_s).all()


@dataclass(frozen=True)
class Metric:
    """One figure on both sides; `error` is simulated / measured - 1, None where what was measured is 0.

    low, high: where the true one lies in nine of ten cases, as far as costs are off; None where that is not simulated.
    """

    metric: str
    stat: str
    measured: float
    simulated: float
    error: float | None
    low: float | None = None
    high: float | None = None


def compare(run: MeasuredRun, simulated: SimulatedRun) -> tuple[Metric, ...]:
    """Mean and quantiles (linear) of each latency, the makespan, and sums of what the run counted.

    No TPOT where no request has a second token.
    """
    measured_s, simulated_s = latencies(run), simulated_latencies(run, simulated)
    metrics = []
    for name, values_s in measured_s.items():
        others_s = simulated_s[name]
        if values_s.size:
            metrics.append(_metric(name, "mean", float(values_s.mean()), float(others_s.mean())))
            metrics += [
                _metric(name, stat, float(np.quantile(values_s, q)), float(np.quantile(others_s, q)))
                for stat, q in QUANTILES.items()
            ]
    ends_s = (run.requests.last_token_s.max(), simulated.last_token_s.max())
    starts_s = (run.anchor_s.min(), _anchor_s(run, simulated).min())
    makespan = _metric("makespan_s", "mean", float(ends_s[0] - starts_s[0]), float(ends_s[1] - starts_s[1]))
    if (factors := simulated.makespan_factors) is not None:
        makespan = replace(makespan, low=factors[0] * makespan.simulated, high=factors[1] * makespan.simulated)
    metrics.append(makespan)
    return (*metrics, *(_metric(name, "sum", count, simulated.counts[name]) for name, count in run.counts.items()))


def latencies(run: MeasuredRun) -> dict[str, Float64]:
    """TTFT and latency of every request, from the run's anchor, and TPOT of those with more than one output token."""
    requests = run.requests
    return _latencies(run.anchor_s, requests.first_token_s, requests.last_token_s, requests.output_tokens)


def simulated_latencies(run: MeasuredRun, simulated: SimulatedRun) -> dict[str, Float64]:
    """The same of the simulation, from the same anchor."""
    anchor_s = _anchor_s(run, simulated)
    return _latencies(anchor_s, simulated.first_token_s, simulated.last_token_s, run.requests.output_tokens)


def measured_series(run: MeasuredRun) -> dict[str, Float64]:
    """The run over time, a value a tick: `t_s`, tokens per second since the tick before, and requests at the tick.

    As the engine logged it, else from the requests: a prompt counts when it is done, output tokens evenly between the first
    and the last, and a request runs from when it was first scheduled. Where scheduling was not recorded, `in_flight` is all
    there is of requests.
    """
    if (log := run.series) is not None:
        return _with_in_flight({
            "t_s": log.t_s, "prompt_tokens_per_s": log.prompt_tokens_per_s, "output_tokens_per_s": log.output_tokens_per_s,
            "running": log.running, "waiting": log.waiting,
        })  # fmt: skip
    requests, anchor_s = run.requests, run.anchor_s
    edges_s = np.linspace(0.0, max(requests.last_token_s.max(), 1e-9), BINS + 1)
    t_s, width_s = edges_s[1:], np.diff(edges_s)
    prompts = np.histogram(requests.first_token_s, edges_s, weights=requests.prompt_tokens)[0]
    outputs = np.diff([_emitted(run, edge_s) for edge_s in edges_s])
    series = {"t_s": t_s, "prompt_tokens_per_s": prompts / width_s, "output_tokens_per_s": outputs / width_s}
    if np.isnan(requests.scheduled_s).any():
        return series | {"in_flight": _present(t_s, anchor_s, requests.last_token_s)}
    return _with_in_flight(series | {
        "running": _present(t_s, requests.scheduled_s, requests.last_token_s),
        "waiting": _present(t_s, anchor_s, requests.scheduled_s),
    })  # fmt: skip


def simulated_series(run: MeasuredRun, simulated: SimulatedRun, ticks_s: Float64) -> dict[str, Float64]:
    """The simulation over time at these ticks, and further ones until it ends, counted as the engine's logger does.

    Output tokens count when their step ends, a prompt when its first token does: what a preemption has computed again does not.
    """
    steps = simulated.steps
    ends_s = steps.start_s + steps.duration_s
    tick_s = ticks_s[-1] / ticks_s.size
    beyond_s = float(ends_s.max()) - ticks_s[-1]
    extra = min(max(int(np.ceil(beyond_s / tick_s)), 0), MOST_EXTRA_TICKS)
    t_s = np.concatenate([ticks_s, ticks_s[-1] + np.arange(1, extra + 1) * max(tick_s, beyond_s / max(extra, 1))])
    edges_s = np.concatenate([[0.0], t_s])
    counted = {
        "prompt_tokens": (simulated.first_token_s, run.requests.prompt_tokens),
        "output_tokens": (ends_s, steps.output_tokens),
    }
    rates = {}
    for name, (when_s, tokens) in counted.items():
        bins = np.minimum(np.searchsorted(t_s, when_s), t_s.size - 1)
        rates[f"{name}_per_s"] = np.bincount(bins, tokens, t_s.size) / np.diff(edges_s)
    requests = {name: _held(t_s, steps, getattr(steps, name)) for name in ("running", "waiting")}
    return _with_in_flight({"t_s": t_s, **rates, **requests})


def document(metrics: tuple[Metric, ...], about: Mapping[str, Any]) -> dict[str, Any]:
    """The comparison as JSON."""
    return {"schema_version": 1, **about, "metrics": [asdict(metric) for metric in metrics]}


def _anchor_s(run: MeasuredRun, simulated: SimulatedRun) -> Float64:
    return simulated.queued_s if run.anchor == "queued" else run.requests.arrival_s


def _latencies(anchor_s: Float64, first_s: Float64, last_s: Float64, output_tokens: Int64) -> dict[str, Float64]:
    several = output_tokens > 1
    tpot_s = (last_s - first_s)[several] / (output_tokens[several] - 1)
    return {"ttft_s": first_s - anchor_s, "tpot_s": tpot_s, "latency_s": last_s - anchor_s}


def _metric(metric: str, stat: str, measured: float, simulated: float) -> Metric:
    return Metric(metric, stat, measured, simulated, simulated / measured - 1 if measured else None)


def _emitted(run: MeasuredRun, t_s: float) -> float:
    """Output tokens until t_s: one at the first token's time, the others evenly from there to the last one's."""
    requests = run.requests
    span_s = np.maximum(requests.last_token_s - requests.first_token_s, 1e-12)
    share = np.clip((t_s - requests.first_token_s) / span_s, 0.0, 1.0)
    share[t_s >= requests.last_token_s] = 1.0
    return float(((t_s >= requests.first_token_s) + (requests.output_tokens - 1) * share).sum())


def _present(t_s: Float64, from_s: Float64, until_s: Float64) -> Float64:
    """Requests that have come and not gone at each time."""
    came = np.searchsorted(np.sort(from_s), t_s, side="right")
    gone = np.searchsorted(np.sort(until_s), t_s, side="right")
    return (came - gone).astype(np.float64)


def _held(t_s: Float64, steps: StepLog, values: Int64) -> Float64:
    """Sum over replicas of what the step under way at each time holds; an idle replica holds nothing."""
    total = np.zeros(t_s.size)
    for replica in np.unique(steps.replica):
        rows = np.flatnonzero(steps.replica == replica)
        rows = rows[np.argsort(steps.start_s[rows], kind="stable")]
        at = rows[np.maximum(np.searchsorted(steps.start_s[rows], t_s, side="right") - 1, 0)]
        under_way = (steps.start_s[at] <= t_s) & (t_s < steps.start_s[at] + steps.duration_s[at])
        total += np.where(under_way, values[at], 0)
    return total


def _with_in_flight(series: dict[str, Float64]) -> dict[str, Float64]:
    return series | {"in_flight": series["running"] + series["waiting"]}
