"""Matrix multiplications measured on a grid of (m, n, k): what one of any shape costs over its rows m."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from simulator.cost.sources import NotMeasuredError

Float64 = npt.NDArray[np.float64]

OUTPUT_BYTES = 2.0
LARGE = 1024.0
"""Widths below which a multiplication is little more than the launch of its kernel."""


@dataclass(frozen=True, eq=False)
class Gemms:
    """Seconds of (m x k) times (k x n) by m, n and k; NaN where not measured.

    `bandwidth_bytes_per_s` and `peak_flops_per_s` are the device's; a shape beyond the grid is taken to reach the share of
    them that the largest measured ones do.
    """

    m: Float64
    n: Float64
    k: Float64
    seconds: Float64
    bandwidth_bytes_per_s: float
    peak_flops_per_s: float
    weight_bytes: float = OUTPUT_BYTES
    activation_bytes: float = OUTPUT_BYTES

    def time_s(self, n: float, k: float) -> Float64:
        """Seconds for each of the grid's m.

        Between the measured n and k time is interpolated linearly: on H200 a measured line left out is off by 3 to 5 % in
        the median, which is how far one m is off when predicted from its neighbours; the nearest n in proportion is off
        by 6 to 9 %. A shape that was not measured at every m is passed over. Below the grid the smallest shape counts: it is
        all launch. Raises InputError where fewer than two n were measured.
        """
        if self._known(n, k).any():
            return self.seconds[:, np.searchsorted(self.n, n), np.searchsorted(self.k, k)]
        if k > self.k[-1]:
            return self._beyond(n, k, [(n, depth) for depth in self.k[-2:]])
        columns, depths = self._columns(k), _weights(self.k, k)
        if n > self.n[columns[-1]]:
            return self._beyond(n, k, [(self.n[column], k) for column in columns[-2:]])
        seconds = np.zeros(self.m.size)
        for place, share in _weights(self.n[columns], n):
            for depth, part in depths:
                seconds += share * part * self.seconds[:, columns[place], depth]
        return seconds

    def place(self, n: float, k: float) -> str:
        """Where a shape lies off the measured ones, in words; empty if it was measured."""
        words = []
        for name, axis, wanted in self._axes(n, k):
            if wanted > axis[-1]:
                words.append(f"{name} beyond {axis[-1]:g}")
            elif wanted < axis[0]:
                words.append(f"{name} below {axis[0]:g}")
            elif wanted not in axis:
                after = int(np.searchsorted(axis, wanted))
                words.append(f"{name} between {axis[after - 1]:g} and {axis[after]:g}")
        return ", ".join(words)

    def roof_s(self, n: npt.ArrayLike, k: npt.ArrayLike) -> Float64:
        """Least seconds that the device's data sheet allows, for each of the grid's m."""
        rows, columns, depth = self.m.reshape(-1, *(1,) * max(np.ndim(n), np.ndim(k))), np.asarray(n), np.asarray(k)
        moved = (
            self.activation_bytes * rows * depth + self.weight_bytes * columns * depth + OUTPUT_BYTES * rows * columns
        )
        compute = 2 * rows * columns * depth / self.peak_flops_per_s
        return np.asarray(np.maximum(moved / self.bandwidth_bytes_per_s, compute))

    def apart(self, n: float, k: float) -> float:
        """Ratio of the measured widths that a shape is interpolated between; 1 where it was measured."""
        ratios = [1.0]
        for _, axis, wanted in self._axes(n, k):
            if axis[0] < wanted < axis[-1] and wanted not in axis:
                after = int(np.searchsorted(axis, wanted))
                ratios.append(float(axis[after] / axis[after - 1]))
        return max(ratios)

    def leave_one_out(self, apart: float = 1.0) -> Float64:
        """Relative errors of predicting each measured line of n, and of k, from its two neighbours; large widths only.

        Of those whose neighbours are at least so far apart, as a ratio; of the farthest if none are.
        """
        errors: dict[float, list[Float64]] = {}
        for axis in (1, 2):
            points, lines = (self.n, self.k)[axis - 1], np.moveaxis(self.seconds, axis, 0)
            lines = lines[:, :, (self.k, self.n)[axis - 1] >= LARGE]
            for at in range(1, points.size - 1):
                if points[at] >= LARGE:
                    low, high = points[at - 1], points[at + 1]
                    share = (points[at] - low) / (high - low)
                    predicted = lines[at - 1] + share * (lines[at + 1] - lines[at - 1])
                    errors.setdefault(high / low, []).append((predicted / lines[at] - 1).ravel())
        least = min(apart, max(errors))
        found = np.concatenate([error for ratio, each in errors.items() if ratio >= least for error in each])
        return np.asarray(found[~np.isnan(found)])

    def beyond_error(self) -> Float64:
        """Relative errors of predicting the line of the largest n from the two before it, as `time_s` does beyond."""
        errors = []
        for depth in np.flatnonzero(self.k >= LARGE):
            *before, last = np.flatnonzero(self._full[:, depth])
            if len(before) > 1:
                largest = [(self.n[column], self.k[depth]) for column in before[-2:]]
                predicted = self._beyond(self.n[last], self.k[depth], largest)
                errors.append(predicted / self.seconds[:, last, depth] - 1)
        return np.concatenate(errors) if errors else np.empty(0)

    @cached_property
    def _full(self) -> npt.NDArray[np.bool_]:
        """Which (n, k) were measured at every m."""
        return np.asarray(~np.isnan(self.seconds).any(axis=0))

    def _known(self, n: float, k: float) -> npt.NDArray[np.bool_]:
        return self._full[np.ix_(self.n == n, self.k == k)]

    def _columns(self, k: float) -> npt.NDArray[np.intp]:
        """Places of the n that were measured at the k on both sides."""
        depths = [depth for depth, _ in _weights(self.k, min(k, self.k[-1]))]
        columns = np.flatnonzero(self._full[:, depths].all(axis=1))
        if columns.size < 2:
            raise NotMeasuredError(f"gemm: k = {k:g} is measured at {columns.size} n: use another tensor-parallel size")
        return columns

    def _axes(self, n: float, k: float) -> tuple[tuple[str, Float64, float], ...]:
        """What a shape is interpolated along: name, measured values and the wanted one, of n and k."""
        if self._known(n, k).any():
            return ("n", np.array([n]), n), ("k", np.array([k]), k)
        return ("n", self.n[self._columns(k)], n), ("k", self.k, k)

    def _beyond(self, n: float, k: float, largest: list[tuple[float, float]]) -> Float64:
        """Time at the mean share of the roof that the two largest measured shapes reach."""
        share = np.mean([self.roof_s(*shape) / self.time_s(*shape) for shape in largest], axis=0)
        return np.asarray(self.roof_s(n, k) / share)


def gemms(
    table: pd.DataFrame,
    bandwidth_bytes_per_s: float,
    peak_flops_per_s: float,
    weight_bytes: float = OUTPUT_BYTES,
    activation_bytes: float = OUTPUT_BYTES,
    precision: str = "bfloat16",
) -> Gemms:
    """Grid of the columns m, n, k and seconds, of the k that have two n measured at every m; raises InputError if there are
    not two of each."""
    if table.empty:
        raise NotMeasuredError(f"gemm in {precision} is not measured: use another engine, or the model in 16 bits")
    m, n, k = (np.unique(table[name].to_numpy(np.float64)) for name in ("m", "n", "k"))
    if min(m.size, n.size, k.size) < 2:
        raise NotMeasuredError(
            f"gemm in {precision}: measured at {m.size} m, {n.size} n and {k.size} k: at least two of each are needed"
        )
    seconds = np.full((m.size, n.size, k.size), np.nan)
    places = tuple(np.searchsorted(axis, table[name]) for axis, name in ((m, "m"), (n, "n"), (k, "k")))
    seconds[places] = table["seconds"].to_numpy(np.float64)
    usable = (~np.isnan(seconds).any(axis=0)).sum(axis=0) > 1
    if usable.sum() < 2:
        raise NotMeasuredError(
            f"gemm in {precision}: {usable.sum()} k are measured at two n and every m, two are needed"
        )
    return Gemms(
        m, n, k[usable], seconds[:, :, usable], bandwidth_bytes_per_s, peak_flops_per_s, weight_bytes, activation_bytes
    )


def _weights(axis: Float64, wanted: float) -> list[tuple[int, float]]:
    """Grid points around a value and their shares; one where it is a grid point or lies below the grid."""
    after = int(np.searchsorted(axis, wanted))
    if after == 0 or axis[after] == wanted:
        return [(after, 1.0)]
    share = float((wanted - axis[after - 1]) / (axis[after] - axis[after - 1]))
    return [(after - 1, 1 - share), (after, share)]
