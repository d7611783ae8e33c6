"""A figure of an analysis: what was found above, what it rests on below; what notebooks share."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from simulator.report.drawing import NOTE

STYLE: Any = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False, "figure.dpi": 72,
}  # fmt: skip
LETTERS_PER_INCH = 10.3
"""Of a finding, in its size."""


def panels(
    width: float,
    height: float,
    columns: int = 1,
    left: float = 0.9,
    top: float = 1.0,
    bottom: float = 1.0,
    between: float = 0.28,
    **more: Any,
) -> Any:
    """Make a figure of so many inches and axes side by side within these margins, as `plt.subplots` returns them."""
    plt.rcParams.update(STYLE)
    margins = {"left": left / width, "right": 1 - 0.3 / width, "top": 1 - top / height, "bottom": bottom / height}
    return plt.subplots(figsize=(width, height), ncols=columns, gridspec_kw={**margins, "wspace": between}, **more)


def finish(figure: Figure, finding: str, explained: str, *notes: str) -> str:
    """Write the finding above the axes and what it rests on below; returns it, for whoever reads without pictures."""
    width, height = figure.get_size_inches()
    left, lines = 0.15 / width, textwrap.wrap(finding, int(LETTERS_PER_INCH * width))
    figure.text(left, 1 - 0.15 / height, "\n".join(lines), fontsize=13, va="top", linespacing=1.25)
    figure.text(left, 1 - (0.21 + 0.25 * len(lines)) / height, explained, color=NOTE, va="top", linespacing=1.4)
    figure.text(left, 0.1 / height, "\n".join(notes), fontsize=8, color=NOTE, va="bottom", linespacing=1.4)
    return finding


def draw_map(
    axes: Axes, speedup: npt.NDArray[np.float64], words: npt.NDArray[Any], columns: Sequence[Any], rows: Sequence[Any],
    best: Iterable[tuple[int, int]],
) -> None:  # fmt: skip
    """Colour cells by speed-up, blue where faster and red where slower, write `words` into them and frame the best."""
    shade = np.log2(speedup)
    reach = max(float(np.abs(shade).max()), 0.1)
    axes.pcolormesh(shade, cmap="RdBu", vmin=-1.15 * reach, vmax=1.15 * reach, edgecolor="white", lw=1.5)
    for (row, column), word in np.ndenumerate(words):
        colour = "white" if abs(shade[row, column]) > 0.6 * reach else "black"
        axes.text(column + 0.5, row + 0.5, word, ha="center", va="center", color=colour, fontsize=9)
    for row, column in best:
        axes.add_patch(Rectangle((column, row), 1, 1, fill=False, ec="black", lw=2.5, zorder=3, clip_on=False))
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
