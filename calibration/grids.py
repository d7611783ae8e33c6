"""Measured points as full grids: what was not measured is filled in, and how well that predicts what was.

The kernels are close to linear in each axis, so a missing point is interpolated linearly between measured neighbours on one
grid line, that on which they are closest together; of axes on which they are equally close, the one that comes first in the
order given. A point beyond the measured ones (a large chunk with many decodes) is what the step along one axis adds where it
was measured, added there.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from traces.errors import InputError

Float64 = npt.NDArray[np.float64]
Grid = tuple[Float64, ...]

FARTHEST = 64.0
"""Ratio of a point to its neighbour at 0."""


def gridded(part: pd.DataFrame, columns: Sequence[str]) -> tuple[Grid, Float64]:
    """Grid of the columns, and `time_us` on it, nan where it was not measured."""
    grid = tuple(np.unique(part[name].to_numpy(np.float64)) for name in columns)
    values = np.full([axis.size for axis in grid], np.nan)
    places = tuple(np.searchsorted(axis, part[name].to_numpy()) for axis, name in zip(grid, columns, strict=True))
    values[places] = part["time_us"].to_numpy(np.float64)
    return _lattice(grid, values)


def filled(grid: Grid, values: Float64, order: Sequence[int]) -> Float64:
    """The values with every nan filled in; order: axes, the most linear first. Raises InputError where nothing is near."""
    while (missing := int(np.isnan(values).sum())) > 0:
        values = _between(grid, values, order)
        if np.isnan(values).sum() == missing:
            values = _beyond(values)
            if np.isnan(values).sum() == missing:
                raise InputError(f"{missing} grid points cannot be filled from measured ones: measure a fuller grid")
    return values


def held_out(grid: Grid, values: Float64, axis: int) -> dict[str, float]:
    """Error of every other measured point along an axis, predicted from those on either side: points, median, p95."""
    predicted, measured = [], []
    for line in np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis]):
        have = np.flatnonzero(~np.isnan(line))
        kept, out = have[::2], have[1::2]
        out = out[out < kept[-1]] if kept.size else out[:0]
        predicted.append(np.interp(grid[axis][out], grid[axis][kept], line[kept]) if out.size else line[:0])
        measured.append(line[out])
    return errors_of(np.concatenate(predicted), np.concatenate(measured))


def errors_of(predicted: Float64, measured: Float64) -> dict[str, float]:
    """Sizes of relative errors: points, median, p95."""
    errors = np.abs(predicted / measured - 1)
    if not errors.size:
        return {"points": 0.0, "median": 0.0, "p95": 0.0}
    return {"points": float(errors.size), "median": float(np.median(errors)), "p95": float(np.quantile(errors, 0.95))}


def _lattice(grid: Grid, values: Float64) -> tuple[Grid, Float64]:
    """Drop grid lines on which less than a quarter of the fullest line's points were measured: they belong to another sweep."""
    for axis in range(values.ndim) if values.ndim > 2 else ():
        others = tuple(other for other in range(values.ndim) if other != axis)
        count = (~np.isnan(values)).sum(axis=others)
        keep = np.flatnonzero(4 * count >= count.max())
        grid = (*grid[:axis], grid[axis][keep], *grid[axis + 1 :])
        values = np.take(values, keep, axis=axis)
    return grid, values


def _between(grid: Grid, values: Float64, order: Sequence[int]) -> Float64:
    """Fill what lies between measured points on some grid line."""
    best, closest = values.copy(), np.where(np.isnan(values), np.inf, 0.0)
    for axis in order:
        points = grid[axis]
        lines, targets = np.moveaxis(values, axis, -1), np.moveaxis(best, axis, -1)
        gaps = np.moveaxis(closest, axis, -1)
        for place in itertools.product(*map(range, lines.shape[:-1])):
            line = lines[place]
            have, lack = np.flatnonzero(~np.isnan(line)), np.flatnonzero(np.isnan(line))
            if have.size < 2 or not lack.size:
                continue
            after = np.searchsorted(have, lack)
            inner = (after > 0) & (after < have.size)
            lack, low, high = lack[inner], have[after[inner] - 1], have[after[inner]]
            gap = np.log(points[high] / np.maximum(points[low], points[high] / FARTHEST))
            share = (points[lack] - points[low]) / (points[high] - points[low])
            guess = line[low] + share * (line[high] - line[low])
            nearer = gap < gaps[place][lack] * (1 - 1e-9)
            targets[place][lack[nearer]] = guess[nearer]
            gaps[place][lack[nearer]] = gap[nearer]
    return best


def _beyond(values: Float64) -> Float64:
    """Fill the corners that were not measured, next to measured ones; never below the neighbour that does less."""
    result = values.copy()
    for place in np.argwhere(np.isnan(values)):
        guesses = []
        for one, other in itertools.permutations(range(values.ndim), 2):
            below, aside, both = place.copy(), place.copy(), place.copy()
            below[one] -= 1
            aside[other] -= 1
            both[one] -= 1
            both[other] -= 1
            if min(below[one], aside[other]) >= 0:
                guess = values[tuple(below)] + values[tuple(aside)] - values[tuple(both)]
                guesses.append(max(guess, values[tuple(below)], values[tuple(aside)]))
        known = [guess for guess in guesses if not np.isnan(guess)]
        if known:
            result[tuple(place)] = float(np.mean(known))
    return result
