"""What measured tables are held to: nothing beats the device, and more work never costs less.

A kernel that was measured again and again on the same operands reads them from the cache; the weights and the KV of a model do
not stay there from one step to the next, so that it takes at least its bytes at full bandwidth and its operations at full
speed. And a kernel that is slower for fewer rows would make verifying cheaper than decoding: along each axis the seconds are
the isotonic regression of the measured ones, which is the closest that never falls, in the squares of relative errors. It
keeps what already rises, keeps the roof, and of axis after axis keeps the order along those before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from calibration.imports.aic_parts import Timed
from simulator.cost.operators import Table

Float64 = npt.NDArray[np.float64]

KEPT = 1e-9
"""Relative change below which a cell counts as kept."""


@dataclass(frozen=True, eq=False)
class Held:
    """One table, and by which factor each of its cells was raised to the device, and then moved to be in order."""

    table: Table
    raised: Float64
    moved: Float64


def held(timed: Timed) -> Held:
    """The table no faster than the device, and never falling along any axis; the least seconds must not fall either."""
    table = timed.table
    raised = np.maximum(table.values_s, timed.least_s)
    values = raised
    for axis in range(values.ndim):
        values = np.apply_along_axis(_rising, axis, values)
    factor = values / raised
    return Held(replace(table, values_s=values), raised / table.values_s, np.maximum(factor, 1 / factor))


def told(tables: Iterable[Held]) -> str:
    """What was changed, in words; empty if nothing was."""
    each = list(tables)
    parts = []
    for what, factors in (
        ("raised to what the device's data sheet allows", [one.raised for one in each]),
        ("moved so that more work never costs less (isotonic regression)", [one.moved for one in each]),
    ):
        every = np.concatenate([one.ravel() for one in factors])
        changed = every[every > 1 + KEPT]
        if changed.size:
            name = each[int(np.argmax([one.max() for one in factors]))].table.name
            parts.append(
                f"{changed.size:,} of {every.size:,} cells were {what}, by {np.median(changed) - 1:.1%} in the median and "
                f"{changed.max():.2f} times at most ({name})"
            )
    return "; ".join(parts) + "." if parts else ""


def _rising(seconds: Float64) -> Float64:
    if (np.diff(seconds) >= 0).all():
        return seconds
    return np.asarray(np.exp(isotonic_regression(np.log(seconds)).x))
