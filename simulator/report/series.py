"""What the plots of a replay draw, as plain arrays."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

COLUMNS = 2000
"""Cells of the time axis; a line longer than four points a cell is thinned to the ends and extremes of each."""


@dataclass(frozen=True, eq=False)
class LiveBatch:
    """Live sequences of one policy over its own clock, RL steps end to end.

    time_s: float64[n], rising; live: int64[n], in force from time_s[i] to time_s[i + 1], and 0 at the last; ends_s:
    float64[RL steps], where each RL step's makespan ends.
    """

    policy: str
    time_s: Float64
    live: Int64
    ends_s: Float64


def live_batches(steps: pa.Table) -> list[LiveBatch]:
    """Sum `live` of `results.STEPS` over replicas, for each policy in order of appearance; loses no change."""
    names = steps["system"].combine_chunks().dictionary_encode()
    policy = names.indices.to_numpy()
    columns = ("step", "replica", "start_s", "duration_s", "live")
    step, replica, start_s, duration_s, live = (steps[name].to_numpy() for name in columns)
    order = np.lexsort((start_s, replica, step, policy))
    policy, step, replica, start_s, live = (a[order] for a in (policy, step, replica, start_s, live.astype(np.int64)))
    end_s = start_s + duration_s[order]
    together = (policy[1:] == policy[:-1]) & (step[1:] == step[:-1]) & (replica[1:] == replica[:-1])
    touching = np.append(together & (start_s[1:] <= end_s[:-1] * (1 + 1e-9)), False)
    change = live - np.where(np.roll(touching, 1), np.roll(live, 1), 0)
    series = []
    for code, name in enumerate(names.dictionary.to_pylist()):
        first, last = np.searchsorted(policy, [code, code + 1])
        rows = slice(first, last)
        which = np.append(0, np.cumsum(step[rows][1:] != step[rows][:-1]))
        makespan_s = np.zeros(which[-1] + 1)
        np.maximum.at(makespan_s, which, end_s[rows])
        ends_s = makespan_s.cumsum()
        begins_s = np.append(0.0, ends_s[:-1])[which]
        rises, stops = change[rows] != 0, ~touching[rows]
        when_s = np.concatenate([(begins_s + start_s[rows])[rises], (begins_s + end_s[rows])[stops]])
        time_s, at = np.unique(when_s, return_inverse=True)
        delta = np.bincount(at, np.concatenate([change[rows][rises], -live[rows][stops]]), time_s.size)
        series.append(LiveBatch(str(name), time_s, delta.cumsum().round().astype(np.int64), ends_s))
    return series


def on_run_clock(steps: pa.Table, rl_steps: pa.Table) -> pa.Table:
    """Decode steps with the start of their RL step added to `start_s`, so that a system's are all of one stretch, RL step 0."""
    systems = steps["system"].combine_chunks().dictionary_encode()
    code = {name: i for i, name in enumerate(systems.dictionary.to_pylist())}
    known = [row for row in rl_steps.select(["system", "step", "start_s"]).to_pylist() if row["system"] in code]
    numbers = np.unique([row["step"] for row in known])
    begins_s = np.zeros((len(code), numbers.size))
    for row in known:
        begins_s[code[row["system"]], np.searchsorted(numbers, row["step"])] = row["start_s"]
    step = steps["step"].to_numpy()
    start_s = steps["start_s"].to_numpy() + begins_s[systems.indices.to_numpy(), np.searchsorted(numbers, step)]
    at_zero = pa.array(np.zeros_like(step))
    moved = steps.set_column(steps.column_names.index("start_s"), "start_s", pa.array(start_s))
    return moved.set_column(moved.column_names.index("step"), "step", at_zero)


def thinned(time_s: Float64, live: Int64, columns: int = COLUMNS) -> tuple[Float64, Int64]:
    """Keep at most 4 points a cell of the time axis: first, last, least and most, so that no peak is lost."""
    if time_s.size <= 4 * columns:
        return time_s, live
    cell = ((time_s - time_s[0]) * (columns / (time_s[-1] - time_s[0]))).astype(np.int64)
    first = np.append(0, np.flatnonzero(np.diff(cell)) + 1)
    last = np.append(first[1:], cell.size) - 1
    by_live = np.lexsort((live, cell))
    kept = np.unique(np.concatenate([first, last, by_live[first], by_live[last]]))
    return time_s[kept], live[kept]


def last_rl_step(series: LiveBatch) -> LiveBatch:
    """Return the last RL step alone, its clock from 0."""
    begin_s = float(series.ends_s[:-1].max(initial=0.0))
    first = int(np.searchsorted(series.time_s, begin_s))
    return LiveBatch(series.policy, series.time_s[first:] - begin_s, series.live[first:], series.ends_s[-1:] - begin_s)


def tail_start_s(series: LiveBatch, threshold: float) -> float:
    """When the live batch falls below `threshold` for good; 0 if it never reached it."""
    above = np.flatnonzero(series.live >= threshold)
    return float(series.time_s[above[-1] + 1]) if above.size else 0.0


def accepted_by_position(acceptance: pa.Table) -> tuple[Int64, Float64, Int64]:
    """Position of a token in its draft, the share accepted there, and the drafts that reach it."""
    position, _, _, accepted, drafts = _acceptance(acceptance, "position")
    return position, _ratio(accepted, drafts), drafts


def accepted_by_emitted(acceptance: pa.Table) -> tuple[Int64, Float64, Float64, Int64]:
    """Bins of tokens emitted so far: int64[n + 1] edges, drafted and accepted tokens a position, positions."""
    low, high, drafted, accepted, positions = _acceptance(acceptance, "emitted")
    return np.append(low, high[-1:] + 1), _ratio(drafted, positions), _ratio(accepted, positions), positions


def _acceptance(acceptance: pa.Table, by: str) -> list[Int64]:
    rows = np.array(acceptance["by"].to_pylist(), dtype=object) == by
    names = ("low", "high", "drafted_tokens", "accepted_tokens", "drafts")
    return [acceptance[name].to_numpy()[rows] for name in names]


def _ratio(part: Int64, whole: Int64) -> Float64:
    ratio: Float64 = np.divide(part, whole, out=np.full(part.size, np.nan), where=whole > 0)
    return ratio
