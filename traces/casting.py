"""Bring a table's columns to the types of the trace schema, or say which value cannot be brought there."""

import difflib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from traces.errors import InputError
from traces.schema import REQUIRED, SCHEMA

pc: Any = pyarrow.compute  # its stubs refuse valid calls


def canonical(table: pa.Table, source: str) -> pa.Table:
    """The table with every known column in its schema type; unknown columns, row order and metadata are kept.

    Harmless variants are cast: other integer widths (if the values fit), other float widths, large, view and dictionary
    strings, large, view and fixed-size lists, null-typed optional columns. Raises InputError for the rest.
    """
    _check_names(table, source)
    fields: list[pa.Field[Any]] = []
    arrays: list[pa.ChunkedArray[Any]] = []
    for index, found in enumerate(table.schema):
        column = table.column(index)
        if found.name in SCHEMA.names:
            target = SCHEMA.field(found.name)
            fields.append(target)
            arrays.append(cast(column, target, source))
        else:
            fields.append(found)
            arrays.append(column)
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields)).replace_schema_metadata(table.schema.metadata)


def row_of_value(column: "pa.ChunkedArray[Any]", index: int) -> int:
    """Row of a list column to which the value at `index` of its flattened values belongs."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return int(np.searchsorted(np.cumsum(lengths), index, side="right"))


def _check_names(table: pa.Table, source: str) -> None:
    names = table.column_names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"{source}: column '{repeated[0]}' appears {names.count(repeated[0])} times: keep one of them")
    for name in REQUIRED:
        if name in names:
            continue
        near = difflib.get_close_matches(name, [other for other in names if other not in SCHEMA.names], n=1, cutoff=0.5)
        fix = (
            f"rename '{near[0]}' if that is it"
            if near
            else "add it, or bring the file in with `rolloutsim trace import`"
        )
        raise InputError(
            f"{source}: column '{name}' is missing; the file has {', '.join(names) or 'no columns'}: {fix}"
        )


def cast(
    column: "pa.ChunkedArray[Any]", target: "pa.Field[Any]", source: str, first_row: int = 0
) -> "pa.ChunkedArray[Any]":
    """The column in the type of a field of the schema; InputError names the row of a value that does not fit."""
    if column.type == target.type:
        return column
    if not _compatible(column.type, target.type):
        raise InputError(
            f"{source}: column '{target.name}' has type {column.type}, needs {target.type}: convert it before writing"
        )
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        return column.cast(target.type)
    except pa.ArrowException as error:
        raise _misfit(column, target, source, first_row, error) from error


def _compatible(found: Any, target: Any) -> bool:
    """Whether a cast keeps what the values mean (they may still be too large)."""
    if pa.types.is_dictionary(found):
        return _compatible(found.value_type, target)
    if pa.types.is_null(found) or found == target:
        return True
    if pa.types.is_integer(target):
        return pa.types.is_integer(found)
    if pa.types.is_floating(target):
        return pa.types.is_floating(found) or pa.types.is_integer(found) or pa.types.is_boolean(found)
    if pa.types.is_string(target):
        return pa.types.is_large_string(found) or pa.types.is_string_view(found)
    if pa.types.is_list(target):
        return _is_any_list(found) and _compatible(found.value_type, target.value_type)
    if pa.types.is_struct(target):
        return (
            pa.types.is_struct(found)
            and [field.name for field in found] == [field.name for field in target]
            and all(_compatible(one.type, other.type) for one, other in zip(found, target, strict=True))
        )
    return False


def _is_any_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def _misfit(
    column: "pa.ChunkedArray[Any]", target: "pa.Field[Any]", source: str, first_row: int, error: pa.ArrowException
) -> InputError:
    """The error for a cast that failed on a value: names the first integer that does not fit, where there is one."""
    is_list = _is_any_list(column.type)
    values = pc.list_flatten(column) if is_list else column
    kind = target.type.value_type if is_list else target.type
    if pa.types.is_integer(values.type) and pa.types.is_integer(kind):
        limits: Any = np.iinfo(str(kind))
        numbers = pc.fill_null(values, 0).to_numpy()
        bad = np.flatnonzero((numbers < limits.min) | (numbers > limits.max))
        if len(bad):
            row = row_of_value(column, int(bad[0])) if is_list else int(bad[0])
            return InputError(
                f"{source}: row {first_row + row}, column '{target.name}': {numbers[bad[0]]} does not fit {kind} "
                f"({limits.min} to {limits.max}): correct the value"
            )
    return InputError(f"{source}: column '{target.name}' cannot be read as {target.type}: {str(error).splitlines()[0]}")
