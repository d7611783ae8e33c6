"""The decode steps of a replica, of which there may be hundreds of millions: full parts are packed, each column to the bit."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from simulator.engine.state import STEP
from simulator.records import joined, records

Float64 = npt.NDArray[np.float64]
Records = npt.NDArray[Any]

COUNTS: Sequence[type[np.unsignedinteger[Any]]] = (np.uint8, np.uint16, np.uint32)
"""What whole numbers are kept as: the first that holds them."""


class Packed:
    """Decode steps, at least one, in a tenth of the room.

    A column is one value, the same as another, small whole numbers, or as it was; steps that begin when those before them end
    need not say when.
    """

    def __init__(self, steps: Records) -> None:
        self.size = steps.size
        self._columns = dict[str, Float64 | npt.NDArray[Any] | float | str | None]()
        bits = dict[str, npt.NDArray[np.int64]]()
        for name in STEP.names or ():
            values = np.ascontiguousarray(steps[name])
            mine = values.view(np.int64)
            if (mine == mine[0]).all():
                self._columns[name] = float(values[0])
            elif alike := next((other for other, its in bits.items() if _equal(mine, its)), None):
                self._columns[name] = alike
            else:
                bits[name], self._columns[name] = mine, _smallest(values)
        self._first_s = float(steps["start_s"][0])
        if _equal(self._without_gaps().view(np.int64), np.ascontiguousarray(steps["start_s"]).view(np.int64)):
            self._columns["start_s"] = None

    def __len__(self) -> int:
        """Return how many steps."""
        return self.size

    @property
    def nbytes(self) -> int:
        """Bytes of its columns."""
        return sum(kept.nbytes for kept in self._columns.values() if isinstance(kept, np.ndarray))

    def column(self, name: str) -> Float64:
        """Return a field of every step, float64[steps]."""
        kept = self._columns[name]
        if kept is None:
            return self._without_gaps()
        if isinstance(kept, str):
            return self.column(kept)
        return np.full(self.size, kept) if isinstance(kept, float) else kept.astype(np.float64)

    def records(self, some: slice = slice(None)) -> Records:
        """Return some of its steps, `state.Step`[]."""
        found = records(STEP, len(range(*some.indices(self.size))))
        for name in STEP.names or ():
            found[name] = self.column(name)[some]
        return found

    def _without_gaps(self) -> Float64:
        """When the steps begin if each does as the one before it ends: added up as the replica's clock is."""
        return np.cumsum(np.append(self._first_s, self.column("duration_s")[:-1]))


class Log:
    """Decode steps in order: `log["live"]` is a column, float64[steps], `log[::4]` some of them, `state.Step`[].

    parts: those steps, at least one in each that is packed.
    """

    def __init__(self, parts: Sequence[Packed | Records] = ()) -> None:
        self._parts = parts

    def __len__(self) -> int:
        """Return how many steps."""
        return sum(map(len, self._parts))

    @overload
    def __getitem__(self, which: str) -> Float64: ...

    @overload
    def __getitem__(self, which: slice) -> Records: ...

    def __getitem__(self, which: str | slice) -> Float64 | Records:
        """Return a column, or some of the steps; a slice goes forward."""
        if isinstance(which, str):
            columns = [part.column(which) if isinstance(part, Packed) else part[which] for part in self._parts]
            return columns[0] if len(columns) == 1 else np.concatenate([np.empty(0), *columns])
        first, end, every = which.indices(len(self))
        found, before = [records(STEP, 0)], 0
        for part in self._parts:
            begin = first - before if first >= before else (first - before) % every
            some = slice(begin, max(end - before, 0), every)
            found.append(part.records(some) if isinstance(part, Packed) else part[some])
            before += len(part)
        return joined(found)

    def parts(self) -> Iterator[Records]:
        """Yield the steps in parts, `state.Step`[] each, of which one is unpacked at a time."""
        for part in self._parts:
            yield part.records() if isinstance(part, Packed) else part

    def since(self, begun_s: float) -> "Log":
        """Return the same steps with times that count from `begun_s`, where they were the run's."""
        parts = list[Packed | Records]()
        for part in self._parts:
            steps = part.records() if isinstance(part, Packed) else part.copy()
            steps["start_s"] -= begun_s
            parts.append(Packed(steps) if isinstance(part, Packed) else steps)
        return Log(parts)


def _equal(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> bool:
    return bool(one[-1] == other[-1] and one[one.size // 2] == other[one.size // 2] and (one == other).all())


def _smallest(values: Float64) -> npt.NDArray[Any]:
    """The values in the smallest type that has them all, to the bit."""
    low, high = values.min(), values.max()
    if low >= 0 and high <= np.iinfo(COUNTS[-1]).max:
        kind = next(kind for kind in COUNTS if high <= np.iinfo(kind).max)
        if _equal(values.astype(kind).astype(np.float64).view(np.int64), values.view(np.int64)):
            return values.astype(kind)
    return values
