"""Attention measured by (prefill chunk, KV before it, decoding sequences, KV of each), as tables of our features."""

import itertools

import numpy as np
import numpy.typing as npt
import pandas as pd

from simulator.cost.operators import Operator, Table
from traces.errors import InputError

Float64 = npt.NDArray[np.float64]

WIDTHS = (1.0, 2.0, 3.0, 5.0, 9.0, 17.0, 33.0)
"""Query tokens of a sequence in a verification step for which costs are derived."""
COLUMNS = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
MICRO = 1e-6


def attention_tables(table: pd.DataFrame, layers: int) -> list[Operator]:
    """Tables for steps that decode only, prefill only or do both, and for prefill chunks beyond the first.

    table: columns COLUMNS and time_us. The kernel is close to linear in each axis, so a grid point that was not measured is
    filled by linear interpolation from its measured neighbours, and one beyond the measured ones (a large chunk with many
    decodes) by what the missing sequences add at the largest chunk that was measured with them.
    """
    decode = table[(table["prefill_chunk"] == 0) & (table["n_decode"] > 0)]
    prefill = table[(table["prefill_chunk"] > 0) & (table["n_decode"] == 0)]
    mixed = table[(table["prefill_chunk"] > 0) & (table["n_decode"] > 0)]
    for what, part in (("decode", decode), ("prefill", prefill), ("mixed", mixed)):
        if len(part) < 4:
            raise InputError(f"attention.csv has {len(part)} {what} steps: measure a grid of them")
    operators: list[Operator] = []
    grid, values = filled(decode, ("n_decode", "kv_decode"))
    widths = np.array(WIDTHS)
    work = grid[0][:, None, None] * grid[1][None, :, None] * widths
    verify = np.maximum(values[:, :, None], work / pair_rate(prefill))
    operators.append(
        Table("attention, decode", ("decode_seqs", "decode_context", "decode_width"), (*grid, widths), verify * MICRO,
              layers, "decode_only"))  # fmt: skip
    grid, values = filled(prefill, ("prefill_chunk", "kv_prefill"))
    axes = ("prefill_chunk", "prefill_context")
    operators.append(Table("attention, prefill", axes, grid, values * MICRO, layers, "prefill_only"))
    further = np.maximum(values - values.min(), 0.0)
    operators.append(
        Table("attention, further chunks", axes, grid, further * MICRO, layers, "any_prefill", "further_chunks")
    )
    grid, values = filled(mixed, COLUMNS)
    operators.append(
        Table("attention, mixed", (*axes, "decode_seqs", "decode_context"), grid, values * MICRO, layers, "mixed")
    )
    return operators


def pair_rate(prefill: pd.DataFrame) -> float:
    """Query x context pairs per microsecond that the prefill kernel reached at its best."""
    chunk, before = prefill["prefill_chunk"].to_numpy(), prefill["kv_prefill"].to_numpy()
    return float(((chunk * before + chunk * (chunk + 1) / 2) / prefill["time_us"].to_numpy()).max())


def verification_note(table: pd.DataFrame) -> str:
    """How the cost of more than one query token per sequence was derived."""
    rate = pair_rate(table[(table["prefill_chunk"] > 0) & (table["n_decode"] == 0)])
    return (
        "attention with several query tokens per sequence costs what one costs, or the query x context pairs at the best rate "
        f"of the prefill kernel ({rate:.3g} per us and layer), whichever is more; GEMMs are measured by tokens"
    )


def filled(part: pd.DataFrame, columns: tuple[str, ...]) -> tuple[tuple[Float64, ...], Float64]:
    """Full grid of the columns, and the values, those not measured filled in."""
    grid = tuple(np.unique(part[name].to_numpy(np.float64)) for name in columns)
    values = np.full([axis.size for axis in grid], np.nan)
    places = tuple(np.searchsorted(axis, part[name].to_numpy()) for axis, name in zip(grid, columns, strict=True))
    values[places] = part["time_us"].to_numpy(np.float64)
    grid, values = _lattice(grid, values)
    while (missing := np.isnan(values)).any():
        values = _between(grid, values)
        if np.isnan(values).sum() == missing.sum():
            values = _beyond(values)
            if np.isnan(values).sum() == missing.sum():
                raise InputError(
                    f"attention.csv: {missing.sum()} points of the grid of {', '.join(columns)} cannot be filled"
                )
    return grid, values


def _lattice(grid: tuple[Float64, ...], values: Float64) -> tuple[tuple[Float64, ...], Float64]:
    """Drop grid lines on which less than a quarter of the fullest line's points were measured: they belong to another sweep."""
    for axis in range(values.ndim) if values.ndim > 2 else ():
        others = tuple(other for other in range(values.ndim) if other != axis)
        count = (~np.isnan(values)).sum(axis=others)
        keep = np.flatnonzero(4 * count >= count.max())
        grid = (*grid[:axis], grid[axis][keep], *grid[axis + 1 :])
        values = np.take(values, keep, axis=axis)
    return grid, values


def _between(grid: tuple[Float64, ...], values: Float64) -> Float64:
    """Fill what lies between measured points on some grid line, from the line on which they are closest together."""
    best, closest = values.copy(), np.where(np.isnan(values), np.inf, 0.0)
    for axis, points in enumerate(grid):
        lines, filled_lines = np.moveaxis(values, axis, -1), np.moveaxis(best, axis, -1)
        gaps = np.moveaxis(closest, axis, -1)
        for place in itertools.product(*map(range, lines.shape[:-1])):
            line = lines[place]
            have = np.flatnonzero(~np.isnan(line))
            for index in np.flatnonzero(np.isnan(line)):
                after = np.searchsorted(have, index)
                if 0 < after < have.size:
                    low, high, at = have[after - 1], have[after], (*place, int(index))
                    gap = np.log((points[high] + 1) / (points[low] + 1))
                    if gap < gaps[at]:
                        gaps[at] = gap
                        share = (points[index] - points[low]) / (points[high] - points[low])
                        filled_lines[at] = line[low] + share * (line[high] - line[low])
    return best


def _beyond(values: Float64) -> Float64:
    """Fill the corners that were not measured: what the step along one axis adds where it was measured, added here."""
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
                guesses.append(values[tuple(below)] + values[tuple(aside)] - values[tuple(both)])
        known = [guess for guess in guesses if not np.isnan(guess)]
        if known:
            result[tuple(place)] = max(
                np.mean(known), np.nanmax(values[tuple(place - np.eye(values.ndim, dtype=int)[0])], initial=0)
            )
    return result
