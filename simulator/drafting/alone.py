"""A drafter on its own: what it proposes and what of it is accepted, RL step by RL step, without any cost."""

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from simulator.drafting.acceptance import count_at
from simulator.drafting.drafter import Counting, Drafter, accepted, past_rows
from simulator.progress import each
from traces.errors import InputError
from traces.schema import SCHEMA
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]

RECORDED = ("accept_lengths", "draft_lengths")
"""Columns in which a trace holds what a drafter does at every position."""


def acceptance_by_step(
    trace: Trace,
    drafter: Drafter,
    budget: int,
    steps: list[int] | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Replay rollouts alone with a constant budget and return the counts of each RL step.

    samples: replay only the first so many samples of each prompt, in sample order; the history stays whole.
    """
    found = []
    for step in each(chosen_steps(trace, steps), "RL step"):
        rows = np.flatnonzero(trace.step == step)
        if samples is not None:
            rows = rows[_rank_in_group(trace.prompt[rows], trace.sample[rows]) < samples]
        past = past_rows(trace, step, drafter.window)
        if isinstance(drafter, Counting):
            counts = drafter.counted(trace, rows, past, budget)
        else:
            counts = count_at(accepted(drafter, trace, rows, past, seed), budget)
        found.append({"step": step, **asdict(counts), "mean_acceptance_length": counts.mean_acceptance_length,
                      "draft_acceptance_rate": counts.draft_acceptance_rate})  # fmt: skip
    return found


def record(trace: Trace, drafter: Drafter, seed: int = 0) -> pa.Table:
    """Return the trace's table with `accept_lengths` and `draft_lengths` of this drafter, which `recorded.Recorded` replays.

    Raises InputError where what is drafted depends on the budget, so that no one record serves all of them.
    """
    pairs = np.empty((int(trace.offsets[-1]), 2), np.int32)
    for step in each(trace.steps, "RL step"):
        rows = np.flatnonzero(trace.step == step)
        found = accepted(drafter, trace, rows, past_rows(trace, step, drafter.window), seed)
        if not found.prefix or "siblings" in drafter.learns_from:
            raise InputError(
                f"drafter {drafter.describe()}: drafts depend on the budget or on when siblings emit, so that no one record "
                "serves every k: use a drafter whose shorter drafts begin longer ones, such as suffix with match longest"
            )
        for row, start, end in zip(rows.tolist(), found.offsets[:-1], found.offsets[1:], strict=True):
            pairs[trace.offsets[row] : trace.offsets[row + 1]] = found.tables[0, start:end]
    table = trace.table
    for column, name in enumerate(RECORDED):
        values = pa.ListArray.from_arrays(
            pa.array(trace.offsets, pa.int32()), pa.array(np.ascontiguousarray(pairs[:, column]))
        )
        table = table.drop_columns([name]) if name in table.column_names else table
        table = table.append_column(SCHEMA.field(name), values)
    return table


def chosen_steps(trace: Trace, steps: list[int] | None) -> list[int]:
    """Return the RL steps asked for, ascending, or all of them; InputError for one that was not recorded."""
    if steps is None:
        return trace.steps
    if missing := sorted(set(steps) - set(trace.steps)):
        known = ", ".join(map(str, trace.steps[:8])) + (", ..." if len(trace.steps) > 8 else "")
        raise InputError(f"{trace.source}: has no RL step {missing[0]}: choose from {known}")
    return sorted(set(steps))


def _rank_in_group(prompt: npt.NDArray[np.int32], sample: npt.NDArray[np.int32]) -> Int64:
    """Return how many samples of the same prompt come before each rollout, by sample number."""
    order = np.lexsort((sample, prompt))
    starts = np.flatnonzero(np.diff(prompt[order], prepend=-1))
    rank = np.empty(prompt.size, np.int64)
    rank[order] = np.arange(prompt.size) - np.repeat(starts, np.diff(starts, append=prompt.size))
    return rank
