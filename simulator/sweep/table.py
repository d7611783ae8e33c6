"""All cells of a sweep as one Arrow table: what was varied, whether it could be run, and the row of its run."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from simulator.results import RUNS, SCHEMA_VERSION
from simulator.sweep.axes import Axis, Cell, shown
from simulator.sweep.worker import Outcome
from traces.atomic import replacing

NAME = "cells.parquet"
DONE, FAILED, LEFT_OUT = "done", "failed", "left out"
OWN = (
    pa.field("cell", pa.int64(), metadata={"doc": "number of the cell, in the order of the grid or of the trials"}),
    pa.field(
        "status",
        pa.string(),
        metadata={"doc": "done; failed: its values do not go together; left out: this system alone"},
    ),
    pa.field("reason", pa.string(), metadata={"doc": "why it is not done"}),
    pa.field("cell_s", pa.float64(), metadata={"doc": "seconds that the cell took, drafting included"}),
    pa.field("cell_cpu_s", pa.float64(), metadata={"doc": "seconds of processors that it took"}),
)


def cells_table(axes: Sequence[Axis], outcomes: Sequence[Outcome], about: dict[str, Any]) -> pa.Table:
    """A row for each system of each cell; a cell that could not be run is one row, with the reason.

    A key that is called like a column of `results.RUNS` is called `key.NAME`, but for `policy`, which is the same.
    """
    columns = {axis.key: column_of(axis.key) for axis in axes}
    fields = [
        pa.field(columns[axis.key], _type(axis.key, outcomes), metadata={"doc": f"varied: {axis.key}"}) for axis in axes
    ]
    rest = [field for field in RUNS if field.name not in columns.values()]
    schema = pa.schema([OWN[0], *fields, *OWN[1:], *rest])
    rows = [
        dict.fromkeys(schema.names) | row | {"cell": number} | _values(one.cell, columns, schema)
        for number, one in enumerate(outcomes)
        for row in _rows(one)
    ]
    note = json.dumps({**about, "schema_version": SCHEMA_VERSION}, default=str).encode()
    return pa.Table.from_pylist(rows, schema).replace_schema_metadata({b"rolloutsim": note})


def column_of(key: str) -> str:
    """The column of a key."""
    return f"key.{key}" if key in RUNS.names and key != "policy" else key


def write_cells(table: pa.Table, folder: Path) -> Path:
    """Write the table as zstd Parquet."""
    path = folder / NAME
    with replacing(path) as file:
        pq.write_table(table, file, compression="zstd")
    return path


def _rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    own = {"cell_s": outcome.seconds, "cell_cpu_s": outcome.cpu_s, "reason": None}
    yield from (row | own | {"status": DONE} for row in outcome.rows)
    for name, why in outcome.left_out.items():
        yield own | {"status": LEFT_OUT, "reason": why, "system": name}
    if outcome.reason is not None:
        yield own | {"status": FAILED, "reason": outcome.reason}


def _values(cell: Cell, columns: dict[str, str], schema: pa.Schema) -> Cell:
    texts = {name for name in columns.values() if schema.field(name).type == pa.string()}
    return {
        columns[key]: shown(value) if columns[key] in texts and value is not None else value
        for key, value in cell.items()
    }


def _type(key: str, outcomes: Sequence[Outcome]) -> pa.DataType:
    """Of a key's column: numbers where all values are, else texts."""
    kinds = {type(one.cell[key]) for one in outcomes if one.cell[key] is not None}
    for kind, column in ((bool, pa.bool_()), (int, pa.int64()), (float, pa.float64())):
        if kinds == {kind}:
            return column
    return pa.float64() if kinds == {int, float} else pa.string()
