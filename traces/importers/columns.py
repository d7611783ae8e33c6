"""CSV, JSON Lines and Parquet files that hold a trace under other column names."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from traces.errors import InputError
from traces.importers.format import Format, Options
from traces.importers.head import Head
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import Rows, csv_rows, in_chunks, json_objects
from traces.importers.source import Source
from traces.importers.text import ASSUMED, is_text
from traces.importers.values import of_type, value_at
from traces.schema import REQUIRED, SCHEMA

pc: Any = pyarrow.compute  # its stubs refuse valid calls

NEEDED = {"prompt_id": "prompt_id", "prompt_tokens": "prompt_token_ids", "output_tokens": "token_ids"}
"""Columns that a file must have, and what they can be made from instead."""
BATCH_ROWS = 4096
_ABSENT = object()


def read_rows(
    rows_of: Callable[[Source], Iterator[tuple[int, dict[str, Any]]]], source: Source, options: Options
) -> Iterator[Imported]:
    """The rows of a CSV with a header line (list columns hold JSON text) or of a file of one JSON object per line.

    A name with dots goes into objects within: usage.prompt_tokens, choices.0.text.
    """
    first = True
    for rows in in_chunks(rows_of(source), source):
        present = list(dict.fromkeys(key for _, row in rows for key in row))
        if first:
            _check_names(source, options.names, present, partial(_in_any, rows))
            first = False
        sources = _sources(options.names, present)
        places = [f"line {line}" for line, _ in rows]
        encoded = {name for name in ("token_ids", "prompt_token_ids") if options.encoder and name in sources}
        columns = {
            name: _encoded(rows, found, source, options) if name in encoded else _values(rows, name, found, source)
            for name, found in sources.items()
        }
        _check_needed(source, sources, options.names, present)
        used = {found.split(".")[0] for found in sources.values()} | set(sources.values())
        ignored = [name for name in present if name not in used]
        yield Imported(
            arrow_table(columns, places, str(source)),
            places,
            (ASSUMED,) if encoded else (),
            {"ignored_columns": ignored} if ignored else {},
        )
    if first:
        raise InputError(f"{source}: holds no rows: export at least one rollout")


def read_parquet(source: Source, options: Options) -> Iterator[Imported]:
    """A Parquet file, with columns renamed and fields of structs by dots; the others are kept."""
    for start, table in batches_of(source):
        yield _encoded_columns(source, _renamed(source, table, options.names, start), options)


def batches_of(source: Source) -> Iterator[tuple[int, pa.Table]]:
    """Index of the first row, and rows, of a Parquet file some thousand rows at a time; InputError where it is not whole."""
    start = 0
    try:
        file = pq.ParquetFile(source.path, page_checksum_verification=True)
        for batch in file.iter_batches(BATCH_ROWS):
            batch.validate(full=True)
            source.read_bytes = source.path.stat().st_size * (start + batch.num_rows) // max(file.metadata.num_rows, 1)
            yield start, pa.Table.from_batches([batch])
            start += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{source}: is not a whole Parquet file ({reason}): export it again") from error
    if start == 0:
        raise InputError(f"{source}: holds no rows: export at least one rollout")


def _renamed(source: Source, table: pa.Table, names: Mapping[str, str], start: int) -> Imported:
    present = table.column_names
    _check_names(source, names, present, lambda name: _field(table, name) is not None)
    sources = {name: name for name in present if name not in names and name not in names.values()}
    sources |= {name: found for name, found in names.items() if found}
    _check_needed(source, sources, names, present)
    columns = {name: _field(table, found) for name, found in sources.items()}
    return Imported(pa.table(columns), [f"row {row}" for row in range(start, start + len(table))])


def _encoded_columns(source: Source, found: Imported, options: Options) -> Imported:
    """Columns of text where token ids belong, encoded where there is a tokenizer."""
    table, texts = found.table, []
    for index, column in enumerate(table.schema):
        if options.encoder and column.name in ("token_ids", "prompt_token_ids") and pa.types.is_string(column.type):
            places = [f"{source}: {place}, column '{column.name}'" for place in found.places]
            texts = [is_text(one, place) for one, place in zip(table.column(index).to_pylist(), places, strict=True)]
            table = table.set_column(index, column.name, pa.array(options.encoder.encode(texts), pa.list_(pa.int32())))
    return Imported(table, found.places, (ASSUMED,) if texts else ())


def _field(table: pa.Table, name: str) -> Any:
    """The column of that name, or the field of a struct that its dots lead to; None where there is none."""
    if name in table.column_names:
        return table.column(name)
    column, *path = name.split(".")
    if column not in table.column_names:
        return None
    try:
        return pc.struct_field(table.column(column), path)
    except (pa.ArrowException, TypeError):
        return None


def _in_any(rows: Rows, name: str) -> bool:
    return any(value_at(row, name, _ABSENT) is not _ABSENT for _, row in rows)


def _sources(names: Mapping[str, str], present: list[str]) -> dict[str, str]:
    """Of each trace column what the file calls it."""
    sources = {name: name for name in SCHEMA.names if name in present and name not in names}
    return sources | {name: found for name, found in names.items() if found}


def _values(rows: Rows, name: str, found: str, source: Source) -> list[Any]:
    kind = SCHEMA.field(name).type
    try:
        return [of_type(value_at(row, found), kind, f"{source}: line {line}, column '{found}'") for line, row in rows]
    except InputError as error:
        if name != found or name in REQUIRED:
            raise
        raise InputError(f"{error}; if it is something else, leave it out with --map {name}=") from error


def _encoded(rows: Rows, found: str, source: Source, options: Options) -> Sequence[Any]:
    assert options.encoder is not None
    texts = [is_text(value_at(row, found), f"{source}: line {line}, column '{found}'") for line, row in rows]
    return options.encoder.encode(texts)


def _check_names(source: Source, names: Mapping[str, str], present: list[str], has: Callable[[str], bool]) -> None:
    for column, found in names.items():
        if column not in SCHEMA.names:
            near = difflib.get_close_matches(column, SCHEMA.names, n=1, cutoff=0.5)
            raise InputError(
                f"column map {column}={found}: '{column}' is not a trace column: "
                + (f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(SCHEMA.names)}")
            )
        if found and not has(found):
            near = difflib.get_close_matches(found, present, n=1, cutoff=0.5)
            raise InputError(
                f"{source}: column map {column}={found}: the file has no '{found}': "
                + (f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(present) or 'nothing'}")
            )


def _check_needed(source: Source, sources: Mapping[str, str], names: Mapping[str, str], present: list[str]) -> None:
    for column, instead in NEEDED.items():
        if column in sources or instead in sources or (column == "prompt_id" and column in names):
            continue
        without = ", or leave it out with --map prompt_id= where each row is a prompt of its own" * (
            column == "prompt_id"
        )
        raise InputError(
            f"{source}: has no column for '{column}', only {', '.join(present)}: name it with --map {column}=NAME{without}"
        )


def _is_trace(head: Head, kind: str) -> bool:
    lengths = head.has("output_tokens", "prompt_tokens") or head.has("token_ids", "prompt_token_ids")
    return head.kind == kind and head.has("prompt_id") and lengths


PARQUET = Format(
    "parquet",
    "a trace, or its columns under other names (--map)",
    read_parquet,
    partial(_is_trace, kind="parquet"),
    suffixes=(".parquet",),
    takes_names=True,
    takes_tokenizer=True,
    fallback=True,
)
CSV = Format(
    "csv",
    "the columns of a trace, with a header line; other names by --map",
    partial(read_rows, csv_rows),
    partial(_is_trace, kind="csv"),
    suffixes=(".csv",),
    takes_names=True,
    takes_tokenizer=True,
    fallback=True,
)
JSONL = Format(
    "jsonl",
    "the columns of a trace as keys, a JSON object each line; other names by --map",
    partial(read_rows, json_objects),
    partial(_is_trace, kind="json"),
    suffixes=(".jsonl", ".json"),
    takes_names=True,
    takes_tokenizer=True,
    fallback=True,
)
