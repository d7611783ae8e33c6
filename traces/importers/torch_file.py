"""Torch files read without torch and without running anything: tensors, arrays and plain containers, or a refusal.

A torch file is a zip of a pickle and the bytes of its tensors. A pickle may name any function to call; here the only ones are
those of this file, which make arrays.
"""

import math
import pickle
import re
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from traces.errors import InputError
from traces.importers.source import Source

MOST_TIMES_LARGER = 50
"""How much larger than the file its parts may say they are; torch itself does not compress them."""
MOST_PARTS = 1_000_000
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
            return _Plain(file, archive, name.removesuffix("data.pkl")).load()


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
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            declared, size = sum(part.file_size for part in parts), path.stat().st_size
            if len(parts) > MOST_PARTS or declared > MOST_TIMES_LARGER * size:
                what = f"{len(parts):,} parts of {declared:,} bytes in a file of {size:,}"
                raise InputError(f"says that it has {what}: is not read, such files are made to harm")
            yield archive, _pickle_name(archive)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: is damaged, or no torch file ({_short(error)}): copy or export it again") from error
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError) as error:
        raise InputError(f"{path}: is no torch file of plain values ({_short(error)}): export it again") from error


def _pickle_name(archive: zipfile.ZipFile) -> str | None:
    return next((name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1), None)


class _Plain(pickle.Unpickler):
    """Unpickles containers, text, numbers, tensors and arrays; whatever else a pickle names is refused by its name."""

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
            raise InputError(f"holds a storage of another kind than torch writes ({str(pid)[:60]}): export it again")
        if key not in self._storages:
            content = self._archive.read(f"{self._folder}data/{key}")
            self._storages[key] = _numbers(content, kind)[:size]
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
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False).copy()


def _latin_bytes(text: str, encoding: str) -> bytes:
    """How old pickles write bytes."""
    if encoding != "latin1":
        raise InputError(f"holds text in {encoding!r:.20}: export it again")
    return text.encode("latin1")


class _Type:
    """numpy's dtype as far as numbers need it: its code, like f8."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"[biuf][1248]", code):
            raise InputError(f"holds a numpy array of {code!r:.20}, not of numbers: {SAFE_WAY}")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        self.code = ("<" if state[1] != ">" else ">") + self.code


class Array:
    """numpy's array while it is unpickled; `__array__` makes it one."""

    def __init__(self, *_: Any) -> None:
        self.values: Any = np.empty(0)

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
