"""The Parquet form of a profile: for tables too large to read as YAML. A row per operator, the rest in the metadata.

Columns: `name`, `kind` (affine, roof, table), `repeat`; of tables `when`, `per`, `axes`, `grid` (a list for each axis) and
`values_s` (flat, last axis fastest); of affine operators `coefficients_s`, of roofs `memory_s` and `compute_s`: seconds per
unit of each of the features that the metadata names as `row_keys`. The metadata key `rolloutsim.profile` holds JSON:
`row_keys`, and `profile`, the keys of the YAML form but for its operators.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from simulator.cost.document import OPERATOR_KEYS, document_of, operator_document, parse
from simulator.cost.model import Profile
from simulator.cost.operators import ROW_KEYS, Affine, Operator, Roof, Table, row
from traces.errors import InputError

Float64 = npt.NDArray[np.float64]

KEY = b"rolloutsim.profile"
SECONDS = pa.list_(pa.float64())
COLUMNS: dict[str, pa.DataType] = {
    "name": pa.string(),
    "kind": pa.string(),
    "repeat": pa.int64(),
    "when": pa.string(),
    "per": pa.string(),
    "axes": pa.list_(pa.string()),
    "grid": pa.list_(SECONDS),
    "values_s": SECONDS,
    "coefficients_s": SECONDS,
    "memory_s": SECONDS,
    "compute_s": SECONDS,
}
SCHEMA = pa.schema(COLUMNS)
MOST_BYTES, MOST_OPERATORS = 2**30, 10**4
"""What no profile reaches; above it a file is wrong."""
NOTHING = Affine("none", row(constant=1.0))
"""Stands in for the operators, so that one reader and one writer serve both forms for all the rest."""


def to_parquet(profile: Profile) -> bytes:
    """Content of the Parquet file that `from_parquet` reads back, every number the same."""
    columns = {name: [_cell(one, name) for one in profile.operators] for name in SCHEMA.names}
    header = document_of(replace(profile, kind="affine", operators=(NOTHING,))) | {"kind": profile.kind}
    del header["operators"]
    told = json.dumps({"row_keys": ROW_KEYS, "profile": header}, ensure_ascii=False)
    table = pa.table(columns, schema=SCHEMA.with_metadata({KEY: told.encode()}))
    sink = pa.BufferOutputStream()
    plain: dict[str, Any] = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, sink, write_page_checksum=True, **plain)
    return sink.getvalue().to_pybytes()


def from_parquet(content: bytes, sha256: str | None = None) -> Profile:
    """Profile from the content of a Parquet file.

    Raises InputError naming row, column, value and fix; the caller adds the file.
    """
    table, told = _read(content)
    header = told.get("profile")
    if not isinstance(header, dict) or told.get("row_keys") != list(ROW_KEYS):
        raise InputError(
            f"metadata {KEY.decode()}: expected 'profile', an object, and 'row_keys' {list(ROW_KEYS)}; it was written by "
            "another version: import it again"
        )
    stand_in = {"kind": "affine", "operators": [operator_document(NOTHING)]}
    shell = parse(json.dumps(header | stand_in, ensure_ascii=False), sha256)
    operators = tuple(_operator(table, at) for at in range(table.num_rows))
    return replace(shell, kind=str(header.get("kind")), operators=operators)


def _cell(one: Operator, column: str) -> Any:
    """What a row holds of an operator: None where the column is not of its kind."""
    if column == "kind":
        return type(one).__name__.lower()
    if column == "grid" and isinstance(one, Table):
        return [points.tolist() for points in one.grid]
    if column == "values_s" and isinstance(one, Table):
        return one.values_s.ravel()
    value = getattr(one, "row_s" if column == "coefficients_s" else column, None)
    return list(value) if isinstance(value, tuple) else value


def _read(content: bytes) -> tuple[pa.Table, dict[str, Any]]:
    """The table in one chunk, its columns checked, and what the metadata tells."""
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        groups = range(file.metadata.num_row_groups)
        size = sum(file.metadata.row_group(index).total_byte_size for index in groups)
        if size > MOST_BYTES or file.metadata.num_rows > MOST_OPERATORS:
            raise InputError(
                f"{file.metadata.num_rows:,} rows of {size:,} bytes: a profile has at most {MOST_OPERATORS:,} operators in "
                f"{MOST_BYTES:,} bytes; give a profile"
            )
        told = json.loads((file.schema_arrow.metadata or {}).get(KEY, b"null"))
        if not isinstance(told, dict):
            raise InputError(f"metadata {KEY.decode()} is missing: give a file that `rolloutsim profile import` wrote")
        found = file.schema_arrow
        for field in SCHEMA:
            at = found.get_all_field_indices(field.name)
            if len(at) != 1 or found.field(at[0]).type != field.type:
                have = ", ".join(str(found.field(index).type) for index in at) or "missing"
                raise InputError(
                    f"column {field.name} is {have}, expected one of {field.type}: import the profile again"
                )
        table = file.read(columns=SCHEMA.names).combine_chunks()
        table.validate(full=True)
        return table, told
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())[:80]
        raise InputError(f"not a Parquet file that can be read ({reason}): give a profile") from None


def _operator(table: pa.Table, at: int) -> Operator:
    name, kind, repeat = (table.column(key)[at].as_py() for key in ("name", "kind", "repeat"))
    where = f"row {at + 1}" + (f" ({name[:40]!r})" if name else "")
    if not name or not isinstance(repeat, int) or kind not in OPERATOR_KEYS:
        raise InputError(
            f"{where}: name {name!r}, kind {kind!r}, repeat {repeat}: give one of {', '.join(OPERATOR_KEYS)}"
        )
    empty = [key for key in OPERATOR_KEYS[kind] if not table.column(key)[at].is_valid]
    if empty:
        raise InputError(f"{where}: {empty[0]} is empty: an operator of kind {kind} needs it")
    try:
        if kind == "affine":
            return Affine(name, _row(table, at, "coefficients_s"), repeat)
        if kind == "roof":
            return Roof(name, _row(table, at, "memory_s"), _row(table, at, "compute_s"), repeat)
        axes = tuple(str(axis) for axis in table.column("axes")[at].as_py())
        grid = tuple(_numbers(points) for points in table.column("grid")[at])
        values, shape = _numbers(table.column("values_s")[at]), tuple(points.size for points in grid)
        if values.size != int(np.prod(shape, dtype=object)):
            raise InputError(f"values_s has {values.size} numbers, the grid {shape}: give one for each point")
        when, per = (table.column(key)[at].as_py() for key in ("when", "per"))
        return Table(name, axes, grid, values.reshape(shape), repeat, when or "always", per)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _row(table: pa.Table, at: int, column: str) -> tuple[float, ...]:
    return tuple(_numbers(table.column(column)[at]).tolist())


def _numbers(cell: Any) -> Float64:
    """A list of numbers as an array; an empty one among them is not a number."""
    values = None if cell is None else cell.values
    return np.empty(0) if values is None else np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
