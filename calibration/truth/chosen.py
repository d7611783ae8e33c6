"""Which recorded rollouts are decoded again: those of one RL step, cut and counted, with the history before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from simulator.drafting.acceptance import Acceptance
from simulator.drafting.drafter import past_rows
from simulator.drafting.suffix import Suffix
from simulator.engine.workload import Workload
from traces.errors import InputError
from traces.io import from_table
from traces.schema import REQUIRED
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """The first `rollouts` of an RL step (None: all), in queue order, outputs cut to `max_output_tokens`.

    context_tokens: KV tokens that every rollout begins with, in place of its prompt (None: its prompt is prefilled).
    """

    step: int
    rollouts: int | None = None
    max_output_tokens: int | None = None
    context_tokens: int | None = None


def check_step(trace: Trace, step: int) -> None:
    """Raise InputError where the trace lacks the RL step, or tokens."""
    if step not in trace.steps:
        raise InputError(f"{trace.source}: has no RL step {step}: use one of {trace.steps[0]} to {trace.steps[-1]}")
    if not trace.has_tokens:
        raise InputError(f"{trace.source}: has no token_ids, which decide what is accepted: record them")


def chosen(trace: Trace, choice: Choice, window: int) -> tuple[Trace, Int64, Int64]:
    """The trace with those rollouts alone in that RL step, their rows, and the rows of the history before them."""
    check_step(trace, choice.step)
    rows = np.flatnonzero(trace.step == choice.step)[: choice.rollouts]
    if choice.rollouts is not None and rows.size < choice.rollouts:
        raise InputError(
            f"{trace.source}: RL step {choice.step} has {rows.size} rollouts, not {choice.rollouts}: ask for fewer"
        )
    past = past_rows(trace, choice.step, window)
    kept = [name for name in (*REQUIRED, "prompt_token_ids", "token_ids") if name in trace.table.column_names]
    now = trace.table.select(kept).take(rows)
    if choice.max_output_tokens is not None:
        recorded: list[Any] = now.column("token_ids").to_pylist()
        tokens = [ids[: choice.max_output_tokens] for ids in recorded]
        lengths = pa.array([len(ids) for ids in tokens], pa.int32())
        now = now.set_column(now.column_names.index("token_ids"), "token_ids", pa.array(tokens, pa.list_(pa.int32())))
        now = now.set_column(now.column_names.index("output_tokens"), "output_tokens", lengths)
    if not np.asarray(now.column("prompt_tokens")).min():
        raise InputError(
            f"{trace.source}: RL step {choice.step} has a prompt of 0 tokens: a decoder needs at least one"
        )
    # in the order of the file, by which prompts are numbered in what was measured
    before = trace.table.select(kept).take(past[np.lexsort((past, trace.step[past]))])
    part = from_table(pa.concat_tables([before, now.cast(before.schema)]), trace.source)
    return part, np.arange(past.size, past.size + rows.size), past_rows(part, choice.step, window)


def prompt_lengths(trace: Trace, rows: Int64, choice: Choice) -> Int64:
    """KV tokens that each rollout begins with."""
    lengths = trace.prompt_tokens[rows].astype(np.int64)
    return lengths if choice.context_tokens is None else np.full(rows.size, choice.context_tokens)


def workload_of(trace: Trace, rows: Int64, past: Int64, choice: Choice, drafter: Suffix) -> Workload:
    """The same rollouts as the simulator's engine takes them, their drafts cut at their ends, as what was measured had them."""
    lengths = trace.output_tokens[rows].astype(np.int64)
    return Workload(
        trace.prompt[rows].astype(np.int64), trace.sample[rows].astype(np.int64), prompt_lengths(trace, rows, choice),
        lengths, _cut(drafter.accept(trace, rows, past), lengths),
    )  # fmt: skip


def _cut(found: Acceptance, lengths: Int64) -> Acceptance:
    """Longest matches that end with their rollouts: the harness knows where those end."""
    left = np.repeat(found.offsets[1:], lengths) - np.arange(int(found.offsets[-1]))
    table = np.minimum(found.tables[0], left[:, None]).astype(np.uint8)
    return Acceptance(found.offsets, lambda budget: table, prefix=True)
