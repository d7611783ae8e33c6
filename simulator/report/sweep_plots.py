"""Pictures of a sweep: what time costs in verified tokens, and what each key does to what is sought."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullFormatter, StrMethodFormatter

from simulator.report.drawing import COLOURS, DPI, INCH_PER_LETTER, NOTE, footer, new_figure, panel, short
from traces.atomic import replacing

Float64 = npt.NDArray[np.float64]
Rows = list[dict[str, Any]]

WIDE = 8
"""Numbers of which the largest is so many times the smallest are drawn on a log scale."""
PANELS = 6
TICKS = 8


@dataclass(frozen=True)
class Drawn:
    """What is drawn of a sweep: rows of `cells.parquet` that are done, the columns that were varied, and what is sought."""

    rows: Rows
    columns: Sequence[str]
    sought: str
    largest: bool
    told: str

    def values(self, column: str) -> Float64:
        """A column of numbers."""
        return np.array([row[column] for row in self.rows], np.float64)


def save_sweep_plots(drawn: Drawn, folder: Path) -> list[Path]:
    """Write the PNGs, where there is anything to draw; returns their paths."""
    if not drawn.rows:
        return []
    paths = []
    for name, figure in (("frontier", frontier(drawn)), ("keys", keys(drawn))):
        paths.append(folder / f"{name}.png")
        with replacing(paths[-1]) as file:
            figure.savefig(file, format="png", dpi=DPI)
    return paths


def frontier(drawn: Drawn) -> Figure:
    """Draw a point a cell: seconds against tokens that were drafted and verified, and those that nothing beats in both."""
    time = drawn.sought if drawn.sought.endswith("_s") and not drawn.sought.endswith("per_s") else "makespan_s"
    names, which, title = _colours(drawn)
    letters = max([len(short(name)) for name in names] + [len(title) + 2, 12])
    right = 0.65 + INCH_PER_LETTER * letters
    figure = new_figure(7.4 + right, 4.6)
    axes = panel(figure, 0.85, right, 0.95, 0.45)
    tokens, seconds = drawn.values("drafted_tokens"), drawn.values(time)
    for number, name in enumerate(names):
        mine = which == number
        axes.plot(tokens[mine], seconds[mine], "o", ms=4.5, mew=0, alpha=0.65, color=_colour(number), label=short(name))
    best = pareto(tokens, seconds)
    axes.plot(tokens[best], seconds[best], color="black", lw=1.1, marker="o", ms=7, mfc="none", mew=0.9, label="frontier",
              drawstyle="steps-post")  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("tokens drafted and verified")
    axes.set_ylabel(f"{time.removesuffix('_s').replace('_', ' ')}, s")
    axes.set_title("What time costs in verified tokens", loc="left")
    axes.grid(alpha=0.3, lw=0.6)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), title=title, alignment="left", frameon=False, fontsize=9,
                title_fontsize=9, borderaxespad=0.0)  # fmt: skip
    footer(figure, drawn.told)
    return figure


def keys(drawn: Drawn) -> Figure:
    """Draw a panel a key: what is sought in every cell, and the best of each value."""
    columns = drawn.columns[:PANELS]
    across = min(len(columns), 3)
    down = -(-len(columns) // across)
    width, height = 3.9, 3.1
    figure = new_figure(0.5 + width * across, 0.55 + height * down + 0.35)
    for number, column in enumerate(columns):
        row, place = divmod(number, across)
        left, bottom = 0.5 + width * place + 0.35, 0.55 + height * (down - 1 - row) + 0.6
        whole = figure.get_size_inches()
        axes = panel(figure, left, whole[0] - left - width + 0.55, bottom, whole[1] - bottom - height + 0.75)
        _key(axes, drawn, column)
        if place == 0:
            axes.set_ylabel(drawn.sought)
    figure.text(
        0.2 / figure.get_size_inches()[0], 1 - 0.27 / figure.get_size_inches()[1], "What each key does", fontsize=12
    )
    more = len(drawn.columns) - len(columns)
    footer(
        figure,
        f"a point a cell; large ones are the best of each value, where these are few{f'; {more} more keys' if more else ''}",
        drawn.told,
    )
    return figure


def pareto(x: Float64, y: Float64) -> npt.NDArray[np.int64]:
    """Return the indices of points that no other is at most as large as in both, by x; of equals the first."""
    found, least = list[int](), np.inf
    for index in np.lexsort((y, x)).tolist():
        if y[index] < least:
            found.append(index)
            least = float(y[index])
    return np.array(found, np.int64)


def _colours(drawn: Drawn) -> tuple[list[str], npt.NDArray[np.int64], str]:
    """What colours tell apart: (names, the name of each row, their heading): policies, else the first key with few values."""
    for column in dict.fromkeys(
        [*(c for c in ("policy", "system") if len({row[c] for row in drawn.rows}) > 1), *drawn.columns]
    ):
        each = [_text(row[column]) for row in drawn.rows]
        names = list(dict.fromkeys(each))
        if len(names) <= len(COLOURS):
            return names, np.array([names.index(one) for one in each]), column
    return ["cells"], np.zeros(len(drawn.rows), np.int64), ""


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _key(axes: Axes, drawn: Drawn, column: str) -> None:
    """One panel."""
    given, sought = [row[column] for row in drawn.rows], drawn.values(drawn.sought)
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in given)
    values = list(dict.fromkeys(sorted(given) if numbers else map(_text, given)))
    at: Float64 = np.array(given if numbers else [values.index(_text(one)) for one in given], np.float64)
    places, ends = np.unique(at), np.max if drawn.largest else np.min
    few = places.size <= TICKS or not numbers
    axes.plot(at, sought, "o", ms=3.5, mew=0, alpha=0.35 if few else 0.6, color=NOTE if few else COLOURS[1])
    if few:
        best = [ends(sought[at == place]) for place in places]
        axes.plot(places, best, ls="-" if numbers else "", marker="o", ms=5, color=COLOURS[1], lw=1.6)
    if numbers:
        _scale(axes, places)
    else:
        shown = [text if len(text) <= 14 else f"{text[:12]}…" for text in values]
        axes.set_xticks(
            range(len(values)),
            shown,
            rotation=0 if len(values) <= 3 else 25,
            ha="center" if len(values) <= 3 else "right",
        )
        axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_xlabel(column)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3, lw=0.6)


def _scale(axes: Axes, places: Float64) -> None:
    """Ticks where values are, as long as they are few."""
    wide = places[0] > 0 and places[-1] >= WIDE * places[0]
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if places.size <= TICKS:
        axes.xaxis.set_major_locator(FixedLocator(places.tolist()))
    if places.size <= TICKS or wide:
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _text(value: Any) -> str:
    return str(value)
