"""What a file shows at its beginning: enough to recognise its format by."""

import csv
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from traces.errors import InputError
from traces.importers.source import BLOCK_BYTES, Source

FIRST_LINE_BYTES = 256 << 20
Kind = Literal["json", "csv", "parquet", "zip", "text"]


@dataclass(frozen=True)
class Head:
    """The kind of a file by its first bytes, and what it holds.

    `keys` are those of its first JSON object (a file may be one object), its header's cells, or its columns; `first` is
    that object, `text` the first 64 KiB of a text.
    """

    path: Path
    kind: Kind
    keys: tuple[str, ...] = ()
    first: dict[str, Any] = field(default_factory=dict)
    text: str = ""

    def has(self, *keys: str) -> bool:
        """Whether all these keys or columns are there."""
        return set(keys) <= set(self.keys)

    def __str__(self) -> str:
        """What it is, for an error."""
        if not self.keys:
            return {"zip": "a zip archive", "json": "JSON whose first object is not whole"}.get(self.kind, self.kind)
        what = {"json": "JSON with keys", "csv": "CSV with columns", "parquet": "Parquet with columns"}[self.kind]
        return f"{what} {', '.join(self.keys)[:200]}"


def look(path: Path) -> Head:
    """The head of a file; InputError where it cannot be read, is empty or only looks like data."""
    source = Source(path)
    start = source.head(65_536)
    if start[:4] == b"PAR1":
        return Head(path, "parquet", _columns(path))
    if start[:2] == b"PK" and zipfile.is_zipfile(path):
        return Head(path, "zip")
    text = start.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    if text.lstrip()[:1] in ("{", "["):
        first = _first_object(source)
        return Head(path, "json", tuple(first), first, text)
    header = _cells(text.split("\n", 1)[0])
    if len(header) > 1:
        return Head(path, "csv", tuple(name.strip() for name in header), text=text)
    return Head(path, "text", text=text)


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _first_object(source: Source) -> dict[str, Any]:
    """The object of the first line; where that is not whole, the one that the file is; else an empty one."""
    line = _first_line(source)
    contents: tuple[Callable[[], bytes], ...] = (lambda: line, source.content)
    for content in contents:
        try:
            value = json.loads(content())
        except InputError:
            raise
        except (ValueError, RecursionError):
            continue
        if isinstance(value, list) and value:
            value = value[0]
        return value if isinstance(value, dict) else {}
    return {}


def _first_line(source: Source) -> bytes:
    """The first line of a text that begins in its first block, or about FIRST_LINE_BYTES of it."""
    blocks: list[bytes] = []
    for block in Source(source.path).blocks():
        blocks.append(block if blocks else block.removeprefix(b"\xef\xbb\xbf").lstrip())
        if b"\n" in blocks[-1] or len(blocks) * BLOCK_BYTES > FIRST_LINE_BYTES:
            break
    return b"".join(blocks).partition(b"\n")[0]


def _columns(path: Path) -> tuple[str, ...]:
    try:
        return tuple(pq.read_schema(path).names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: is not a whole Parquet file ({reason}): export it again") from error
