"""A file to import from: opened unpacked, a block at a time, whatever it is packed with; look-alikes of data are refused."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa

from traces.errors import InputError
from traces.files import check_fits, check_is_no_device

BLOCK_BYTES = 1 << 20
JSON_TIMES = 24
"""How much larger the objects of a JSON document are than its text: `{},` is a dictionary."""
PACKED: dict[bytes, Literal["gzip", "zstd"]] = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
REFUSED = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file that it stands for: run `git lfs pull` first"),
    (b"<!doctype html", "is a web page, not data: download the raw file"),
    (b"<html", "is a web page, not data: download the raw file"),
    (b"BZh", "is packed with bzip2: unpack it, or pack it with gzip or zstd"),
    (b"\xfd7zXZ", "is packed with xz: unpack it, or pack it with gzip or zstd"),
)


@dataclass
class Source:
    """A file, and how far it has been read: bytes of it as it lies on disk, and bytes unpacked."""

    path: Path
    read_bytes: int = 0
    unpacked_bytes: int = 0

    def __str__(self) -> str:
        """The path, for errors."""
        return str(self.path)

    def blocks(self) -> Iterator[bytes]:
        """The unpacked content, about a MiB at a time; InputError where it cannot be read, is empty or a look-alike."""
        with self._opened() as (raw, unpacked):
            try:
                while block := unpacked.read(BLOCK_BYTES):
                    if self.unpacked_bytes == 0:
                        self._refuse_look_alikes(block)
                    self.read_bytes = raw.tell()
                    self.unpacked_bytes += len(block)
                    yield block
            except (OSError, pa.ArrowException) as error:
                raise InputError(
                    f"{self}: cannot be read to its end ({_short(error)}): copy or export it again"
                ) from error
        if self.unpacked_bytes == 0:
            raise InputError(f"{self}: is empty (0 bytes): export it again")

    def head(self, size: int) -> bytes:
        """The first `size` unpacked bytes, or all where there are fewer."""
        found = b""
        for block in Source(self.path).blocks():
            found += block
            if len(found) >= size:
                break
        return found[:size]

    def content(self) -> bytes:
        """All of the unpacked file; InputError where that is more than may be read as one JSON document."""
        blocks = []
        for block in self.blocks():
            blocks.append(block)
            check_fits(
                self.path,
                JSON_TIMES * self.unpacked_bytes,
                "write a line for each rollout (JSON Lines), or less in a file",
            )
        return b"".join(blocks)

    @contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], Any]]:
        if not self.path.exists():
            raise InputError(f"{self}: no such file: check the path")
        if self.path.is_dir():
            raise InputError(f"{self}: is a folder: give one file")
        check_is_no_device(self.path)
        try:
            raw = self.path.open("rb")
        except OSError as error:
            raise InputError(f"{self}: cannot be read ({error.strerror}): check its permissions") from error
        with raw:
            magic = raw.read(4)
            raw.seek(0)
            packing = next((name for start, name in PACKED.items() if magic.startswith(start)), None)
            yield raw, pa.CompressedInputStream(pa.PythonFile(raw, "r"), packing) if packing else raw

    def _refuse_look_alikes(self, block: bytes) -> None:
        for start, problem in REFUSED:
            if block[: len(start)].lower() == start.lower():
                raise InputError(f"{self}: {problem}")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
