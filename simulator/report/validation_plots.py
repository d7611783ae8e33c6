"""Picture of a measured run beside its simulation: throughput and requests over time, and latency distributions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from simulator.report.drawing import COLOURS, DPI, NOTE
from traces.atomic import replacing

Float64 = npt.NDArray[np.float64]

OVER_TIME = {
    "prompt_tokens_per_s": "prompt tokens per second",
    "output_tokens_per_s": "output tokens per second",
    "running": "requests running",
    "waiting": "requests waiting",
}
LATENCIES = {"ttft_s": "time to first token (s)", "tpot_s": "time per output token (ms)", "latency_s": "latency (s)"}
MEASURED: dict[str, Any] = {"color": COLOURS[0], "lw": 2.2}
SIMULATED: dict[str, Any] = {"color": COLOURS[2], "lw": 1.2}
"""The simulation is drawn last and thinner, so that lines that coincide both show."""


def save_validation_plot(
    measured: Mapping[str, Float64], simulated: Mapping[str, Float64], title: str, note: str, path: Path
) -> None:
    """Write the picture to `path`, replacing it as a whole.

    `note` is a second line of the title. Each side maps `t_s` and the keys of OVER_TIME to values a tick, and the keys of
    LATENCIES to a value a request (s). Where requests running or waiting were not measured, `in_flight` is drawn in place
    of `running`. Raises InputError where the file cannot be written.
    """
    style: Any = {"text.parse_math": False, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure = _figure(measured, simulated, title, note)
        with replacing(path) as file:
            figure.savefig(file, format="png", dpi=DPI, pil_kwargs={"compress_level": 3})


def _figure(measured: Mapping[str, Float64], simulated: Mapping[str, Float64], title: str, note: str) -> Figure:
    figure = Figure(figsize=(11.0, 9.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}\n{note}" if note else title, fontsize=11)
    grid = figure.add_gridspec(3, 6)
    end_s = max(float(measured["t_s"][-1]), float(simulated["t_s"][-1]))
    for place, (name, label) in enumerate(OVER_TIME.items()):
        axes = figure.add_subplot(grid[place // 2, 3 * (place % 2) : 3 * (place % 2) + 3])
        shown = "in_flight" if name == "running" and name not in measured else name
        _over_time(axes, measured, simulated, shown, "requests in flight" if shown == "in_flight" else label)
        axes.set_xlim(0.0, end_s)
    for place, (name, label) in enumerate(LATENCIES.items()):
        axes = figure.add_subplot(grid[2, 2 * place : 2 * place + 2])
        _distribution(axes, measured[name], simulated[name], 1e3 if label.endswith("(ms)") else 1.0)
        axes.set_xlabel(label)
        axes.set_ylabel("share of requests" if place == 0 else "")
    figure.legend(
        [Line2D([], [], **MEASURED), Line2D([], [], **SIMULATED)], ["measured", "simulated"],
        loc="outside lower center", ncols=2, frameon=False,
    )  # fmt: skip
    return figure


def _over_time(
    axes: Axes, measured: Mapping[str, Float64], simulated: Mapping[str, Float64], name: str, label: str
) -> None:
    """Rates as steps over the tick that they are the mean of; counts as lines through the ticks."""
    for side, style in ((measured, MEASURED), (simulated, SIMULATED)):
        if name in side:
            rate = name.endswith("_per_s")
            x = np.concatenate([[0.0], side["t_s"]])
            y = np.concatenate([side[name][:1] if rate else [0.0], side[name]])
            axes.plot(x, y, drawstyle="steps-pre" if rate else "default", **style)
    if name not in measured:
        axes.text(0.98, 0.95, "not measured", transform=axes.transAxes, ha="right", va="top", color=NOTE, fontsize=9)
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("time (s)")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3, lw=0.6)


def _distribution(axes: Axes, measured: Float64, simulated: Float64, unit: float) -> None:
    """Share of requests at or below each latency."""
    for values, style in ((measured, MEASURED), (simulated, SIMULATED)):
        if values.size:
            share = np.arange(1, values.size + 1) / values.size
            axes.plot(unit * np.sort(values), share, drawstyle="steps-post", **style)
    axes.set_xlim(left=0.0)
    axes.set_ylim(0.0, 1.02)
    axes.grid(alpha=0.3, lw=0.6)
