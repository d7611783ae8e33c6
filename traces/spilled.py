"""Lists as long as rollouts, kept in a file of their own that is mapped: what nobody reads takes no memory."""

import mmap
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from errno import EDQUOT, ENOSPC
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from traces.casting import cast
from traces.errors import InputError
from traces.schema import SCHEMA
from traces.validation import COUNTED_BY

pc: Any = pyarrow.compute  # its stubs refuse valid calls

SPILLED_FROM_BYTES = 1 << 26
"""A trace whose file unpacks to less is read into memory."""
BATCH_ROWS = 256


class _Part(NamedTuple):
    """Lists without their values: how long each is (null where there is none), how many values, which of them are not null."""

    lengths: "pa.Array[Any]"
    values: int
    known: pa.Buffer | None


def read_spilled(file: pq.ParquetFile, source: str) -> tuple[pa.Table, list[mmap.mmap]]:
    """The table in a Parquet file, with columns of a value for each token in mapped files, in the types of the schema.

    A batch of rows is in memory at a time. Those files have no name, lie where temporary ones do, and go with the table. Raises
    InputError for a value that does not fit, or where there is no room.
    """
    names, maps = file.schema_arrow.names, list[mmap.mmap]()
    found: dict[str, pa.ChunkedArray[Any]] = {}
    for name in COUNTED_BY:
        if names.count(name) == 1 and _is_list(file.schema_arrow.field(name).type):
            batches = (batch.column(0) for batch in file.iter_batches(BATCH_ROWS, columns=[name]))
            found[name], mapped = _column(batches, SCHEMA.field(name), source)
            maps += mapped
    pa.default_memory_pool().release_unused()
    rest = file.read(columns=[name for name in names if name not in found] if found else None)
    arrays = [found[name] if name in found else rest.column(name) for name in names]
    fields = [SCHEMA.field(name) if name in found else rest.schema.field(name) for name in names]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields)).replace_schema_metadata(rest.schema.metadata), maps


def _is_list(kind: Any) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return lists and (pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type))


def _column(
    batches: "Iterable[pa.Array[Any]]", target: "pa.Field[Any]", source: str
) -> "tuple[pa.ChunkedArray[Any], list[mmap.mmap]]":
    """These lists, one batch after another, their values in a mapped file; in none where there are no values."""
    parts, rows = list[_Part](), 0
    with ExitStack() as opened:
        with _room(target.name, source):
            file = opened.enter_context(tempfile.TemporaryFile())
        for batch in batches:
            array = cast(pa.chunked_array([batch]), target, source, rows).combine_chunks()
            with _room(target.name, source):
                parts.append(_written(array, file))
            rows += len(array)
        with _room(target.name, source):
            file.flush()
        maps = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)] if file.tell() else []
    buffer = pa.py_buffer(maps[0] if maps else b"")
    return pa.chunked_array(_mapped(parts, buffer, target.type), target.type), maps


def _written(array: Any, file: IO[bytes]) -> _Part:
    """Write the values of lists, as they are in memory."""
    values = array.flatten()
    if len(values):
        width = values.type.bit_width // 8
        file.write(memoryview(values.buffers()[1])[values.offset * width : (values.offset + len(values)) * width])
    known = values.is_valid().buffers()[1] if values.null_count else None
    return _Part(pc.list_value_length(array), len(values), known)


def _mapped(parts: Iterable[_Part], buffer: pa.Buffer, kind: Any) -> "Iterator[pa.Array[Any]]":
    """The lists again, their values in the buffer."""
    width, start, build = kind.value_type.bit_width // 8, 0, pa.Array.from_buffers
    for part in parts:
        values = build(kind.value_type, part.values, [part.known, buffer.slice(start, width * part.values)])
        lengths = pc.fill_null(part.lengths, 0).to_numpy()
        offsets = np.append(np.int32(0), np.cumsum(lengths, dtype=np.int32))
        given = part.lengths.is_valid().buffers()[1] if part.lengths.null_count else None
        yield build(kind, lengths.size, [given, pa.py_buffer(offsets.data)], children=[values])
        start += width * part.values


@contextmanager
def _room(column: str, source: str) -> Iterator[None]:
    """InputError where temporary files have no place."""
    try:
        yield
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT) and not isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise InputError(
            f"{source}: column '{column}' needs room for a temporary file ({error.strerror}): set TMPDIR to a folder on a disk "
            "with 4 bytes for each token of the trace"
        ) from error
