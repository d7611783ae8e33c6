"""Dumps that are small and stand for much: one line each, before anything of that size is made."""

import copy
import gzip
import io
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from traces import files
from traces.errors import InputError
from traces.importers import import_trace, torch_file
from traces.importers.head import look
from traces.importers.source import Source

SAMPLE = {"tokens": [1, 2, 3], "response_length": 2, "status": "completed", "reward": 1.0}


def dump(path: Path, pickled: bytes, packing: int = zipfile.ZIP_STORED, **parts: bytes) -> Path:
    """A zip as torch.save makes it."""
    with zipfile.ZipFile(path, "w", packing) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in parts.items():
            archive.writestr(f"archive/data/{name}", content)
    return path


def of(*samples: Any) -> bytes:
    return pickle.dumps({"rollout_id": 1, "samples": list(samples)}, 2)


def refused(path: Path) -> str:
    """How an import as slime's refuses; what it takes meanwhile is bounded."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as error:
            import_trace(path, "slime")
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


def test_the_plain_dump_is_read(tmp_path: Path) -> None:
    assert import_trace(dump(tmp_path / "1.pt", of(SAMPLE)), "slime").column("token_ids").to_pylist() == [[2, 3]]


def test_packed_parts_are_not_unpacked(tmp_path: Path) -> None:
    text = refused(dump(tmp_path / "1.pt", of(SAMPLE), zipfile.ZIP_DEFLATED, **{"0": bytes(10_000_000)}))
    assert "has packed parts ('archive/data.pkl'), which torch.save does not make" in text


def test_parts_that_lie_over_each_other_count_each(tmp_path: Path) -> None:
    path = tmp_path / "1.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", of(SAMPLE))
        archive.writestr("archive/data/0", bytes(100_000))
        for number in range(1, 50):
            same = copy.copy(archive.filelist[-1])
            same.filename = f"archive/data/{number}"
            archive.filelist.append(same)
    assert "has 5,000," not in (text := refused(path))
    assert "says that its parts have 5,000," in text


@pytest.mark.parametrize("size", [3, 10**9])
def test_sizes_that_are_not_so(tmp_path: Path, size: int) -> None:
    """A part that says that it is shorter or longer than it is, in both places where a zip says so."""
    path = dump(tmp_path / "1.pt", of(SAMPLE))
    content = bytearray(path.read_bytes())
    for magic, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<I", content, content.index(magic) + at, size)
    path.write_bytes(content)
    assert ("is damaged" if size == 3 else "says that its parts have 1,000,000,000 bytes") in refused(path)


@pytest.mark.parametrize("wide", [False, True])
def test_a_directory_of_very_many_parts_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide: bool
) -> None:
    monkeypatch.setattr(torch_file, "MOST_DIRECTORY_BYTES", 1000)
    if wide:
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 10)  # so that it is written as larger ones are
    path = dump(tmp_path / "1.pt", of(SAMPLE), **{str(number): b"" for number in range(40)})
    if wide:
        content = bytearray(path.read_bytes())
        assert content.count(b"PK\x06\x06") == 1
        struct.pack_into("<I", content, content.rindex(b"PK\x05\x06") + 12, 0xFFFFFFFF)
        path.write_bytes(content)
    monkeypatch.setattr(zipfile.ZipFile, "infolist", lambda self: pytest.fail("the directory was read"))
    assert "lists its parts in 2," in refused(path)


def nested(times: int) -> list[Any]:
    values: list[Any] = [0] * 10
    for _ in range(times):
        values = [values] * 10
    return values


@pytest.mark.parametrize("key", ["tokens", "status", "reward", "metadata", "response_length"])
def test_values_that_are_held_over_and_over(tmp_path: Path, key: str) -> None:
    """A pickle of some hundred bytes that stands for 10^10 numbers."""
    assert "stands for more values than it has bytes" in refused(dump(tmp_path / "1.pt", of(SAMPLE | {key: nested(9)})))


def test_what_holds_itself(tmp_path: Path) -> None:
    ring: list[Any] = []
    ring.append(ring)
    assert "is nested deeper than 16" in refused(dump(tmp_path / "1.pt", of(SAMPLE | {"metadata": ring})))


def test_samples_that_are_one_and_the_same(tmp_path: Path) -> None:
    long = SAMPLE | {"tokens": list(range(10_000))}
    assert "stands for more values than it has bytes" in refused(dump(tmp_path / "1.pt", of(*[long] * 2_000)))


def test_tensors_that_share_their_numbers(tmp_path: Path) -> None:
    """Views of one storage cost nothing, and stand for all of it each."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nLongStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ\xa0\x86\x01\x00tQ"
    view = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00J\xa0\x86\x01\x00\x85K\x01\x85tR"
    pickled = b"\x80\x02}(X\x07\x00\x00\x00samples](" + view * 100 + b"eu."
    path = dump(tmp_path / "1.pt", pickled, **{"0": np.zeros(100_000, "<i8").tobytes()})
    assert "stands for more values than it has bytes" in refused(path)


@pytest.mark.parametrize("pickled", [b"\x80\x02]r\xff\xff\xff\x7f.", b"\x80\x02}jff\xff\x7f."])
def test_numbers_that_a_pickle_remembers_by(tmp_path: Path, pickled: bytes) -> None:
    """One byte of memory for each number below would be 16 GB."""
    assert any(word in refused(dump(tmp_path / "1.pt", pickled)) for word in ("no list of 'samples'", "is damaged"))


def test_a_pickle_whose_objects_would_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = dump(tmp_path / "1.pt", of(*({**SAMPLE} for _ in range(20_000))))
    assert import_trace(path, "slime").num_rows == 20_000
    monkeypatch.setattr(files, "memory_bytes", lambda: 1 << 20)
    assert "and this machine has 0.0: dump fewer samples in a file" in refused(path)


@pytest.mark.parametrize("begin", [b'{"a":"', b"[", b'{"rollouts":\n['])
def test_json_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: bytes) -> None:
    """What is one document is read as a whole, where it fits."""
    monkeypatch.setattr(files, "memory_bytes", lambda: 1 << 27)
    path = tmp_path / "one.json.gz"
    sink = io.BytesIO()
    with gzip.GzipFile(fileobj=sink, mode="wb") as file:
        file.write(begin)
        for _ in range(64):
            file.write(b"0" * (1 << 20))
    path.write_bytes(sink.getvalue())
    reads: tuple[Callable[[], Any], ...] = (lambda: look(path), lambda: Source(path).content())
    for read in reads:
        with pytest.raises(
            InputError, match=r"one\.json\.gz: unpacks to 0\.2 GB, and this machine has 0\.1: write a line"
        ):
            read()
