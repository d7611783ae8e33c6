"""What a result holds, as tracks, slices and counters: a track a system, within it RL steps, stages, stragglers and replicas."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from simulator.report.chosen import of_systems
from simulator.report.series import live_batches, on_run_clock, thinned
from simulator.report.timeline.phases import KINDS, phases
from simulator.report.timeline.protobuf import Writer
from simulator.results import Result

Row = Mapping[str, Any]
Float64 = npt.NDArray[np.float64]
Span = tuple[float, float, str, Mapping[str, Any]]
"""From when to when, what, and what else is told of it."""

MOST_EVENTS = 400_000
"""About so many slices and points of counters in all; where decode steps are more, both are thinned."""
EVENTS_A_CELL = 24
"""Of a cell of a replica's time axis: four points of five counters, and two phases."""
MOST_CELLS, LEAST_CELLS = 5_000, 20
MOST_STRAGGLERS = 100
COUNTED = {
    "live": ("live sequences", "sequences"),
    "drafted_tokens": ("drafted a step", "tokens"),
    "accepted_tokens": ("accepted a step", "tokens"),
    "kv_tokens": ("context tokens", "tokens"),
    "waiting": ("waiting rollouts", "rollouts"),
    "free_blocks": ("free KV blocks", "blocks"),
}


@dataclass(frozen=True, eq=False)
class Replica:
    """Decode steps of one replica on the run's clock, in order, and the RL step of each."""

    number: int
    steps: pa.Table
    rl_step: npt.NDArray[np.int64]


def write_system(writer: Writer, result: Result, run: Row, name: str, replicas: Sequence[Replica], cells: int) -> None:
    """Write a system: its RL steps, stages and stragglers, then each replica."""
    mine = {table: of_systems(getattr(result, table), [run["system"]]) for table in ("rl_steps", "spans", "rollouts")}
    rl_steps = mine["rl_steps"].to_pylist()
    system = writer.track(name)
    _rl_steps(writer, system, rl_steps)
    _tails(writer, system, rl_steps)
    _stages(writer, system, mine["spans"].to_pylist())
    _stragglers(writer, system, mine["rollouts"], {row["step"]: row["start_s"] for row in rl_steps})
    ranks = result.about["scenario"]["engine"].get("data_parallel_size", 1) > 1
    if len(replicas) > 1:
        _total(writer, system, replicas, cells)
    for one in replicas:
        track = writer.track(f"replica {one.number}", system)
        _phases(writer, track, one, cells, run["run_s"], "idle or dummy steps" if ranks else "idle")
        _counters(writer, track, one, cells)


def replicas_of(steps: pa.Table, rl_steps: pa.Table) -> dict[str, list[Replica]]:
    """Decode steps by system and replica, on the run's clock."""
    if not steps.num_rows:
        return {}
    names = [name for name in steps.column_names if name not in {"padded_tokens", "pairs", "prefill_pairs"}]
    numbers, moved = steps["step"].to_numpy(), on_run_clock(steps.select(names), rl_steps)
    systems = moved["system"].combine_chunks().dictionary_encode()
    code, replica = systems.indices.to_numpy(), moved["replica"].to_numpy()
    order = np.lexsort((moved["start_s"].to_numpy(), replica, code))
    moved, numbers, code, replica = moved.take(order), numbers[order], code[order], replica[order]
    first = np.append(0, np.flatnonzero((code[1:] != code[:-1]) | (replica[1:] != replica[:-1])) + 1)
    found: dict[str, list[Replica]] = {}
    for begin, end in zip(first.tolist(), [*first[1:].tolist(), code.size], strict=True):
        name = systems.dictionary[int(code[begin])].as_py()
        one = Replica(int(replica[begin]), moved.slice(begin, end - begin), numbers[begin:end].astype(np.int64))
        found.setdefault(name, []).append(one)
    return found


def cells_for(tracks: int) -> int:
    """Cells of each replica's time axis, where so many replicas share what is written."""
    return int(np.clip(MOST_EVENTS // (EVENTS_A_CELL * max(tracks, 1)), LEAST_CELLS, MOST_CELLS))


def _rl_steps(writer: Writer, system: int, rows: Iterable[Row]) -> None:
    spans = [(row["start_s"], row["trained_s"], f"RL step {row['step']}", {
        "rollouts": row["rollouts"], "trained": row["trained"], "makespan_s": row["makespan_s"],
        "mean_acceptance_length": row["mean_acceptance_length"] or 0.0,
    }) for row in rows]  # fmt: skip
    _laid_out(writer, system, "RL steps", spans)


def _tails(writer: Writer, system: int, rows: Iterable[Row]) -> None:
    ends = [(row["start_s"] + row["makespan_s"], row["straggler_s"]) for row in rows]
    spans: list[Span] = [(end_s - alone_s, end_s, "only stragglers live", {}) for end_s, alone_s in ends if alone_s > 0]
    _laid_out(writer, system, "tail", spans)


def _stages(writer: Writer, system: int, spans: Iterable[Row]) -> None:
    by_stage: dict[str, list[Span]] = {}
    for span in spans:
        if span["what"] != "decode":
            told = (span["start_s"], span["end_s"], span["who"], {"RL step": span["step"], "what": span["what"]})
            by_stage.setdefault(span["who"], []).append(told)
    for stage, those in by_stage.items():
        _laid_out(writer, system, f"stage: {stage}", those)


def _stragglers(writer: Writer, system: int, rollouts: pa.Table, begins_s: Mapping[int, float]) -> None:
    """The rollouts that finish last, from admission to completion."""
    late = rollouts.filter(rollouts["straggler"])
    longest = late.take(pc.sort_indices(late, sort_keys=[("output_tokens", "descending")])[:MOST_STRAGGLERS])
    spans = []
    for row in longest.to_pylist():
        begin_s = begins_s[row["step"]]
        told = {name: row[name] for name in ("prompt_id", "sample", "replica", "prompt_tokens", "output_tokens",
                                             "decode_steps", "drafted_tokens", "accepted_tokens")}  # fmt: skip
        spans.append((begin_s + max(row["admitted_s"], 0.0), begin_s + row["finished_s"],
                      f"{row['prompt_id']} #{row['sample']}", {"RL step": row["step"], **told}))  # fmt: skip
    cut = f" (the {longest.num_rows} longest of {late.num_rows:,})" if late.num_rows > longest.num_rows else ""
    _laid_out(writer, system, f"stragglers{cut}", spans)


def _total(writer: Writer, system: int, replicas: Sequence[Replica], cells: int) -> None:
    (series,) = live_batches(pa.concat_tables([one.steps for one in replicas]))
    counter = writer.counter("live sequences, all replicas", "sequences", system)
    time_s, live = thinned(series.time_s, series.live, cells)
    writer.points(counter, _ns(time_s), live.tolist())


def _phases(writer: Writer, track: int, replica: Replica, cells: int, run_s: float, idle: str) -> None:
    """Write phases, and the time between them up to the run's end."""
    found = phases(replica.steps, replica.rl_step, cells)
    columns = {one.name: getattr(found, one.name).tolist() for one in fields(found)[4:]}
    ends = _ns(found.begin_s), _ns(found.end_s), found.kind.tolist(), found.step.tolist()
    at = 0
    for begin, end, kind, step, *told in zip(*ends, *columns.values(), strict=True):
        if begin > at:
            writer.slice(track, idle, at, begin, {})
        writer.slice(track, KINDS[kind], max(begin, at), end, {"RL step": step} | dict(zip(columns, told, strict=True)))
        at = end
    if (end := round(1e9 * run_s)) > at:
        writer.slice(track, idle, at, end, {})


def _counters(writer: Writer, track: int, replica: Replica, cells: int) -> None:
    """Counters of a replica; one that stays at zero is left out."""
    start_s, duration_s = (replica.steps[name].to_numpy() for name in ("start_s", "duration_s"))
    for column, (name, unit) in COUNTED.items():
        values = replica.steps[column].to_numpy().astype(np.int64)
        if not values.any():
            continue
        ends = np.append(start_s[1:] > start_s[:-1] + duration_s[:-1] + 1e-9, True)
        at = np.flatnonzero(ends) + 1
        times_s = np.insert(start_s, at, (start_s + duration_s)[ends])
        values = np.insert(values, at, values[ends] if column == "free_blocks" else 0)
        changes = np.append(True, values[1:] != values[:-1])
        kept_s, kept = thinned(times_s[changes], values[changes], cells)
        writer.points(writer.counter(name, unit, track), _ns(kept_s), kept.tolist())


def _laid_out(writer: Writer, parent: int, name: str, spans: Iterable[Span]) -> None:
    """Write slices that may overlap: on as many tracks of one name as it takes."""
    lanes: list[tuple[int, int]] = []
    for begin_s, end_s, told, notes in sorted(spans, key=lambda span: span[:2]):
        begin, end = round(1e9 * begin_s), round(1e9 * end_s)
        free = next((i for i, (_, until) in enumerate(lanes) if until <= begin), len(lanes))
        if free == len(lanes):
            lanes.append((writer.track(name, parent), end))
        else:
            lanes[free] = (lanes[free][0], end)
        writer.slice(lanes[free][0], told, begin, end, notes)


def _ns(seconds: Float64) -> list[int]:
    found: list[int] = np.rint(1e9 * seconds).astype(np.int64).tolist()
    return found
