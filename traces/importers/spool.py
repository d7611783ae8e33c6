"""Rows put aside while a trace is imported: a nameless file holds them, of which a killed process leaves nothing."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from traces.errors import InputError
from traces.schema import SCHEMA

ROW_GROUP_BYTES = 32 << 20
BATCHES = 32
"""In so many parts a row group is written: each costs some milliseconds, and folders hold thousands of files of a few rows."""


class Spool:
    """Tables appended one by one, read back in that order with the columns of all; in memory is one at a time.

    A table with columns that no earlier one has begins a part of its own, with a schema of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: list[tuple[Any, pa.ipc.RecordBatchStreamWriter]] = []
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0
        self.schema: pa.Schema = pa.schema([])

    def add(self, table: pa.Table) -> None:
        """Put the rows behind the others."""
        wanted = _merged(self.schema, table.schema)
        if not self._parts or wanted != self.schema:
            self._flush()
            self._begin(wanted)
        self._waiting.append(with_columns(table, wanted))
        self._waiting_bytes += table.nbytes
        if self._waiting_bytes >= ROW_GROUP_BYTES // BATCHES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._parts[-1][1].write_table(pa.concat_tables(self._waiting).combine_chunks())
        self._waiting, self._waiting_bytes = [], 0

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows with the columns of `schema`, in tables that make good row groups."""
        self._flush()
        waiting: list[pa.Table] = []
        waiting_bytes = 0
        for file, writer in self._parts:
            writer.close()
            file.seek(0)
            with pa.ipc.open_stream(file) as stream:
                for batch in stream:
                    waiting.append(with_columns(pa.Table.from_batches([batch]), schema))
                    waiting_bytes += waiting[-1].nbytes
                    if waiting_bytes >= ROW_GROUP_BYTES:
                        yield pa.concat_tables(waiting)
                        waiting, waiting_bytes = [], 0
        if waiting:
            yield pa.concat_tables(waiting)

    def close(self) -> None:
        """Give the room back."""
        for file, _ in self._parts:
            file.close()

    def _begin(self, schema: pa.Schema) -> None:
        try:
            file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it lives as long as this does
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(f"{self._folder}: cannot be written to ({reason}): create it or choose another") from error
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        self._parts.append((file, pa.ipc.new_stream(file, schema, options=options)))
        self.schema = schema


def with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of the schema, null where it has none."""
    arrays = [
        _cast(table.column(name), kind) if name in table.column_names else _nulls(table.num_rows, kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def ordered(fields: "Iterable[pa.Field[Any]]") -> pa.Schema:
    """The columns of a trace in the order of its schema, others behind them."""
    given = {field.name: field for field in fields}
    known = [field for field in SCHEMA if field.name in given]
    return pa.schema([*known, *(field for name, field in given.items() if name not in SCHEMA.names)])


def _nulls(rows: int, kind: Any) -> Any:
    return pa.nulls(rows, kind)


def _cast(column: Any, kind: pa.DataType) -> Any:
    return column if column.type == kind else column.cast(kind)


def _merged(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """The columns of both; one that is of two types becomes text, of numbers and nothing numbers."""
    fields = {field.name: field for field in one}
    for found in other:
        have = fields.get(found.name)
        if have is None:
            fields[found.name] = found
        elif have.type != found.type and not pa.types.is_null(found.type):
            fields[found.name] = found if pa.types.is_null(have.type) else _common(have, found)
    return ordered(fields.values())


def _common(one: "pa.Field[Any]", other: "pa.Field[Any]") -> "pa.Field[Any]":
    try:
        return pa.unify_schemas([pa.schema([one]), pa.schema([other])], promote_options="permissive").field(0)
    except pa.ArrowException:
        return pa.field(one.name, pa.string())
