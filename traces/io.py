"""Read and write traces as Parquet files."""

import hashlib
import json
import mmap
import os
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from traces.atomic import replacing
from traces.casting import canonical
from traces.errors import InputError
from traces.files import check_fits, check_is_no_device
from traces.schema import METADATA_KEY, SCHEMA_VERSION
from traces.shipped import file_of
from traces.spilled import SPILLED_FROM_BYTES, read_spilled
from traces.trace import Trace
from traces.validation import validate

ROW_GROUP_ROWS = 65_536


def read(path: str | os.PathLike[str]) -> Trace:
    """The trace in a Parquet file, cast to the schema and validated; rows keep the order of the file.

    A name of a shipped trace (`countdown`) stands for its file. Raises InputError for a missing, truncated or foreign file, and
    for whatever canonical() and validate() refuse.
    """
    return _checked(*load(path), str(path))


class Loaded(NamedTuple):
    """What is in a file: its table, the SHA-256 of its bytes, and where long lists of the table are mapped."""

    table: pa.Table
    sha256: str
    maps: list[mmap.mmap]


def load(path: str | os.PathLike[str]) -> Loaded:
    """The table in a Parquet file as it is, unchecked; InputError where it is none.

    Of a large file what is as long as rollouts is brought to the types of the schema and stays outside memory (`traces.spilled`).
    """
    path = Path(path)
    with opened(file_of(path)) as content:
        sha256, size_bytes = hashlib.file_digest(content, "sha256").hexdigest(), content.tell()
        try:
            file = pq.ParquetFile(content, page_checksum_verification=True)
            table, maps = read_spilled(file, str(path)) if _is_large(file.metadata, path) else (file.read(), [])
            table.validate(full=True)
            _ = table.column_names  # raises here, not later, where a name is not UTF-8
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            content.seek(0)
            what = "is not a whole Parquet file" if content.read(4) == b"PAR1" else "is not a Parquet file"
            reason = " ".join(str(error).split())[:200]
            fix = "export it again, or use `rolloutsim trace import` for other formats"
            raise InputError(f"{path}: {what} ({size_bytes} bytes; {reason}): {fix}") from error
    return Loaded(table, sha256, maps)


def from_table(table: pa.Table, source: str = "table in memory") -> Trace:
    """The trace in an Arrow table, cast and validated like a file; sha256 hashes the canonical Arrow stream."""
    table = canonical(table, source).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return _checked(table, hashlib.sha256(sink.getvalue()).hexdigest(), [], source)


def write(
    table: pa.Table | Trace,
    path: str | os.PathLike[str],
    provenance: dict[str, Any],
    byte_split: Sequence[str] = (),
) -> None:
    """Write a trace as zstd Parquet, atomically; the file says where the rollouts come from.

    `provenance` goes, with schema_version, as JSON under the schema metadata key `rolloutsim`; other keys are kept. A
    table is cast and validated first, so that what was written can be read. `byte_split` names columns of float lists to
    encode as BYTE_STREAM_SPLIT: rounded log-probabilities take a quarter less room so. Raises InputError as read() does.
    """
    path = Path(path)
    if isinstance(table, Trace):
        table = table.table
    else:
        table = canonical(table, str(path))
        validate(table, str(path))
    with replacing(path) as file, parquet_writer(file, table.schema, provenance, byte_split) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)


def parquet_writer(
    file: BinaryIO, schema: pa.Schema, provenance: dict[str, Any], byte_split: Sequence[str] = ()
) -> pq.ParquetWriter:
    """A writer of zstd Parquet with the provenance of a trace, as write() puts it, for tables of this schema."""
    leaves = _leaves(schema)
    split = [leaf for leaf in leaves if leaf.split(".")[0] in byte_split]
    encodings: dict[str, Any] = {  # its stubs refuse valid values
        "use_dictionary": [leaf for leaf in leaves if leaf not in split],
        "use_byte_stream_split": split or False,
    }
    noted = with_provenance(schema.empty_table(), provenance).schema
    return pq.ParquetWriter(file, noted, compression="zstd", write_page_checksum=True, **encodings)


def provenance(table: pa.Table) -> dict[str, Any]:
    """What write() noted about where the rollouts come from; empty where the file was written by something else."""
    note = (table.schema.metadata or {}).get(METADATA_KEY)
    return json.loads(note, parse_constant=_no_number) if note else {}


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def with_provenance(table: pa.Table, provenance: dict[str, Any]) -> pa.Table:
    """The table with its provenance metadata replaced; other metadata keys are kept."""
    note = json.dumps({**provenance, "schema_version": SCHEMA_VERSION}, sort_keys=True, allow_nan=False)
    return table.replace_schema_metadata({**(table.schema.metadata or {}), METADATA_KEY: note.encode()})


def _is_large(declared: pq.FileMetaData, path: Path) -> bool:
    """Whether it unpacks to so much that what is long should stay outside memory.

    Refuses a file that declares more than this machine can hold: 4 bytes for each row and column, or what its pages unpack to.
    What it says of single columns is not looked at: Arrow ends the process where that is damaged.
    """
    pages_bytes = sum(declared.row_group(index).total_byte_size for index in range(declared.num_row_groups))
    check_fits(path, max(4 * declared.num_rows * declared.num_columns, pages_bytes), "use fewer RL steps")
    return pages_bytes >= SPILLED_FROM_BYTES


def read_bytes(path: Path) -> bytes:
    """The content of a file; InputError as `opened`."""
    with opened(path) as file:
        return file.read()


def opened(path: Path) -> BufferedReader:
    """The file, to be read; InputError where there is none, it is a folder, or it is empty."""
    if not path.exists():
        raise InputError(f"{path}: no such file: check the path")
    if path.is_dir():
        raise InputError(f"{path}: is a folder: give one file")
    check_is_no_device(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check its permissions") from error
    if not file.seek(0, os.SEEK_END):
        file.close()
        raise InputError(f"{path}: is empty (0 bytes): export it again")
    file.seek(0)
    return file


def _leaves(schema: pa.Schema) -> list[str]:
    """The columns of values that Parquet stores, by path: `logprobs.list.element` for a list."""
    empty = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), empty)
    stored = pq.ParquetFile(pa.BufferReader(empty.getvalue())).schema
    return [stored.column(index).path for index in range(len(stored))]


def _checked(table: pa.Table, sha256: str, maps: list[mmap.mmap], source: str) -> Trace:
    _check_version(table, source)
    table = canonical(table, source)
    validate(table, source)
    trace = Trace(table, source, sha256, maps)
    trace.release()
    return trace


def _check_version(table: pa.Table, source: str) -> None:
    try:
        version = provenance(table).get("schema_version", SCHEMA_VERSION)
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"{source}: schema metadata 'rolloutsim' is not a JSON object: remove or rewrite it"
        ) from error
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{source}: schema version {version}, this rolloutsim reads {SCHEMA_VERSION}: update rolloutsim"
        )
