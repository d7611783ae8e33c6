"""Pictures of systems: seconds of each RL step, and what GPU time a trained sample takes."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from simulator.report.drawing import (
    COLOURS,
    INCH_PER_LETTER,
    footer,
    line_style,
    name_bars,
    new_figure,
    panel,
    replayed,
    short,
    trusted,
)
from simulator.results import Result

WIDE = 8
"""Where the longest RL step takes so many times the shortest, seconds are drawn on a log scale."""
PARTS = {"decoding": COLOURS[1], "training": COLOURS[3], "idle": "#cccccc"}


def rl_steps(result: Result) -> Figure:
    """Draw the seconds between updates, a line a system."""
    names = result.runs["system"].to_pylist()
    right = 0.65 + INCH_PER_LETTER * max(len(short(name)) for name in [*names, "system"])
    figure = new_figure(7.6 + right, max(4.2, 1.4 + 0.2 * len(names)))
    axes = panel(figure, 0.8, right, 0.95, 0.4)
    rows = result.rl_steps.to_pandas()
    for rank, name in enumerate(names):
        mine = rows[rows["system"] == name]
        style = line_style(rank, len(names))
        axes.plot(mine["step"], mine["step_s"], marker="o", ms=3.5, label=short(name), **style)
    least, most = float(rows["step_s"].min()), float(rows["step_s"].max())
    if least > 0 and most > WIDE * least:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(0.0, 1.08 * most)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlabel("RL step")
    axes.set_ylabel("seconds from update to update")
    axes.set_title("Time of each RL step", loc="left")
    axes.grid(alpha=0.3, lw=0.6)
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.0), title="system", alignment="left", frameon=False, fontsize=9,
        title_fontsize=9, borderaxespad=0.0,
    )  # fmt: skip
    footer(figure, replayed(result), trusted(result))
    return figure


def gpu_time(result: Result) -> Figure:
    """Draw a bar a system: GPU-seconds of decoding, training and idleness for each sample trained on."""
    runs = result.runs.to_pandas()
    samples = (runs["samples_per_s"] * runs["run_s"]).to_numpy()
    whole = (runs["gpus"] * runs["run_s"]).to_numpy()
    training, idle = runs["train_gpu_s"].to_numpy(), runs["idle_gpu_s"].to_numpy()
    parts = dict(zip(PARTS, (whole - training - idle, training, idle), strict=True))
    names = [short(name) for name in runs["system"]]
    left, right = 0.35 + INCH_PER_LETTER * max(map(len, names)), 1.9
    figure = new_figure(left + right + 5.6, 1.85 + 0.3 * len(names))
    axes = panel(figure, left, right, 1.1, 0.7)
    at, before = np.arange(len(names)), np.zeros(len(names))
    for part, gpu_s in parts.items():
        axes.barh(at, gpu_s / samples, 0.66, left=before, color=PARTS[part], label=part)
        before = before + gpu_s / samples
    notes = [f"{speedup:.2f}x" if rank else "baseline" for rank, speedup in enumerate(runs["gpu_speedup"])]
    name_bars(axes, names, notes, before, 1.02 * float(before.max()))
    axes.set_xlabel("GPU-seconds a sample trained on")
    axes.set_title("Where the GPUs' time goes", loc="left", pad=24)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False, fontsize=9, handlelength=1.6, borderpad=0
    )
    footer(figure, replayed(result), trusted(result))
    return figure
