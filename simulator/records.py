"""Records that compiled code reads: a class of annotated fields is their layout, and an array in one of them is an address.

Numba hands a record on as a plain pointer, which costs nothing. An array it hands on with a reference that it counts, and a
call from Python unpacks every argument. So the state of a compiled loop is one record with named fields, and the arrays that
belong to it are fields, too: `Pointing` puts their addresses there and keeps them alive.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, get_origin, get_type_hints

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

from simulator.compiled import compiled

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

jit: Any = numba  # its annotations refuse valid calls
emitted: Any = intrinsic

KINDS = {int: np.int64, bool: np.int64, float: np.float64}
ADDRESS = np.int64


class Array(Protocol[T]):
    """An array of one dimension, as compiled code sees it: of records, or of numbers."""

    @property
    def size(self) -> int:
        """How many elements it has."""

    def __getitem__(self, index: int, /) -> T:
        """Return an element; a record can be written to in place."""

    def __setitem__(self, index: int, value: T, /) -> None:
        """Replace an element."""


class Layout(Protocol[T_co]):
    """The numpy dtype of a class of fields."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Itself: whatever takes a dtype takes a layout."""

    @property
    def names(self) -> tuple[str, ...]:
        """The fields, in their order."""


def layout(fields: type[T]) -> Layout[T]:
    """The dtype of a class: annotated `int`, `bool` and `float` become int64, int64 and float64, those of bases first.

    An `Array` becomes its address and, under NAME_size, how many elements it has; another class becomes a record's address.
    """
    columns: list[tuple[str, type]] = []
    for name, kind in get_type_hints(fields).items():
        columns.append((name, KINDS.get(kind, ADDRESS)))
        if get_origin(kind) is Array:
            columns.append((size_of(name), np.int64))
    return np.dtype(columns, align=True)  # type: ignore[return-value]


as_int: Callable[[float], int] = np.int64  # type: ignore[assignment]
"""Return a whole number of another type as int64, in compiled code too."""
INT: Layout[int] = np.dtype(np.int64)  # type: ignore[assignment]
FLOAT: Layout[float] = np.dtype(np.float64)  # type: ignore[assignment]
INT32: Layout[int] = np.dtype(np.int32)  # type: ignore[assignment]
UINT8: Layout[int] = np.dtype(np.uint8)  # type: ignore[assignment]


def size_of(name: str) -> str:
    """The field that says how long the array in the field `name` is."""
    return f"{name}_size"


def records(kind: Layout[T], count: int) -> "npt.NDArray[Any]":
    """Return so many records of zeros."""
    return np.zeros(count, kind)


def read_only(array: "npt.NDArray[Any]") -> "npt.NDArray[Any]":
    """Return a copy that nobody can write to, for other people's code to read."""
    copy = np.array(array)
    copy.flags.writeable = False
    return copy


def joined(parts: Sequence["npt.NDArray[Any]"]) -> "npt.NDArray[Any]":
    """Return arrays of records one after another; numpy's own way copies them field by field."""
    kind = parts[0].dtype
    raw = [np.ascontiguousarray(part).view(np.dtype((np.void, kind.itemsize))) for part in parts]
    return np.concatenate(raw).view(kind)


class Pointing:
    """One record whose fields point at arrays, which live as long as it does.

    record: an array of the one record, for compiled code. From Python a field is `self[name]`.
    """

    def __init__(self, kind: Layout[Any], **values: float) -> None:
        self.record = records(kind, 1)
        self._targets: dict[str, npt.NDArray[Any] | Pointing] = {}
        self._fields: dict[str, npt.NDArray[Any]] = {}
        for name, value in values.items():
            self.record[name] = value

    def __getitem__(self, name: str) -> Any:
        """Return a field."""
        found = self._fields.get(name)
        return (self._field(name) if found is None else found)[0]

    def __setitem__(self, name: str, value: float) -> None:
        """Set a field."""
        self._field(name)[0] = value

    def _field(self, name: str) -> "npt.NDArray[Any]":
        """The field as an array of one, made once: numpy takes longer to find it than to read it."""
        found = self._fields.get(name)
        if found is None:
            found = self._fields[name] = self.record[name]
        return found

    def point(self, **targets: "npt.NDArray[Any] | Pointing") -> None:
        """Let fields point at arrays, or at the record of another; `NAME_size`, where there is one, is an array's length."""
        for name, target in targets.items():
            array = target.record if isinstance(target, Pointing) else target
            assert array.flags.c_contiguous
            self._targets[name] = target
            self.record[name] = array.ctypes.data
            if (size := size_of(name)) in (self.record.dtype.names or ()):
                self.record[size] = array.size

    def target(self, name: str) -> Any:
        """Return what a field points at."""
        return self._targets[name]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Point at the arrays where a copy, or another process, has them."""
        self.__dict__.update(state | {"_fields": {}})
        self.point(**self._targets)


def _emit_pointer(typingctx: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(jit.types.voidptr))

    return jit.types.voidptr(jit.types.int64), codegen


def _emit_beginning(typingctx: Any, record: Any, kind: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return kind.dtype(record, kind), codegen


_pointer: Callable[[int], Any] = emitted(_emit_pointer)
beginning: Callable[[Any, Layout[T]], T] = emitted(_emit_beginning)
"""In compiled code, return a record as the one of that layout which it begins with."""


def array_field(name: str, kind: Layout[T]) -> Callable[[Any], Array[T]]:
    """Return what, in compiled code, takes a record to the array that its field `name` points at."""
    size = size_of(name)

    def array_of(record: Any) -> Array[T]:
        found: Array[T] = jit.carray(_pointer(record[name]), record[size], kind)
        return found

    array_of.__qualname__ = f"array_of_{name}"
    return compiled(array_of)


def record_at(kind: Layout[T]) -> Callable[[int], T]:
    """Return what, in compiled code, takes an address to the record there."""

    def record(address: int) -> T:
        found: T = jit.carray(_pointer(address), 1, kind)[0]
        return found

    return compiled(record)


def record_field(name: str, kind: Layout[T]) -> Callable[[Any], T]:
    """Return what, in compiled code, takes a record to the one that its field `name` points at."""

    def record_of(record: Any) -> T:
        found: T = jit.carray(_pointer(record[name]), 1, kind)[0]
        return found

    record_of.__qualname__ = f"record_of_{name}"
    return compiled(record_of)
