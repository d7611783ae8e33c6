"""Picture of the simulator held to the clock: makespans by policy, and the error of single steps over batch and context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from simulator.report.drawing import COLOURS, DPI
from traces.atomic import replacing

Float64 = npt.NDArray[np.float64]
Run = tuple[Mapping[str, Any], Float64, Float64, Float64, Float64]

BINS = 12
LEAST_STEPS = 5
BAND = 0.05


def save_truth_plot(runs: Sequence[Run], device: str, path: Path) -> None:
    """Write the picture. Of each run: its row, and of its steps live sequences, context, measured and simulated seconds."""
    style: Any = {"text.parse_math": False, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(12.5, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(f"Simulated against measured decoding on {device}", fontsize=11)
        bars, over_live, over_context = figure.subplots(1, 3, width_ratios=(1.3, 1.0, 1.0))
        _makespans(bars, [row for row, *_ in runs])
        live, context, measured, simulated = (np.concatenate([run[i] for run in runs]) for i in range(1, 5))
        error = simulated / measured - 1
        _errors(over_live, live, error, "live sequences of the step")
        _errors(over_context, context, error, "context (tokens, mean of the batch)")
        figure.legend(*bars.get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False, fontsize=9)
        with replacing(path) as file:
            figure.savefig(file, format="png", dpi=DPI)


def _makespans(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    place = np.arange(len(rows))
    for side, shift, colour in (("measured_s", -0.2, COLOURS[0]), ("simulated_s", 0.2, COLOURS[2])):
        axes.barh(place + shift, [row[side] for row in rows], 0.38, color=colour, label=side.removesuffix("_s"))
    for at, row in enumerate(rows):
        longest = max(row["measured_s"], row["simulated_s"])
        axes.annotate(
            f"{row['error']:+.1%}", (longest, at), (4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(
        place, [f"{row['policy']}, {row['live_batch']} × {row['context_tokens']:,}" for row in rows], fontsize=8
    )
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("makespan (s)")
    axes.set_title("policy, live batch × mean context", fontsize=10)


def _errors(axes: Axes, x: Float64, error: Float64, label: str) -> None:
    """Median and middle four fifths of the signed error, by logarithmic bins of x."""
    edges = np.geomspace(x.min(), x.max() * 1.0001, BINS + 1) if x.max() > x.min() else np.array([x.min(), x.min() + 1])
    which = np.searchsorted(edges, x, side="right") - 1
    used = [bin_ for bin_ in range(edges.size - 1) if (which == bin_).sum() >= LEAST_STEPS]
    middle = [float(np.median(x[which == bin_])) for bin_ in used]
    low, median, high = np.array([np.quantile(error[which == bin_], [0.1, 0.5, 0.9]) for bin_ in used]).reshape(-1, 3).T
    axes.axhspan(-BAND, BAND, color="#999999", alpha=0.15, lw=0)
    axes.axhline(0.0, color="#555555", lw=0.8)
    axes.fill_between(middle, low, high, color=COLOURS[2], alpha=0.25, lw=0)
    axes.plot(middle, median, color=COLOURS[2], marker="o", ms=3.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=2 if x.max() < 64 * x.min() else 4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(label)
    axes.set_title("error of single steps: median, middle 80 %", fontsize=10)
