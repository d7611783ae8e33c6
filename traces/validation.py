"""Checks of a canonical trace table; each refusal names the file, row, column, value and fix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from traces.casting import row_of_value
from traces.errors import InputError
from traces.schema import ALL_OR_NONE, FINISH_REASONS, REQUIRED

pc: Any = pyarrow.compute  # its stubs refuse valid calls

MINIMUM = {"step": 0, "sample": 0, "prompt_tokens": 0, "output_tokens": 1, "epoch": 0}
COUNTED_BY = {
    "token_ids": "output_tokens",
    "prompt_token_ids": "prompt_tokens",
    "logprobs": "output_tokens",
    "next_logprobs": "output_tokens",
    "accept_lengths": "output_tokens",
    "draft_lengths": "output_tokens",
}


@dataclass(frozen=True)
class _Subject:
    """The table under check, and how to name one of its rows."""

    table: pa.Table
    source: str
    places: Sequence[str] | None

    def refusal(self, rows: npt.NDArray[np.int64], column: str, problem: str, fix: str) -> InputError:
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        return InputError(f"{self.source}: {self.place(rows[0])}, column '{column}': {problem}{more}: {fix}")

    def place(self, row: int) -> str:
        return self.places[row] if self.places else f"row {row}"


def validate(table: pa.Table, source: str, places: Sequence[str] | None = None) -> None:
    """Raise InputError for the first broken rule of a canonical table.

    A row is named by its place, where places are given (importers give lines), else by its index from 0.
    """
    if table.num_rows == 0:
        raise InputError(f"{source}: the trace has 0 rows: export at least one rollout")
    subject = _Subject(table, source, places)
    _check_nulls(subject)
    _check_minimums(subject)
    _check_counts(subject)
    _check_token_ids(subject)
    _check_accept_lengths(subject)
    _check_draft_lengths(subject)
    _check_finish_reasons(subject)
    _check_arrivals(subject)
    _check_turns(subject)
    _check_reasoning_steps(subject)
    _check_duplicates(subject)


def _check_nulls(subject: _Subject) -> None:
    table = subject.table
    for name in REQUIRED:
        rows = _rows(table.column(name).is_null())
        if len(rows):
            raise subject.refusal(rows, name, "null in a required column", "fill it in, or drop the row")
    for name in ALL_OR_NONE:
        if name in table.column_names:
            rows = _rows(table.column(name).is_null())
            if 0 < len(rows) < table.num_rows:
                raise subject.refusal(rows, name, "null where other rows have a value", "fill in all rows, or none")
    for name in (*COUNTED_BY, "reasoning_steps", "block_hashes"):
        if name in table.column_names:
            values = pc.list_flatten(table.column(name))
            if values.null_count:
                row = row_of_value(table.column(name), int(_rows(values.is_null())[0]))
                raise subject.refusal(np.array([row]), name, "null inside the list", "write every element")


def _check_minimums(subject: _Subject) -> None:
    table = subject.table
    for name, least in MINIMUM.items():
        if name not in table.column_names:
            continue
        rows = _rows(pc.less(table.column(name), least))
        if len(rows):
            value = table.column(name)[int(rows[0])]
            fix = "drop the rollout, or correct the value"
            raise subject.refusal(rows, name, f"{value} is less than {least}", fix)


def _check_counts(subject: _Subject) -> None:
    table = subject.table
    for name, count in COUNTED_BY.items():
        if name not in table.column_names:
            continue
        lengths = pc.list_value_length(table.column(name))
        rows = _rows(pc.not_equal(lengths, table.column(count)))
        if len(rows):
            row = int(rows[0])
            problem = f"{lengths[row]} elements but {count} is {table.column(count)[row]}"
            raise subject.refusal(rows, name, problem, f"make {count} the length of {name}")


def _check_token_ids(subject: _Subject) -> None:
    table = subject.table
    for name in ("prompt_token_ids", "token_ids"):
        if name not in table.column_names:
            continue
        values = pc.list_flatten(table.column(name))
        if len(values) and pc.min(values).as_py() < 0:
            index = int(_rows(pc.less(values, 0))[0])
            row = row_of_value(table.column(name), index)
            fix = "strip padding and masked positions (often -1 or -100)"
            raise subject.refusal(np.array([row]), name, f"{values[index]} is a negative token id", fix)


def _check_accept_lengths(subject: _Subject) -> None:
    """Accepted drafts are tokens of the response: from position i on, at most output_tokens - i."""
    table, name = subject.table, "accept_lengths"
    if not _has(table, name):
        return
    accepted = pc.list_flatten(table.column(name)).to_numpy()
    lengths, row_of, position = _positions(table)
    bad = np.flatnonzero((accepted < 0) | (accepted > lengths[row_of] - position))
    if len(bad):
        row, at = int(row_of[bad[0]]), int(position[bad[0]])
        problem = (
            f"{accepted[bad[0]]} at position {at} is not between 0 and the {lengths[row] - at} tokens from there on"
        )
        raise subject.refusal(np.unique(row_of[bad]), name, problem, "count accepted drafts of the response, no bonus")


def _check_draft_lengths(subject: _Subject) -> None:
    """Drafted tokens: at each position at least those accepted there."""
    table, name = subject.table, "draft_lengths"
    if not _has(table, name):
        return
    if not _has(table, "accept_lengths"):
        problem = "drafted tokens without the accepted ones"
        raise subject.refusal(np.array([0]), name, problem, "write accept_lengths, too, or leave it out")
    drafted, accepted = (pc.list_flatten(table.column(each)).to_numpy() for each in (name, "accept_lengths"))
    bad = np.flatnonzero(drafted < accepted)
    if len(bad):
        _, row_of, position = _positions(table)
        problem = f"{drafted[bad[0]]} at position {position[bad[0]]}, where {accepted[bad[0]]} were accepted"
        raise subject.refusal(
            np.unique(row_of[bad]), name, problem, "count all drafted tokens, the accepted among them"
        )


def _has(table: pa.Table, name: str) -> bool:
    return name in table.column_names and table.column(name).null_count < table.num_rows


def _positions(table: pa.Table) -> tuple[npt.NDArray[np.int64], ...]:
    """Response lengths of the rollouts, and of every response token its row and its position, int64."""
    lengths = table.column("output_tokens").to_numpy().astype(np.int64)
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    return lengths, row_of, np.arange(len(row_of)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _check_finish_reasons(subject: _Subject) -> None:
    table = subject.table
    if "finish_reason" not in table.column_names:
        return
    column = table.column("finish_reason")
    unknown = set(pc.unique(column).to_pylist()) - {*FINISH_REASONS, None}
    if unknown:
        rows = np.concatenate([_rows(pc.equal(column, value)) for value in unknown])
        rows.sort()
        fix = f"use one of {', '.join(FINISH_REASONS)}, or null where unknown"
        raise subject.refusal(rows, "finish_reason", f"{column[int(rows[0])].as_py()!r} is not a finish reason", fix)


def _check_arrivals(subject: _Subject) -> None:
    table = subject.table
    if "arrival_s" not in table.column_names:
        return
    column = table.column("arrival_s")
    rows = _rows(pc.invert(pc.and_(pc.is_finite(column), pc.greater_equal(column, 0.0))))
    if len(rows):
        fix = "give seconds from the start of the step, at least 0"
        raise subject.refusal(rows, "arrival_s", f"{column[int(rows[0])]} is not a time", fix)


def _check_reasoning_steps(subject: _Subject) -> None:
    table, name = subject.table, "reasoning_steps"
    if name not in table.column_names or table.column(name).null_count:
        return
    column = table.column(name)
    lengths = pc.list_value_length(column).to_numpy().astype(np.int64)
    row, tokens = np.repeat(np.arange(len(lengths)), lengths), pc.list_flatten(column).to_numpy().astype(np.int64)
    if (tokens < 1).any():
        bad = row[tokens < 1]
        raise subject.refusal(
            bad, name, f"a step of {tokens[tokens < 1][0]} tokens", "write steps of at least one token"
        )
    sums, output_tokens = (
        np.bincount(row, weights=tokens, minlength=len(lengths)),
        table.column("output_tokens").to_numpy(),
    )
    rows = np.flatnonzero(sums != output_tokens)
    if len(rows):
        problem = f"its steps sum to {int(sums[rows[0]])} but output_tokens is {output_tokens[rows[0]]}"
        raise subject.refusal(rows, name, problem, "make them equal (a blank line belongs to the step that it ends)")


def _check_turns(subject: _Subject) -> None:
    table = subject.table
    if "turns" not in table.column_names:
        return
    column = table.column("turns")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    row_of_turn = np.repeat(np.arange(len(lengths)), lengths)
    turns = pc.list_flatten(column)
    generated, wait_s = pc.struct_field(turns, "generated_tokens"), pc.struct_field(turns, "wait_s")
    broken = pc.or_(
        pc.or_(generated.is_null(), wait_s.is_null()),
        pc.or_(pc.less(pc.fill_null(generated, -1), 1), pc.invert(_is_wait(wait_s))),
    )
    bad = _rows(broken)
    if len(bad):
        fix = "generated_tokens must be at least 1, and wait_s a finite time of at least 0"
        raise subject.refusal(row_of_turn[bad], "turns", f"turn {turns[int(bad[0])].as_py()} is broken", fix)
    sums = np.bincount(row_of_turn, weights=generated.to_numpy(), minlength=len(lengths)).astype(np.int64)
    given = column.is_valid().to_numpy()
    output_tokens = table.column("output_tokens").to_numpy()
    rows = np.flatnonzero(given & (sums != output_tokens))
    if len(rows):
        problem = f"generated_tokens sum to {sums[rows[0]]} but output_tokens is {output_tokens[rows[0]]}"
        raise subject.refusal(rows, "turns", problem, "make them equal (tool output belongs to no turn)")


def _is_wait(wait_s: "pa.ChunkedArray[Any]") -> Any:
    filled = pc.fill_null(wait_s, -1.0)
    return pc.and_(pc.is_finite(filled), pc.greater_equal(filled, 0.0))


def _check_duplicates(subject: _Subject) -> None:
    table = subject.table
    names = table.column("prompt_id")
    prompt = pc.index_in(names, value_set=pc.unique(names)).to_numpy()
    step, sample = table.column("step").to_numpy(), table.column("sample").to_numpy()
    order = np.lexsort((sample, prompt, step))  # stable, so equal keys stay in row order
    same = np.ones(len(order) - 1, dtype=np.bool_)
    for key in (step, prompt, sample):
        same &= key[order[1:]] == key[order[:-1]]
    if same.any():
        place = np.flatnonzero(same)
        rows = order[place + 1]
        problem = (
            f"step {step[rows[0]]}, prompt {names[int(rows[0])].as_py()!r}, sample {sample[rows[0]]} "
            f"is already in {subject.place(order[place[0]])}"
        )
        raise subject.refusal(rows, "sample", problem, "number the samples of a prompt in a step 0, 1, 2, ...")


def _rows(mask: Any) -> npt.NDArray[np.int64]:
    return np.flatnonzero(pc.fill_null(mask, False).to_numpy())
