"""Spoilt dumps of frameworks: zips of pickles as torch writes them, and packed JSON Lines, damaged outside and inside."""

import gzip
import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Iterator
from functools import cache

from tests.hostile.cases import Case
from tests.hostile.files import _writes

IMPORT = ("trace", "import", "dump", "--out", "made.parquet")
STORAGE = struct.pack("<4q", 1, 2, 3, 4)
PLACES = ("zip", "pickle", "storage", "gzip", "lines")


@cache
def _pickled() -> bytes:
    """A dump of two samples, the tokens of one a tensor of the part `0`."""
    sample = {
        "response_length": 2,
        "status": "completed",
        "reward": 1.0,
        "response": "x",
        "rollout_log_probs": [-0.5, -1.5],
    }
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nLongStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        b"K\x04tQK\x00K\x04\x85K\x01\x85tR"
    )
    dump = pickle.dumps(
        {"rollout_id": 1, "samples": [sample | {"tokens": [1, 2, 3, 70_000]}, sample | {"tokens": 77}]}, 2
    )
    return dump.replace(b"K\x4d", tensor)


def _zipped(pickled: bytes, storage: bytes = STORAGE) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", storage)
    return sink.getvalue()


@cache
def _lines() -> bytes:
    line = {
        "input": "a b",
        "output": "c d",
        "gts": "1",
        "score": 1.0,
        "step": 3,
        "response_length": 4,
        "prompt_length": 2,
    }
    return b"".join(json.dumps(line | {"output": f"c {n}"}).encode() + b"\n" for n in range(20))


def _spoilt(whole: bytes, draw: random.Random) -> bytes:
    at, how = draw.randrange(len(whole)), draw.choice(("flip", "byte", "cut", "remove", "double", "zeros"))
    return {
        "flip": lambda: whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :],
        "byte": lambda: whole[:at] + bytes([draw.randrange(256)]) + whole[at + 1 :],
        "cut": lambda: whole[:at],
        "remove": lambda: whole[:at] + whole[at + draw.randrange(1, 9) :],
        "double": lambda: whole[: at + 4] + whole[at:],
        "zeros": lambda: whole[:at] + bytes(16) + whole[at + 16 :],
    }[how]()


def dumps(seed: int, count: int) -> Iterator[Case]:
    """One place in five spoilt, and what is around it as it should be: a checksum finds nothing."""
    draw = random.Random(seed)
    for number in range(count):
        place = PLACES[number % len(PLACES)]
        content = {
            "zip": lambda: _spoilt(_zipped(_pickled()), draw),
            "pickle": lambda: _zipped(_spoilt(_pickled(), draw)),
            "storage": lambda: _zipped(_pickled(), _spoilt(STORAGE, draw)),
            "gzip": lambda: _spoilt(gzip.compress(_lines(), mtime=0), draw),
            "lines": lambda: gzip.compress(_spoilt(_lines(), draw), mtime=0),
        }[place]()
        named = ("slime",) if place in PLACES[:3] else ("verl", "--map", "output_tokens=response_length", "--map",
                                                         "prompt_tokens=prompt_length")  # fmt: skip
        yield Case(f"{place} spoilt, {len(content)} bytes", (*IMPORT, "--format", *named), _writes(content, "dump"))
