"""The three kinds of operator that a cost model sums: affine, roof (max of two affine rows) and table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from simulator.cost.work import FEATURES, LEAST, WORK_FIELDS
from traces.errors import InputError

FloatArray = npt.NDArray[np.float64]
Bounds: TypeAlias = dict[str, tuple[float, float]]

ROW_KEYS = ("constant", *WORK_FIELDS[:6])
MOST_AXES = 4
WHEN = ("always", "decode_only", "prefill_only", "mixed", "any_decode", "any_prefill")
"""Steps that a table takes part in: by whether sequences decode, prefill, or both; numbered as in `kernel`."""


@dataclass(frozen=True)
class Affine:
    """Seconds linear in the work; `row_s` holds seconds per unit of each of ROW_KEYS."""

    name: str
    row_s: tuple[float, ...]
    repeat: int = 1

    def __post_init__(self) -> None:
        """Check the row and the repeat count."""
        _check_row(self.row_s, "coefficients_s")
        _check_repeat(self.repeat)

    def scaled(self, factor: float) -> Affine:
        """The same operator with every second multiplied."""
        return replace(self, row_s=tuple(cost * factor for cost in self.row_s))

    def least_s(self, bounds: Bounds) -> float:
        """Lowest seconds within the bounds (exact: every coefficient is >= 0)."""
        return self.repeat * _least_of_row(self.row_s, bounds)


@dataclass(frozen=True)
class Roof:
    """The larger of two affine rows in seconds: bytes over bandwidth, operations over peak."""

    name: str
    memory_s: tuple[float, ...]
    compute_s: tuple[float, ...]
    repeat: int = 1

    def __post_init__(self) -> None:
        """Check both rows and the repeat count."""
        _check_row(self.memory_s, "memory_s")
        _check_row(self.compute_s, "compute_s")
        _check_repeat(self.repeat)

    def scaled(self, factor: float) -> Roof:
        """The same operator with every second multiplied."""
        memory = tuple(cost * factor for cost in self.memory_s)
        return replace(self, memory_s=memory, compute_s=tuple(cost * factor for cost in self.compute_s))

    def least_s(self, bounds: Bounds) -> float:
        """Lowest seconds within the bounds."""
        return self.repeat * max(_least_of_row(self.memory_s, bounds), _least_of_row(self.compute_s, bounds))


@dataclass(frozen=True, eq=False)
class Table:
    """Measured seconds on a grid, multilinear between the points and along the edge cells beyond them.

    `axes` names up to four features, `grid` has one ascending array for each, `values_s` the shape of the grid. `when`
    says in which steps it runs; `per` names a feature that the seconds are multiplied by.
    """

    name: str
    axes: tuple[str, ...]
    grid: tuple[FloatArray, ...]
    values_s: FloatArray
    repeat: int = 1
    when: str = "always"
    per: str | None = None

    def __post_init__(self) -> None:
        """Freeze the arrays and check them."""
        _check_repeat(self.repeat)
        if self.when not in WHEN:
            raise InputError(f"when = {self.when!r}: use {', '.join(WHEN)}")
        if self.per is not None and self.per not in FEATURES:
            raise InputError(f"per = {self.per!r} is not a feature: use {', '.join(FEATURES)}")
        if not 1 <= len(self.axes) <= MOST_AXES or len(set(self.axes)) < len(self.axes):
            raise InputError(f"axes {list(self.axes)}: name one to {MOST_AXES} different features")
        for axis in self.axes:
            if axis not in FEATURES:
                raise InputError(f"axes: {axis!r} is not a feature: use {', '.join(FEATURES)}")
        if len(self.grid) != len(self.axes):
            raise InputError(f"grid has {len(self.grid)} axes, axes names {len(self.axes)}: give one list per axis")
        grid = tuple(_frozen(points) for points in self.grid)
        for axis, points in zip(self.axes, grid, strict=True):
            _check_grid(axis, points)
        values = _frozen(self.values_s)
        shape = tuple(points.size for points in grid)
        if values.shape != shape:
            raise InputError(f"values_s has shape {values.shape}, the grid {shape}: give one number per grid point")
        wrong = ~(np.isfinite(values) & (values >= 0))
        if wrong.any():
            where = tuple(int(index) for index in np.argwhere(wrong)[0])
            place = "".join(f"[{index}]" for index in where)
            raise InputError(f"values_s{place} = {values[where]:g}: a cost is a finite number >= 0; correct it")
        object.__setattr__(self, "grid", grid)
        object.__setattr__(self, "values_s", values)

    def scaled(self, factor: float) -> Table:
        """The same operator with every second multiplied."""
        return replace(self, values_s=self.values_s * factor)

    def least_s(self, bounds: Bounds) -> float:
        """Lowest seconds within the bounds; a multilinear surface has it on a grid line or on the bounds."""
        if self.when != "always" or self.per is not None:
            return 0.0  # what does not always run may cost nothing; its values are >= 0 on the grid
        stops = []
        for axis, points in zip(self.axes, self.grid, strict=True):
            lowest, highest = bounds[axis]
            inner = points[(points > lowest) & (points < highest)]
            stops.append(np.concatenate([[lowest], inner, [highest]]))
        return self.repeat * float(_at(self.grid, self.values_s, np.array(list(product(*stops)))).min())


Operator: TypeAlias = Affine | Roof | Table


def row(**seconds: float) -> tuple[float, ...]:
    """Affine row from seconds by feature name (`constant` or a field of StepWork); absent ones are 0."""
    return tuple(float(seconds.get(key, 0.0)) for key in ROW_KEYS)


def _at(grid: tuple[FloatArray, ...], values: FloatArray, points: FloatArray) -> FloatArray:
    """Multilinear interpolation at points (n, axes), one axis after the other: the plain twin of the kernel's."""
    cells, along = [], []
    for axis, stops in enumerate(grid):
        cell = np.clip(np.searchsorted(stops, points[:, axis], side="right") - 1, 0, stops.size - 2)
        cells.append(cell)
        along.append((points[:, axis] - stops[cell]) / (stops[cell + 1] - stops[cell]))
    seconds = np.zeros(points.shape[0])
    for corner in product((0, 1), repeat=len(grid)):
        weight = np.ones(points.shape[0])
        for upper, fraction in zip(corner, along, strict=True):
            weight *= fraction if upper else 1.0 - fraction
        seconds += weight * values[tuple(cell + upper for cell, upper in zip(cells, corner, strict=True))]
    return seconds


def _least_of_row(seconds: tuple[float, ...], bounds: Bounds) -> float:
    lowest = (1.0, *(bounds.get(name, (LEAST[name], np.inf))[0] for name in ROW_KEYS[1:]))
    return float(sum(cost * least for cost, least in zip(seconds, lowest, strict=True)))


def _frozen(values: FloatArray) -> FloatArray:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


def _check_row(seconds: tuple[float, ...], key: str) -> None:
    if len(seconds) != len(ROW_KEYS):
        raise InputError(f"{key} has {len(seconds)} numbers: give {len(ROW_KEYS)}, for {', '.join(ROW_KEYS)}")
    for feature, cost in zip(ROW_KEYS, seconds, strict=True):
        if not (np.isfinite(cost) and cost >= 0):
            raise InputError(f"{key}.{feature} = {cost:g}: a cost is a finite number >= 0; correct it")
    if not any(seconds):
        raise InputError(f"{key} is zero throughout: give a cost or leave the operator out")


def _check_repeat(repeat: int) -> None:
    if repeat < 1:
        raise InputError(f"repeat = {repeat}: how often the operator runs in a step is an integer >= 1; correct it")


def _check_grid(axis: str, points: FloatArray) -> None:
    if points.ndim != 1 or points.size < 2:
        raise InputError(f"grid of {axis} has shape {points.shape}: give at least two numbers, or drop the axis")
    if not (np.isfinite(points).all() and (points >= 0).all()):
        raise InputError(f"grid of {axis} has {points[~(np.isfinite(points) & (points >= 0))][0]:g}: use numbers >= 0")
    steps = np.diff(points)
    if not (steps > 0).all():
        fault = int(np.argmin(steps > 0))
        raise InputError(
            f"grid of {axis} is not ascending: {points[fault]:g} is followed by {points[fault + 1]:g}; sort it and "
            "remove duplicates"
        )
