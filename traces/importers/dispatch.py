"""Choose the importer of a format, and turn what it read into a valid trace table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from traces.casting import canonical
from traces.errors import InputError
from traces.importers.azure import read_azure
from traces.importers.columns import read_csv, read_jsonl, read_parquet
from traces.importers.imported import Imported
from traces.importers.mooncake import read_mooncake
from traces.importers.verl import read_verl
from traces.io import with_provenance
from traces.validation import validate

FORMATS = ("parquet", "csv", "jsonl", "verl", "azure", "mooncake")


def import_trace(
    path: str | Path,
    file_format: str,
    *,
    column_map: Mapping[str, str] | None = None,
    tokenizer: str | Path | None = None,
    drop_empty: bool = False,
) -> pa.Table:
    """The valid trace table of a file in one of FORMATS; rows keep the order of the file.

    `column_map` (parquet, csv, jsonl) maps trace columns to the file's; `tokenizer` (verl) is a tokenizer.json. A
    rollout of 0 tokens cannot be replayed: InputError, or dropped and counted with `drop_empty`. The table's provenance
    (traces.io) says the format, what was assumed and how many rows were dropped.
    """
    path = Path(path)
    if tokenizer is not None and file_format != "verl":
        raise InputError(f"{path}: format {file_format} holds no text: leave --tokenizer out, or use --format verl")
    imported = _read(path, file_format, column_map or {}, tokenizer)
    table, places = canonical(imported.table, str(path)), list(imported.places)
    kept = _not_empty(table, places, str(path), drop_empty)
    dropped = len(places) - len(kept)
    if dropped:
        table, places = table.take(kept), [places[row] for row in kept]
    validate(table, str(path), places)
    note: dict[str, Any] = {"format": file_format, "imported_from": path.name, "dropped_empty": dropped}
    return with_provenance(table, {**note, **imported.notes, "assumed": list(imported.assumed)})


def _read(path: Path, file_format: str, column_map: Mapping[str, str], tokenizer: str | Path | None) -> Imported:
    by_name = {"parquet": read_parquet, "csv": read_csv, "jsonl": read_jsonl}
    as_logged = {"azure": read_azure, "mooncake": read_mooncake}
    if column_map and file_format not in by_name:
        raise InputError(f"{path}: format '{file_format}' has fixed columns: leave the column map out")
    if file_format in by_name:
        return by_name[file_format](path, column_map)
    if file_format in as_logged:
        return as_logged[file_format](path)
    if file_format == "verl":
        if tokenizer is None:
            raise InputError(f"{path}: verl dumps hold text: give the model's tokenizer.json (--tokenizer)")
        return read_verl(path, Path(tokenizer))
    raise InputError(f"{path}: unknown format '{file_format}': choose from {', '.join(FORMATS)}")


def _not_empty(table: pa.Table, places: list[str], source: str, drop_empty: bool) -> np.ndarray[Any, Any]:
    """Indices of the rows to keep: all but those of 0 output tokens."""
    if "output_tokens" not in table.column_names or table.column("output_tokens").null_count:
        return np.arange(table.num_rows)  # validation says what is wrong
    empty = table.column("output_tokens").to_numpy() == 0
    if empty.any() and not drop_empty:
        first = int(np.flatnonzero(empty)[0])
        raise InputError(
            f"{source}: {places[first]}: 0 output tokens ({int(empty.sum())} such rows): "
            f"nothing to replay; use --drop-empty to leave them out"
        )
    return np.flatnonzero(~empty)
