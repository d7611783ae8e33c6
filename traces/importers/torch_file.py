"""Torch files read without torch and without running anything: tensors, arrays and plain containers, or a refusal.

A torch file is a zip of a pickle and the bytes of its tensors. A pickle may name any function to call; here the only ones are
those of this file, which make arrays.
"""

import math
import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from traces.errors import InputError
from traces.files import check_fits
from traces.importers.source import Source

PICKLE_TIMES = 24
"""How much larger than its pickle the objects of a dump are; of numbers in lists 4 to 12."""
DEEPEST = 16
"""Nesting that no dump reaches."""
LEAST_VALUES = 1_000_000
"""So many values any file may stand for."""
MOST_DIRECTORY_BYTES = 1 << 26
"""Of the list of a zip's parts: some million of them."""
BEGINNING_BYTES = 1 << 16

STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?", "BFloat16Storage": "bfloat16",
}  # fmt: skip
SAFE_WAY = (
    "if you trust the file, save it as plain values: torch.save({'rollout_id': d['rollout_id'], 'samples': [{k: s[k] for k in "
    "('tokens', 'response_length', 'status', 'reward')} for s in d['samples']]}, 'plain.pt') "
    "with d = torch.load(FILE, weights_only=False)"
)


def load(source: Source) -> Any:
    """What a torch file holds, tensors as arrays; InputError where it is damaged, absurdly large or needs code to be run."""
    with _opened(source.path) as (archive, name):
        if name is None:
            raise InputError("is a zip archive, but no torch file: give a file that torch.save wrote")
        with archive.open(name) as file:
            dump = _Plain(file, archive, name.removesuffix("data.pkl")).load()
        if _values(dump, {}) > max(LEAST_VALUES, source.path.stat().st_size):
            raise InputError("stands for more values than it has bytes: is not read, such files are made to harm")
        return dump


def beginning(path: Path) -> bytes:
    """The first 64 KiB of a torch file's pickle, to recognise it by; empty where it is no torch file."""
    with _opened(path) as (archive, name):
        if name is None:
            return b""
        with archive.open(name) as file:
            return file.read(BEGINNING_BYTES)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, str | None]]:
    """The zip, and the name of its pickle; whatever is wrong with them is an InputError that begins with the path."""
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            name = _pickle_name(archive)
            _check_parts(archive, path, name)
            yield archive, name
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except (
        OSError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
        pickle.UnpicklingError,
        struct.error,
    ) as error:
        raise InputError(f"{path}: is damaged, or no torch file ({_short(error)}): copy or export it again") from error
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError) as error:
        raise InputError(f"{path}: is no torch file of plain values ({_short(error)}): export it again") from error


def _check_directory(path: Path) -> None:
    """Refuse a zip of more parts than any dump has, before a list of them is made."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - (1 << 16) - 22 - 20))
        end = file.read()
        at = end.rfind(b"PK\x05\x06")
        listed = struct.unpack_from("<I", end, at + 12)[0] if 0 <= at <= len(end) - 22 else 0
        if listed == 0xFFFFFFFF and at >= 20:  # zip64 says it elsewhere
            file.seek(struct.unpack_from("<Q", end, at - 12)[0])
            listed = struct.unpack_from("<Q", file.read(56).ljust(56, b"\0"), 40)[0]
    if min(listed, size) > MOST_DIRECTORY_BYTES:
        raise InputError(f"lists its parts in {listed:,} bytes: is not read, such files are made to harm")


def _check_parts(archive: zipfile.ZipFile, path: Path, pickled: str | None) -> None:
    """Refuse parts that unpack to more than they take: torch compresses none of them."""
    parts = archive.infolist()
    packed = next((part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise InputError(f"has packed parts ({packed!r:.60}), which torch.save does not make: save it again with torch")
    declared, size = sum(part.file_size for part in parts), path.stat().st_size
    if declared > size:
        raise InputError(
            f"says that its parts have {declared:,} bytes in a file of {size:,}: is not read, such files are made to harm"
        )
    if pickled is not None:
        check_fits(path, PICKLE_TIMES * archive.getinfo(pickled).file_size, "dump fewer samples in a file")


def _values(value: Any, known: dict[int, int], depth: int = 0) -> int:
    """Values that a dump stands for, those that it holds in several places counted in each; InputError where it is too deep.

    known: what is known so far, by the identity of what it is of; what is counted lives as long as the dump.
    """
    if isinstance(value, Array | np.ndarray):
        return int(np.asarray(value).size)
    if not isinstance(value, dict | list | tuple | set):
        return 1
    if depth == DEEPEST:
        raise InputError(f"is nested deeper than {DEEPEST}: export it again")
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        plain = {int, float, bool, str, type(None)}.issuperset(map(type, parts))
        known[id(value)] = 1 + (len(parts) if plain else sum(_values(part, known, depth + 1) for part in parts))
    return known[id(value)]


def _pickle_name(archive: zipfile.ZipFile) -> str | None:
    return next((name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1), None)


class _Plain(pickle._Unpickler):
    """Unpickles containers, text, numbers, tensors and arrays; whatever else a pickle names is refused by its name.

    In Python, at a third of the speed: in C eight bytes of a pickle have it take 32 GB for what it remembers by number.
    """

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the pickle: something of this file, never what it names."""
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch", "Size"): tuple,
            ("__builtin__", "set"): set,
            ("builtins", "set"): set,
            ("_codecs", "encode"): _latin_bytes,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        numpy_module = module.removeprefix("numpy.").replace("_core", "core")
        if (numpy_module, name) in _NUMPY:
            return _NUMPY[numpy_module, name]
        raise InputError(f"holds {module}.{name}, which only running its code would make: {SAFE_WAY}")

    def persistent_load(self, pid: Any) -> Any:
        """The bytes of a tensor's storage as an array."""
        _, kind, key, _, size = pid
        if not isinstance(key, str) or not isinstance(kind, str):
            raise InputError("holds a storage of another kind than torch writes: export it again")
        if key not in self._storages:
            part = self._archive.getinfo(f"{self._folder}data/{key}")
            with self._archive.open(part) as file:
                self._storages[key] = _numbers(file.read(part.file_size), kind)[:size]
        return self._storages[key]


def _numbers(content: bytes, kind: str) -> Any:
    if kind == "bfloat16":
        return (np.frombuffer(content, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(content, kind)


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    """A view of a storage, where it lies within."""
    if (
        not isinstance(storage, np.ndarray)
        or len(size) != len(stride)
        or offset < 0
        or min((*size, *stride), default=0) < 0
    ):
        raise InputError("holds a tensor of impossible shape: export it again")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > len(storage) or (0 not in size and last >= len(storage)):
        raise InputError("holds a tensor that is larger than its storage: export it again")
    strides = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _latin_bytes(text: str, encoding: str) -> bytes:
    """How old pickles write bytes."""
    if encoding != "latin1":
        raise InputError("holds text that is not in latin1: export it again")
    return text.encode("latin1")


class _Type:
    """numpy's dtype as far as numbers need it: its code, like f8."""

    def __init__(self, code: str, *_: Any) -> None:
        named = code if isinstance(code, str) else "objects"
        if not re.fullmatch(r"[biuf][1248]", named):
            raise InputError(f"holds a numpy array of {named!r:.20}, not of numbers: {SAFE_WAY}")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        self.code = ("<" if state[1] != ">" else ">") + self.code


class Array:
    """numpy's array while it is unpickled; `__array__` makes it one."""

    values: Any = np.empty(0)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Take up shape and content, of numbers alone."""
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, _Type) or not isinstance(content, bytes):
            raise InputError(f"holds a numpy array of objects: {SAFE_WAY}")
        self.values = np.frombuffer(content, kind.code).reshape(shape, order="F" if by_columns else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """The array for numpy."""
        return self.values.astype(dtype) if dtype is not None else self.values


def _scalar(kind: _Type, content: bytes) -> Any:
    return np.frombuffer(content, kind.code)[0].item()


_NUMPY: dict[tuple[str, str], Any] = {
    ("core.multiarray", "_reconstruct"): Array,
    ("core.multiarray", "scalar"): _scalar,
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Type,
}


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
