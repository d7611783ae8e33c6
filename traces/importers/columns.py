"""CSV, JSON Lines and Parquet files that hold a trace under other column names."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from traces.errors import InputError
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import csv_rows, json_objects
from traces.importers.values import of_type
from traces.io import load
from traces.schema import SCHEMA


def read_csv(path: Path, names: Mapping[str, str]) -> Imported:
    """A CSV with a header line; list columns hold JSON text. `names` maps trace columns to columns of the file."""
    return _read(path, names, csv_rows)


def read_jsonl(path: Path, names: Mapping[str, str]) -> Imported:
    """A file of one JSON object per line. `names` maps trace columns to keys of the objects."""
    return _read(path, names, json_objects)


def read_parquet(path: Path, names: Mapping[str, str]) -> Imported:
    """A Parquet file, with columns renamed; the others are kept. `names` maps trace columns to columns of the file."""
    table, _ = load(path)
    _check_names(path, names, table.column_names)
    kept = [name for name in table.column_names if name not in names and name not in names.values()]
    columns = {name: name for name in kept} | dict(names)
    arrays = [table.column(found) for found in columns.values()]
    table = pa.table(arrays, names=list(columns)).replace_schema_metadata(table.schema.metadata)
    return _completed(table, [f"row {row}" for row in range(table.num_rows)])


def _read(
    path: Path, names: Mapping[str, str], rows_of: Callable[[Path], Iterator[tuple[int, dict[str, Any]]]]
) -> Imported:
    rows, places = [], []
    for line, row in rows_of(path):
        rows.append(row)
        places.append(f"line {line}")
    if not rows:
        raise InputError(f"{path}: holds no rows: export at least one rollout")
    present = list(dict.fromkeys(key for row in rows for key in row))
    _check_names(path, names, present)
    sources = {name: name for name in SCHEMA.names if name in present} | dict(names)
    columns = {
        name: [
            of_type(row.get(found), SCHEMA.field(name).type, f"{path}: {place}, column '{found}'")
            for row, place in zip(rows, places, strict=True)
        ]
        for name, found in sources.items()
    }
    for column, instead in NEEDED.items():
        if column not in sources and instead not in sources:
            raise InputError(
                f"{path}: has no column for '{column}', only {', '.join(present)}: name it with --map {column}=NAME"
            )
    ignored = [name for name in present if name not in sources.values()]
    imported = _completed(arrow_table(columns, places, str(path)), places)
    return Imported(imported.table, places, imported.assumed, {"ignored_columns": ignored} if ignored else {})


NEEDED = {"prompt_id": "prompt_id", "prompt_tokens": "prompt_token_ids", "output_tokens": "token_ids"}
"""Columns that a file must have, and what they can be made from instead."""


def _check_names(path: Path, names: Mapping[str, str], present: list[str]) -> None:
    for column, found in names.items():
        if column not in SCHEMA.names:
            near = difflib.get_close_matches(column, SCHEMA.names, n=1, cutoff=0.5)
            raise InputError(
                f"column map {column}={found}: '{column}' is not a trace column: "
                + (f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(SCHEMA.names)}")
            )
        if found not in present:
            near = difflib.get_close_matches(found, present, n=1, cutoff=0.5)
            raise InputError(
                f"{path}: column map {column}={found}: the file has no '{found}': "
                + (f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(present) or 'nothing'}")
            )


def _completed(table: pa.Table, places: list[str]) -> Imported:
    """Add columns that follow from others, and step 0 where there is no step."""
    assumed = []
    for count, ids in (("output_tokens", "token_ids"), ("prompt_tokens", "prompt_token_ids")):
        if count not in table.column_names and ids in table.column_names:
            lengths = [None if row is None else len(row) for row in table.column(ids)]
            table = table.append_column(count, pa.array(lengths, pa.int32()))
            assumed.append(f"{count} is the number of {ids}")
    if "step" not in table.column_names:
        table = table.append_column("step", pa.array([0] * table.num_rows, pa.int32()))
        assumed.append("all rollouts are in step 0 (no step column)")
    if "sample" not in table.column_names and "prompt_id" in table.column_names:
        table = table.append_column("sample", pa.array(_order_in_group(table), pa.int32()))
        assumed.append("sample counts the rows of a prompt in a step, in file order")
    return Imported(table, places, tuple(assumed))


def _order_in_group(table: pa.Table) -> list[int]:
    seen: dict[tuple[Any, Any], int] = {}
    order = []
    for group in zip(table.column("step").to_pylist(), table.column("prompt_id").to_pylist(), strict=True):
        order.append(seen.get(group, 0))
        seen[group] = order[-1] + 1
    return order
