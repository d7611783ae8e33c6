"""What all pictures of a result have in common: colours, lines, margins in inches, names, the footer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simulator.results import Result

Float64 = npt.NDArray[np.float64]

COLOURS = ("#4d4d4d", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's palette, told apart with any colour vision; the first, for the baseline, is grey."""
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
"""Line styles, one for each time round the colours."""
FAINT = "#dddddd"
NOTE = "#666666"
DPI = 150
LONGEST_NAME = 34
INCH_PER_LETTER = 0.08


def line_style(rank: int, of: int) -> dict[str, Any]:
    """Style of a policy's line; widths decrease, so that lines that coincide all show."""
    dashes = DASHES[rank // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[rank % len(COLOURS)], "ls": dashes, "lw": 2.6 - 1.4 * rank / max(of - 1, 1)}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def panel(figure: Figure, left: float, right: float, bottom: float, top: float) -> Axes:
    """Axes with these margins in inches: no layout engine, which would draw everything twice."""
    width, height = figure.get_size_inches()
    return figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))


def footer(figure: Figure, *lines: str) -> None:
    """Small lines at the bottom left."""
    width, height = figure.get_size_inches()
    note = "\n".join(filter(None, lines))
    figure.text(0.12 / width, 0.12 / height, note, fontsize=8, color=NOTE, va="bottom", linespacing=1.4)


def name_bars(axes: Axes, names: Sequence[str], notes: Sequence[str], ends: Float64, most: float) -> None:
    """Label horizontal bars, the first on top: a name before each, a note after its end; the axis goes up to `most`."""
    for rank, (note, end) in enumerate(zip(notes, ends, strict=True)):
        axes.annotate(note, (end, rank), (6, 0), textcoords="offset points", va="center", annotation_clip=False)
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0.0, most)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3, lw=0.6)
    axes.set_axisbelow(True)


def replayed(result: Result) -> str:
    """What was replayed on what."""
    about = result.about
    replicas, slots = (about["scenario"]["engine"][key] for key in ("replicas", "max_num_seqs"))
    engine = f"{replicas} replica{'s' if replicas > 1 else ''} × {slots} sequences"
    return f"trace {Path(about['trace']['path']).stem}   ·   profile {about['profile']['name']}   ·   {engine}"


def trusted(result: Result) -> str:
    """How much of the time rests on extrapolated costs; empty if none of it does."""
    shares = result.runs["extrapolated_fraction"].to_numpy()
    low, high = round(100 * shares.min()), round(100 * shares.max())
    share = "< 1" if high == 0 else f"{high}" if low == high else f"{low} to {high}"
    return f"{share} % of decoding time lies outside the profile's valid range" if shares.max() > 0 else ""


def in_seconds(value: float) -> str:
    """Seconds, in words."""
    return f"{value:,.1f} s" if value >= 10 else f"{value:.3g} s"


def short(name: str | None) -> str:
    """A name that fits beside an axis."""
    name, half = str(name), LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"
