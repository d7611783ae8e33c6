"""Spoilt traces and text files: damaged bytes, odd types, impossible values, dialects."""

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.hostile.cases import Case, Done
from traces import io
from traces.synthesis import synth

DESCRIBE = ("trace", "describe", "trace.parquet", "--json")


@cache
def _table() -> pa.Table:
    return synth(prompts=3, samples=2, steps=2, median_tokens=12, max_tokens=40, seed=5)


@cache
def _bytes() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(
        io.with_provenance(_table(), {"made": "for tests"}), sink, compression="zstd", write_page_checksum=True
    )
    return sink.getvalue().to_pybytes()


def _told(done: Done) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(done.out)
    return told


@cache
def _answer() -> dict[str, Any]:
    """What `trace describe` says of the unspoilt file."""
    import tempfile

    from tests.hostile.cases import run

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "trace.parquet").write_bytes(_bytes())
        return _told(run(DESCRIBE, Path(folder)))


def _as_before(done: Done, folder: Path) -> bool:
    """Whether the answer is that of the unspoilt file, or names the optional column that now has no known name.

    A Parquet footer has no checksum: what nobody can tell from another file is another file.
    """
    told = _told(done)
    apart = ("sha256", "columns", "provenance", "other_columns")
    return bool(told["other_columns"]) or all(
        told[key] == value for key, value in _answer().items() if key not in apart
    )


def _writes(content: bytes, name: str = "trace.parquet") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return make


def damaged(seed: int, count: int) -> Iterator[Case]:
    """Bits flipped, bytes changed, cut out or doubled, ends cut off: at every kind of place of a Parquet file."""
    whole, draw = _bytes(), random.Random(seed)
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    places = [(0, 4), (4, footer), (footer, len(whole) - 8), (len(whole) - 8, len(whole))]
    for number in range(count):
        low, high = places[number % len(places)]
        at = draw.randrange(low, high)
        how = draw.choice(("flip", "byte", "cut", "remove", "double", "zeros"))
        spoilt = {
            "flip": lambda at=at: whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :],
            "byte": lambda at=at: whole[:at] + bytes([draw.randrange(256)]) + whole[at + 1 :],
            "cut": lambda at=at: whole[:at],
            "remove": lambda at=at: whole[:at] + whole[at + draw.randrange(1, 9) :],
            "double": lambda at=at: whole[: at + 4] + whole[at:],
            "zeros": lambda at=at: whole[:at] + bytes(16) + whole[at + 16 :],
        }[how]()
        yield Case(f"{how} at {at} of {len(whole)}", DESCRIBE, _writes(spoilt), _as_before)


TYPES: tuple[pa.DataType, ...] = (
    pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint32(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(),
    pa.bool_(), pa.string(), pa.large_string(), pa.binary(), pa.null(), pa.date32(), pa.timestamp("us"), pa.duration("s"),
    pa.time64("us"), pa.decimal128(20, 0), pa.decimal128(20, 3), pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.int32()), pa.list_(pa.int8()), pa.list_(pa.int32()), pa.large_list(pa.int64()),
    pa.list_(pa.float64()), pa.list_(pa.string()), pa.list_(pa.list_(pa.int32())), pa.list_(pa.int32(), 2),
    pa.struct([("a", pa.int32())]), pa.map_(pa.string(), pa.int32()), pa.list_(pa.struct([("a", pa.int32())])),
)  # fmt: skip


def _filled(kind: pa.DataType, rows: int) -> "pa.Array[Any]":
    """A column of a type, with some value that it can hold."""
    for value in (
        7,
        7.0,
        True,
        "7",
        b"7",
        [7, 7],
        [7.0, 7.0],
        ["7", "7"],
        [[7], [7]],
        {"a": 7},
        [("a", 7)],
        [{"a": 7}],
    ):
        try:
            return pa.array([value] * rows, kind)
        except (pa.ArrowException, TypeError, ValueError):
            continue
    return pa.nulls(rows, kind)


def types(seed: int, count: int) -> Iterator[Case]:
    """Every column in every type of Arrow."""
    from traces.schema import SCHEMA

    table, draw = _table(), random.Random(seed)
    pairs = [(name, kind) for name in SCHEMA.names for kind in TYPES]
    for name, kind in draw.sample(pairs, min(count, len(pairs))):
        column = _filled(kind, len(table))
        at = table.column_names.index(name) if name in table.column_names else -1
        spoilt = table.append_column(name, column) if at < 0 else table.set_column(at, name, column)
        sink = pa.BufferOutputStream()
        try:
            pq.write_table(spoilt, sink)
        except pa.ArrowException:
            continue  # Parquet knows no such type
        yield Case(f"{name} as {kind}", DESCRIBE, _writes(sink.getvalue().to_pybytes()))


VALUES = (
    None,
    -1,
    0,
    2**31 - 1,
    2**31,
    2**63 - 1,
    -(2**63),
    float("nan"),
    float("inf"),
    -float("inf"),
    0.5,
    "",
    "\0",
    "é",
    "\x1b[31m",
)


def values(seed: int, count: int) -> Iterator[Case]:
    """One value of one row that cannot be, and rows that are doubled, dropped or moved."""
    table, draw = _table(), random.Random(seed)
    rows = table.to_pylist()
    for _ in range(count):
        spoilt = [dict(row) for row in rows]
        name, value, at = draw.choice(table.column_names), draw.choice(VALUES), draw.randrange(len(rows))
        how = draw.choice(("value", "value", "value", "nested", "double", "swap"))
        if how == "value":
            spoilt[at][name] = value
        elif how == "nested" and isinstance(spoilt[at][name], list) and spoilt[at][name]:
            spoilt[at][name] = [value, *spoilt[at][name][1:]]
        elif how == "double":
            spoilt.append(spoilt[at])
        else:
            spoilt[0], spoilt[at] = spoilt[at], spoilt[0]
        try:
            columns = {key: pa.array([row[key] for row in spoilt]) for key in table.column_names}
        except (pa.ArrowException, OverflowError):
            continue  # no type holds both
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), sink)
        label = f"{how}: {name} of row {at} is {value!r}"
        yield Case(label, ("trace", "validate", "trace.parquet"), _writes(sink.getvalue().to_pybytes()))


TEXTS = (
    b"", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", b"null", b"[]", b"{}", b"[" * 50_000, b'{"a":' * 50_000, b'{"prompt_id": 1e999}',
    b'{"a": 1, "a": 2}', b"a,b\n1", b"a,a\n1,2", b'a,"b\n1,2', b"a;b\n1;2", b"\x00" * 100, b"PAR1", b"version https://git-lfs",
    b'{"output_tokens": NaN}', b"<html></html>", b"\x1f\x8b\x08\x00", b"(\xb5/\xfd", b"PK\x03\x04", b"%PDF-1.7", b"\x80\x04.",
)  # fmt: skip
GOOD_LINE = {"step": 0, "prompt_id": "a", "sample": 0, "prompt_tokens": 5, "output_tokens": 7}


def texts(seed: int, count: int) -> Iterator[Case]:
    """CSV and JSON Lines that are something else, or whose numbers are written as only some language reads them."""
    draw = random.Random(seed)
    odd: tuple[Any, ...] = (
        None, True, -1, 0, 3.9, 1e400, "1_0", "٣", "1e3", " 7 ", "0x10", "", [], [1], {}, {"a": 1}, "1,000", "7\n", "nan", 10**30,
    )  # fmt: skip
    for number in range(count):
        suffix = draw.choice(("jsonl", "csv"))
        if number % 3 == 0:
            content: bytes = draw.choice(TEXTS)
            label = f"{content[:20]!r} as {suffix}"
        else:
            key, value = draw.choice(list(GOOD_LINE)), draw.choice(odd)
            label = f"{key} is {value!r} in {suffix}"
            line = GOOD_LINE | {key: value}
            if suffix == "jsonl":
                content = (json.dumps(GOOD_LINE | {"sample": 1}) + "\n" + json.dumps(line) + "\n").encode()
            else:
                content = (",".join(line) + "\n" + ",".join(map(str, line.values())) + "\n").encode()
        arguments = ("trace", "import", f"log.{suffix}", "--format", suffix, "--out", "made.parquet")
        yield Case(label, arguments, _writes(content, f"log.{suffix}"), _means_whole_numbers)


def _means_whole_numbers(done: Done, folder: Path) -> bool:
    """Whether what came in is a valid trace, none of whose numbers was rounded on its way."""
    trace = io.read(folder / "made.parquet")
    return len(trace) in (1, 2)
