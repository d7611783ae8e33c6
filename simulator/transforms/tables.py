"""What transforms do to the table of a trace: columns put in, columns that say nothing any more left out, rollouts cut short."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from traces.schema import SCHEMA, TURN
from traces.trace import Trace

pc: Any = pyarrow.compute  # its stubs refuse valid calls
list_arrays: Any = pa.ListArray  # so do these

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Column: TypeAlias = "pa.Array[Any]"

BY_TOKEN = ("token_ids", "logprobs", "next_logprobs", "accept_lengths", "draft_lengths")
"""Columns with a value for each token of the response."""
RIGHT = 0.5
"""The least reward of a right answer, where it is 1 or 0 and where it is 1 or -1."""


def recorded(trace: Trace, name: str) -> bool:
    """Whether the trace has the column, with something in it."""
    return name in trace.table.column_names and trace.table.column(name).null_count < len(trace)


def without(trace: Trace, names: Iterable[str]) -> Trace:
    """The trace without these columns, those among them that it has."""
    return replace(trace, table=trace.table.drop_columns([name for name in names if name in trace.table.column_names]))


def with_column(trace: Trace, name: str, values: Any) -> Trace:
    """The trace with a column of the schema replaced, or put last; values: an array or list, one for each rollout."""
    field = SCHEMA.field(name)
    table = trace.table
    column = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, field.type)
    if name not in table.column_names:
        return replace(trace, table=table.append_column(field, column))
    return replace(trace, table=table.set_column(table.column_names.index(name), field, column))


def with_values(trace: Trace, name: str, where: npt.NDArray[np.bool_], value: Any) -> Trace:
    """The trace with one value of a column in some of its rollouts; a column that is not there says nothing of the others."""
    table = trace.table
    column = table.column(name) if name in table.column_names else pa.nulls(len(trace), SCHEMA.field(name).type)
    mixed = pc.if_else(where, pa.scalar(value, SCHEMA.field(name).type), column)
    return with_column(trace, name, mixed)


def rewards_of(trace: Trace) -> Float64:
    """The rewards, float64[n], NaN where there is none."""
    return np.asarray(pc.fill_null(trace.table.column("reward"), np.nan).to_numpy(), np.float64)


def cut(trace: Trace, lengths: Int64) -> Trace:
    """The trace of the first tokens of each rollout; lengths: int64[n], from 1 to output_tokens.

    It is what an engine that stops there leaves: an accepted draft ends with the rollout, and so do its turns.
    """
    made = without(trace, [name for name in BY_TOKEN if not recorded(trace, name)])
    if by_token := [name for name in BY_TOKEN if recorded(trace, name)]:
        position, row = _positions(lengths)
        place = position + trace.offsets[:-1][row]
    for name in by_token:
        values = _flat(trace, name)[place]
        if name == "accept_lengths":
            values = np.minimum(values, lengths[row] - position)
        made = with_column(made, name, lists(name, values, lengths))
    if recorded(trace, "turns"):
        made = with_column(made, "turns", _cut_turns(trace, lengths))
    return with_column(made, "output_tokens", lengths)


def lists(name: str, values: npt.NDArray[Any], lengths: Int64) -> Column:
    """A column of lists of the schema: so many of the values for each rollout, one rollout after another."""
    kind: Any = SCHEMA.field(name).type
    return _listed(_offsets(lengths), pa.array(values, kind.value_type))


def end_facts(trace: Trace) -> Mapping[str, float]:
    """How the rollouts of a trace end: mean tokens, share cut by length, mean reward; those that it tells."""
    facts = {"mean_tokens": float(trace.output_tokens.mean())}
    if recorded(trace, "finish_reason"):
        by_length = pc.fill_null(pc.equal(trace.table.column("finish_reason"), "length"), False)
        facts["truncated_share"] = float(by_length.to_numpy().mean())
    rewards = rewards_of(trace) if recorded(trace, "reward") else np.zeros(0)
    if np.isfinite(rewards).any():
        facts["mean_reward"] = float(rewards[np.isfinite(rewards)].mean())
    return facts


def _flat(trace: Trace, name: str) -> npt.NDArray[Any]:
    values: npt.NDArray[Any] = pc.list_flatten(trace.table.column(name)).to_numpy()
    return values


def _positions(lengths: Int64) -> tuple[Int64, Int64]:
    """Of every token of rollouts of these lengths its position and its rollout."""
    row = np.repeat(np.arange(lengths.size), lengths)
    return np.arange(row.size) - np.repeat(np.cumsum(lengths) - lengths, lengths), row


def _offsets(lengths: Int64) -> Column:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def _cut_turns(trace: Trace, lengths: Int64) -> Column:
    """The turns that begin before the end, the last one as long as is left; where a rollout was cut, nothing is waited for."""
    column = trace.table.column("turns").combine_chunks()
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    turns, row = pc.list_flatten(column), np.repeat(np.arange(counts.size), counts)
    generated = pc.struct_field(turns, "generated_tokens").to_numpy().astype(np.int64)
    wait_s = pc.struct_field(turns, "wait_s").to_numpy()
    ends = np.cumsum(generated)
    ends -= (np.concatenate([[0], ends])[np.cumsum(counts) - counts])[row]  # counted from the rollout's start
    last = (ends >= lengths[row]) & (lengths < trace.output_tokens)[row]
    kept = ends - generated < lengths[row]
    parts = pa.StructArray.from_arrays(
        [
            pa.array((generated - np.maximum(ends - lengths[row], 0))[kept], pa.int32()),
            pa.array(np.where(last, 0.0, wait_s)[kept], pa.float64()),
        ],
        fields=list(TURN),
    )
    offsets = _offsets(np.bincount(row[kept], minlength=counts.size).astype(np.int64))
    return _listed(offsets, parts, column.is_null() if column.null_count else None)


def _listed(offsets: Column, values: Any, null: Any = None) -> Column:
    made: Column = list_arrays.from_arrays(offsets, values, mask=null)
    return made
