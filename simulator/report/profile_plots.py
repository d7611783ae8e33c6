"""Pictures of a cost profile: step time with what lies outside its valid range, its operators, and a device's roofs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from simulator.cost.breakdown import breakdown
from simulator.cost.model import Profile
from simulator.cost.roofs import Roofs
from simulator.cost.work import StepWork
from simulator.report.drawing import COLOURS as DISTINCT
from traces.atomic import replacing

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
LIVE = ("live", "decode_seqs", "sampled_tokens")
TOKENS = ("query_tokens", "padded_tokens", "expert_tokens")
CONTEXT = ("context_tokens", "decode_context")
"""Features that are one and the same where sequences decode, by which profiles are bounded."""
FAR_LIVE, FAR_TOKENS, FAR_CONTEXT = 512.0, 8192.0, 32768.0
MIDDLE_LIVE, MIDDLE_CONTEXT = 64.0, 4096.0
"""Where operators are drawn to, and what is held while the other one varies."""
DPI = 130
STACK = (*DISTINCT[1:], "#bbbbbb")
PROFILE: dict[str, Any] = {"lw": 2.2}
OUTSIDE: dict[str, Any] = {"lw": 2.2, "alpha": 0.3}
BANDWIDTH: dict[str, Any] = {"lw": 1.1, "ls": (0, (5, 2))}
COMPUTE: dict[str, Any] = {"lw": 1.1, "ls": (0, (1, 1.5))}


def save_profile_plot(profile: Profile, folder: Path) -> Path:
    """Write `<profile name>.png` into the folder, which is made if absent, and return its path."""
    path = _path(profile, folder)
    figure = _figure(profile)
    left, right = figure.subplots(1, 2)
    _over_query_tokens(left, profile)
    _over_context(right, profile)
    handles, labels = left.get_legend_handles_labels()
    handles.append(Line2D([], [], color="#555555", lw=1.6, ls=(0, (1, 1))))
    handles.append(Patch(color=SHADE, alpha=0.25))
    names = [*labels, "outside the valid range", "beyond this feature's range"]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=9, frameon=False)
    return _saved(figure, path)


def save_breakdown_plot(profile: Profile, folder: Path) -> Path:
    """Write `<profile name>-operators.png`: the largest operators of a decode step, stacked over batch and over context."""
    path = _path(profile, folder, "-operators")
    figure = _figure(profile)
    live, context = _reach(profile)
    batch, length = (min(most, usual) for most, usual in ((live, MIDDLE_LIVE), (context, MIDDLE_CONTEXT)))
    over_live, over_context = np.linspace(1.0, live, POINTS), np.linspace(1.0, context, POINTS)
    # one call, so that both panels name the same operators
    parts = breakdown(profile, StepWork.decode(np.r_[over_live, np.full(POINTS, batch)],
                                               np.r_[np.full(POINTS, length), over_context]))  # fmt: skip
    left, right = figure.subplots(1, 2)
    for axes, x, half in ((left, over_live, np.s_[:POINTS]), (right, over_context, np.s_[POINTS:])):
        axes.stackplot(x, *(1e3 * seconds[half] for seconds in parts.values()), colors=STACK[: len(parts)], lw=0)
        axes.set_xlim(x[0], x[-1])
        axes.set_ylim(bottom=0.0)
        axes.set_ylabel("step time (ms)")
        axes.grid(alpha=0.3, lw=0.6)
    left.set_xlabel(f"live sequences ({length:,.0f} tokens of context each)")
    right.set_xlabel(f"context tokens per sequence ({batch:,.0f} live)")
    handles = [Patch(color=colour) for colour in STACK[: len(parts)]]
    figure.legend(handles, list(parts), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return _saved(figure, path)


def save_roof_plot(profile: Profile, limits: Roofs, contexts: Sequence[float], folder: Path) -> Path:
    """Write `<profile name>-roof.png`: decode steps over batch at these contexts, beside bandwidth and compute roofs.

    The contexts are among those of `limits`. Steps outside the valid range are drawn faintly.
    """
    path = _path(profile, folder, "-roof")
    figure = _figure(profile, width=7.6)
    axes = figure.subplots()
    for colour, context in zip(DISTINCT[1:], contexts, strict=False):
        at = int(np.argmin(np.abs(limits.context_tokens[0] - context)))
        live, inside = limits.live[:, at], limits.inside[:, at]
        milliseconds = 1e3 * limits.seconds[:, at]
        label = f"{context / 1024:g}k" if context >= 1024 else f"{context:g}"
        axes.plot(live, np.where(inside, milliseconds, np.nan), color=colour, label=label, **PROFILE)
        axes.plot(live, milliseconds, color=colour, **OUTSIDE)
        axes.plot(live, 1e3 * limits.memory_s[:, at], color=colour, **BANDWIDTH)
        axes.plot(live, 1e3 * limits.compute_s[:, at], color=colour, **COMPUTE)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlim(limits.live[0, 0], limits.live[-1, 0])
    axes.set_ylim(bottom=125 * float(limits.seconds.min()))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("live sequences, one query token each")
    axes.set_ylabel("step time (ms)")
    axes.grid(alpha=0.3, lw=0.6)
    drawn = {
        "profile": PROFILE,
        "its bytes at full bandwidth": BANDWIDTH,
        "its operations at full speed": COMPUTE,
    } | ({} if limits.inside.all() else {"profile, outside the valid range": OUTSIDE})
    styles = [Line2D([], [], color="#4d4d4d", **style) for style in drawn.values()]
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, title="context tokens", loc="upper left", fontsize=9, frameon=False)
    figure.legend(styles, list(drawn), loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return _saved(figure, path)


def _saved(figure: Figure, path: Path) -> Path:
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=DPI)
    return path


def _path(profile: Profile, folder: Path, suffix: str = "") -> Path:
    """Name of a picture in the folder, which is made if absent."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.]+", "-", profile.name)
    return folder / f"{name}{suffix}.png"


def _figure(profile: Profile, width: float = 11.0) -> Figure:
    figure = Figure(figsize=(width, 4.6 if width > 8 else 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{profile.name}   ({profile.device})", fontsize=11)
    return figure


def _reach(profile: Profile) -> tuple[float, float]:
    """Most live sequences and context tokens to draw: what the profile was measured to, within the usual."""
    live, context = (
        max(min(profile.valid_range.get(_declared(profile, names), (0.0, usual))[1], usual), 2.0)
        for names, usual in ((LIVE, FAR_LIVE), (CONTEXT, FAR_CONTEXT))
    )
    return live, context


def _declared(profile: Profile, names: Sequence[str]) -> str:
    """The first of several features of decode steps that the profile bounds; the first of all if it bounds none."""
    return next((name for name in names if name in profile.valid_range), names[0])


def _over_query_tokens(axes: Axes, profile: Profile) -> None:
    feature = _declared(profile, TOKENS)
    highest = min(profile.valid_range.get(feature, (1.0, QUERY_TOKENS / BEYOND))[1], FAR_TOKENS) * BEYOND
    context = min(512.0, profile.valid_range.get(_declared(profile, CONTEXT), (0.0, np.inf))[1])
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
    _finish(axes, profile, feature, f"query tokens in the step (context {context:g} per sequence)")


def _over_context(axes: Axes, profile: Profile) -> None:
    feature = _declared(profile, CONTEXT)
    highest = min(profile.valid_range.get(feature, (0.0, CONTEXT_TOKENS / BEYOND))[1], FAR_CONTEXT) * BEYOND
    context = np.linspace(0.0, highest, POINTS)
    for rank, batch in enumerate(_batches(profile)):
        _line(axes, profile, context, StepWork.decode(batch, context), rank, f"{batch} live")
    axes.set_xlim(0.0, highest)
    _finish(axes, profile, feature, "context tokens per sequence (1 query token each)")


def _batches(profile: Profile) -> list[int]:
    """Live batches to draw: the ends of the valid range and their geometric mean."""
    lowest, highest = profile.valid_range.get(_declared(profile, LIVE), (1.0, MOST_LIVE))
    lowest, highest = max(lowest, 1.0), min(highest, FAR_LIVE)
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
