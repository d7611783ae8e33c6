"""Picture of a cost profile: step time over query tokens and over context, with what lies outside its valid range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from simulator.cost.model import Profile
from simulator.cost.work import StepWork

FloatArray = npt.NDArray[np.float64]

COLOURS = ("#3b6fb6", "#d1762c", "#4c9a5b")
SHADE = "#9a9a9a"
WIDTHS = (4.2, 2.8, 1.4)
"""Decreasing, so that curves that coincide all show."""
MOST_LIVE = 64.0
QUERY_TOKENS = 1024.0
CONTEXT_TOKENS = 16384.0
"""Ends of the axes where the profile bounds neither."""
BEYOND = 1.6
"""How far past the valid range the axes go."""
POINTS = 400


def save_profile_plot(profile: Profile, folder: Path) -> Path:
    """Write `<profile name>.png` into the folder, which is made if absent, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{profile.name.replace('/', '-').replace(' ', '-')}.png"
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{profile.name}   ({profile.device})", fontsize=11)
    _over_query_tokens(left, profile)
    _over_context(right, profile)
    handles, labels = left.get_legend_handles_labels()
    handles.append(Line2D([], [], color="#555555", lw=1.6, ls=(0, (1, 1))))
    handles.append(Patch(color=SHADE, alpha=0.25))
    names = [*labels, "outside the valid range", "beyond this feature's range"]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=9, frameon=False)
    figure.savefig(path, dpi=130)
    return path


def _over_query_tokens(axes: Axes, profile: Profile) -> None:
    highest = profile.valid_range.get("query_tokens", (1.0, QUERY_TOKENS / BEYOND))[1] * BEYOND
    context = min(512.0, profile.valid_range.get("context_tokens", (0.0, np.inf))[1])
    for rank, batch in enumerate(_batches(profile)):
        query = np.geomspace(batch, max(highest, 2.0 * batch), POINTS)
        work = StepWork(batch, query, batch * context, query * context)
        _line(axes, profile, query, work, rank, f"{batch} live")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(1.0, highest)
    _finish(axes, profile, "query_tokens", f"query tokens in the step (context {context:g} per sequence)")


def _over_context(axes: Axes, profile: Profile) -> None:
    highest = profile.valid_range.get("context_tokens", (0.0, CONTEXT_TOKENS / BEYOND))[1] * BEYOND
    context = np.linspace(0.0, highest, POINTS)
    for rank, batch in enumerate(_batches(profile)):
        _line(axes, profile, context, StepWork.decode(batch, context), rank, f"{batch} live")
    axes.set_xlim(0.0, highest)
    _finish(axes, profile, "context_tokens", "context tokens per sequence (1 query token each)")


def _batches(profile: Profile) -> list[int]:
    """Live batches to draw: the ends of the valid range and their geometric mean."""
    lowest, highest = profile.valid_range.get("live", (1.0, MOST_LIVE))
    lowest = max(lowest, 1.0)
    return sorted({round(lowest), round((lowest * highest) ** 0.5), round(highest)})


def _line(axes: Axes, profile: Profile, x: FloatArray, work: StepWork, rank: int, label: str) -> None:
    """One curve, solid inside the valid range and dotted outside."""
    milliseconds = 1e3 * profile.step_time_s(work)
    outside = profile.outside(work)
    colour, width = COLOURS[rank], WIDTHS[rank]
    axes.plot(x, np.where(outside, np.nan, milliseconds), color=colour, lw=width, label=label, solid_capstyle="butt")
    axes.plot(x, np.where(outside, milliseconds, np.nan), color=colour, lw=width, ls=(0, (1, 1)))


def _finish(axes: Axes, profile: Profile, feature: str, label: str) -> None:
    """Shade what lies outside the feature's own range, and label the axes."""
    left, right = axes.get_xlim()
    if feature in profile.valid_range:
        lowest, highest = profile.valid_range[feature]
        for start, end in ((left, lowest), (highest, right)):
            if start < end:
                axes.axvspan(start, end, color=SHADE, alpha=0.25, lw=0)
    else:
        axes.set_title(f"{feature}: no range declared", fontsize=9, loc="right")
    axes.set_xlim(left, right)
    if axes.get_yscale() == "linear":
        axes.set_ylim(0.0, 1.1 * axes.get_ylim()[1])
    axes.set_xlabel(label)
    axes.set_ylabel("step time (ms)")
    axes.grid(alpha=0.3, lw=0.6, which="both")
