"""Perfetto's trace format, as far as a timeline needs it: tracks, slices and counters as protocol buffers.

Fields are those of `protos/perfetto/trace` in google/perfetto: TracePacket, TrackDescriptor, TrackEvent, DebugAnnotation.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Protocol

BEGIN, END, COUNTER = 1, 2, 4
EXPLICIT = 3
"""Order of a track's children: as ranked."""
SEQUENCE = 1
Value = int | float | str


def varint(value: int) -> bytes:
    """A whole number >= 0, seven bits a byte."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """A field that holds a whole number, negative ones in two's complement."""
    return varint(field << 3) + varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def real(field: int, value: float) -> bytes:
    """A field that holds a double."""
    return varint(field << 3 | 1) + struct.pack("<d", value)


def block(field: int, content: bytes) -> bytes:
    """A field that holds a message."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def text(field: int, content: str) -> bytes:
    """A field that holds text; what is no Unicode is written as Python writes it."""
    return block(field, content.encode("utf-8", "backslashreplace"))


class Writable(Protocol):
    """What takes bytes: a file, or one that packs them."""

    def write(self, content: bytes, /) -> object:
        """Take them."""


class Writer:
    """Writes packets into a file as they come; events of one track in the order of their times."""

    def __init__(self, file: Writable) -> None:
        self._file, self._tracks = file, 0
        self.events = 0

    def track(self, name: str, parent: int = 0) -> int:
        """A new track for slices, within another one; its siblings of the same name are shown as one."""
        return self._track(name, parent)

    def counter(self, name: str, unit: str, parent: int) -> int:
        """A new counter within a track."""
        return self._track(name, parent, block(8, text(6, unit)))

    def slice(self, track: int, name: str, begin_ns: int, end_ns: int, told: Mapping[str, Value]) -> None:
        """A stretch of time with a name and what is told of it."""
        notes = b"".join(block(4, _note(key, value)) for key, value in told.items())
        self._event(track, begin_ns, number(9, BEGIN) + text(23, name) + notes)
        self._event(track, end_ns, number(9, END))

    def points(self, counter: int, times_ns: Sequence[int], values: Sequence[float]) -> None:
        """Values of a counter, each in force until the next."""
        for time_ns, value in zip(times_ns, values, strict=True):
            self._event(counter, time_ns, number(9, COUNTER) + real(44, value))

    def _track(self, name: str, parent: int, more: bytes = b"") -> int:
        """Describe a track; tracks are shown in the order that they are made in."""
        self._tracks += 1
        inside = number(5, parent) if parent else b""
        order = number(11, EXPLICIT) + number(12, self._tracks)
        self._packet(block(60, number(1, self._tracks) + text(2, name) + inside + order + more))
        return self._tracks

    def _event(self, track: int, time_ns: int, event: bytes) -> None:
        self.events += 1
        self._packet(number(8, time_ns) + block(11, event + number(11, track)))

    def _packet(self, content: bytes) -> None:
        self._file.write(block(1, content + number(10, SEQUENCE)))


def _note(key: str, value: Value) -> bytes:
    held = (
        text(6, value) if isinstance(value, str) else real(5, value) if isinstance(value, float) else number(4, value)
    )
    return text(10, key) + held
