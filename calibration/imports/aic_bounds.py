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

MOVED = 1e-9
"""Relative change below which a cell counts as kept."""


@dataclass(frozen=True)
class Held:
    """One table, and how its cells were changed: so many, and by which factor at most."""

    table: Table
    raised: int
    most_raised: float
    moved: int
    most_moved: float


def held(timed: Timed) -> Held:
    """The table no faster than the device, and never falling along any axis; the least seconds must not fall either."""
    table = timed.table
    raised = np.maximum(table.values_s, timed.least_s)
    values = raised
    for axis in range(values.ndim):
        values = np.apply_along_axis(_rising, axis, values)
    up, change = raised / table.values_s, np.abs(np.log(values / raised))
    return Held(
        replace(table, values_s=values),
        int((up > 1 + MOVED).sum()), float(up.max()), int((change > MOVED).sum()), float(np.exp(change.max())),
    )  # fmt: skip


def told(tables: Iterable[Held]) -> str:
    """What was changed, in words; empty if nothing was."""
    each = list(tables)
    cells = sum(one.table.values_s.size for one in each)
    parts = []
    for what, counts in (
        ("raised to what the device's data sheet allows", [(one.raised, one.most_raised, one) for one in each]),
        ("moved so that more work never costs less (isotonic regression)", [(one.moved, one.most_moved, one) for one in each]),
    ):  # fmt: skip
        number = sum(count for count, _, _ in counts)
        _, factor, one = max(counts, key=lambda entry: entry[1])
        if number:
            parts.append(f"{number:,} of {cells:,} cells were {what}, at most {factor:.2f} times ({one.table.name})")
    return "; ".join(parts) + "." if parts else ""


def _rising(seconds: Float64) -> Float64:
    if (np.diff(seconds) >= 0).all():
        return seconds
    return np.asarray(np.exp(isotonic_regression(np.log(seconds)).x))
