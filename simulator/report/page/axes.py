"""Numbers as places on a page: round ticks, shares of an axis, and step lines as SVG paths."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

ACROSS, UP = 2000, 200
"""Units of a drawing; whole ones are written, so that paths stay short."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: how far along it, in percent, and what it says."""

    at: float
    label: str


def ticks(most: float, about: int = 4) -> list[Tick]:
    """Round numbers from 0 up to `most` > 0, about so many of them."""
    raw = most / about
    unit = 10.0 ** np.floor(np.log10(raw))
    step = float(unit * min((1, 2, 5, 10), key=lambda one: abs(one * unit - raw)))
    return [Tick(100 * i * step / most, f"{i * step:,.10g}") for i in range(int(most / step * (1 + 1e-9)) + 1)]


def share(value: float, most: float) -> float:
    """How far along an axis up to `most`, in percent, to a hundredth."""
    return round(100 * min(value / most, 1.0), 2) if most > 0 else 0.0


def staircase(x: Float64, y: Float64, most_x: float, most_y: float) -> str:
    """A filled step line: y[i] holds from x[i] to x[i + 1], down to zero at both ends."""
    across = np.rint(ACROSS * x / most_x).astype(int).tolist()
    up = np.rint(UP - UP * y / most_y).astype(int).tolist()
    parts, at, level = [f"M{across[0]},{UP}"], across[0], UP
    for here, height in zip(across, up, strict=True):
        if height != level:
            if here != at:
                parts.append(f"H{here}")
                at = here
            parts.append(f"V{height}")
            level = height
    return "".join([*parts, f"H{across[-1]}V{UP}Z"])


def stretches(spans: Iterable[tuple[float, float]], most: float) -> str:
    """Boxes over the whole height from begin to end, those that touch as one; each is at least a unit wide."""
    merged: list[list[int]] = []
    for begin, end in sorted(spans):
        first = round(ACROSS * begin / most)
        last = max(round(ACROSS * end / most), first + 1)
        if merged and first <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return "".join(f"M{first},0H{last}V{UP}H{first}Z" for first, last in merged)


def line(x: Float64, y: Float64, most_x: float, most_y: float) -> str:
    """A line through points; breaks where y is not a number."""
    parts, pen = [], "M"
    for across, up in zip((ACROSS * x / most_x).tolist(), (UP - UP * y / most_y).tolist(), strict=True):
        if up != up:
            pen = "M"
            continue
        parts.append(f"{pen}{across:.0f},{up:.1f}")
        pen = "L"
    return "".join(parts)
