"""Lines of text, CSV rows and JSON objects of a file, each with its line number; errors name file and line."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from traces.errors import InputError
from traces.importers.source import Source

LINE_BYTES = 256 << 20
CHUNK_BYTES = 4 << 20
"""About how much of a file is in memory at once, as text; as Python objects it is several times as much."""


def text_lines(file: Source | Path) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and text of each line, without its end; InputError where it is not UTF-8."""
    source = file if isinstance(file, Source) else Source(file)
    for number, line in enumerate(_byte_lines(source), start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        try:
            yield number, line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{source}: line {number}: byte 0x{line[error.start]:02x} at position {error.start} is not UTF-8: "
                f"convert the file to UTF-8"
            ) from error


def json_objects(file: Source | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each non-blank line of a JSON Lines file."""
    for number, line in text_lines(file):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}: line {number}: is not JSON ({error}): one object per line is needed") from error
        if not isinstance(value, dict):
            raise InputError(f"{file}: line {number}: is {type(value).__name__}, not a JSON object: needs {{...}}")
        yield number, value


def csv_rows(file: Source | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and cells by header name of each row of a CSV file with a header line."""
    header: list[str] = []
    reader = csv.reader((line for _, line in text_lines(file)), strict=True)
    try:
        for cells in reader:
            if not cells:
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                repeated = {name for name in header if header.count(name) > 1}
                if repeated:
                    raise InputError(f"{file}: line 1: column '{min(repeated)}' appears twice: rename one of them")
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{file}: line {reader.line_num}: {len(cells)} cells, but the header has {len(header)}: "
                    f"complete the row, or quote cells that contain commas"
                )
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{file}: line {reader.line_num}: is not CSV ({error}): correct the row") from error


Rows = list[tuple[int, dict[str, Any]]]


def in_chunks(rows: Iterator[tuple[int, dict[str, Any]]], source: Source) -> Iterator[Rows]:
    """The rows of `source` in lists that took some CHUNK_BYTES of it each, so that memory stays bounded."""
    chunk: Rows = []
    begun = source.unpacked_bytes
    for row in rows:
        chunk.append(row)
        if source.unpacked_bytes - begun >= CHUNK_BYTES:
            yield chunk
            chunk, begun = [], source.unpacked_bytes
    if chunk:
        yield chunk


def cell(row: dict[str, Any], name: str, file: Source | Path, line: int) -> Any:
    """The row's value under `name`; InputError that lists what the row has instead."""
    if name not in row:
        found = ", ".join(f"'{key}'" for key in row)[:200] or "nothing"
        raise InputError(f"{file}: line {line}: no '{name}'; found {found}: check the format that was given")
    return row[name]


def _byte_lines(source: Source) -> Iterator[bytes]:
    """The lines of a file, without their line feeds; no more than a line and a block in memory."""
    rest: list[bytes] = []
    for block in source.blocks():
        first, *others = block.split(b"\n")
        rest.append(first)
        if len(rest) * len(block) > LINE_BYTES:
            raise InputError(
                f"{source}: has a line of more than {LINE_BYTES >> 20} MiB: is it the format that was given?"
            )
        if others:
            yield b"".join(rest)
            yield from others[:-1]
            rest = [others[-1]]
    yield b"".join(rest)
