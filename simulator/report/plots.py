"""Pictures of a replay: live sequences over time, makespan by policy, and what the drafter gets accepted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator

from simulator.report.drawing import (
    COLOURS,
    DPI,
    FAINT,
    INCH_PER_LETTER,
    NOTE,
    footer,
    in_seconds,
    line_style,
    name_bars,
    new_figure,
    panel,
    replayed,
    short,
    trusted,
)
from simulator.report.series import (
    LiveBatch,
    accepted_by_emitted,
    accepted_by_position,
    last_rl_step,
    live_batches,
    tail_start_s,
    thinned,
)
from simulator.report.system_plots import gpu_time, rl_steps
from simulator.results import Result
from traces.atomic import replacing

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Bounds = npt.NDArray[np.floating[Any]]

TAIL = 0.1
"""The tail begins where fewer than this share of the largest live batch is left."""


def save_plots(result: Result, folder: Path) -> list[Path]:
    """Write live_batch.png, makespan.png and acceptance.png into the folder, beside systems rl_steps.png and gpu_time.png, and
    return their paths; live_batch.png only where every decode step was kept.

    Each file is replaced as a whole. Raises InputError where the folder cannot be written to.
    """
    style: Any = {"text.parse_math": False, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    pictures = {"live_batch": _live_batch, "makespan": _makespan, "acceptance": _acceptance_profile}
    if result.steps.num_rows < int(result.runs["decode_steps"].to_numpy().sum()):
        del pictures["live_batch"]
    if result.about["scenario"]["systems"]:
        pictures |= {"rl_steps": rl_steps, "gpu_time": gpu_time}
    paths = []
    with mpl.rc_context(style):
        for name, draw in pictures.items():
            figure = draw(result)
            paths.append(folder / f"{name}.png")
            with replacing(paths[-1]) as file:
                figure.savefig(file, format="png", dpi=DPI, pil_kwargs={"compress_level": 3})
    return paths


def _live_batch(result: Result) -> Figure:
    """Draw every policy's live batch; below it the last RL step's again, cut at the tail."""
    series = live_batches(result.steps)
    several = series[0].ends_s.size > 1
    labels = [f"{short(s.policy)}   {in_seconds(s.ends_s[-1])}" for s in series]
    last = [last_rl_step(s) for s in series]
    threshold = TAIL * max(int(s.live.max()) for s in last)
    has_tail = threshold >= 2.0
    right = 0.65 + INCH_PER_LETTER * max(map(len, [*labels, "system, makespan (dot)"]))
    figure = new_figure(8.2 + right, max(7.2 if has_tail else 4.2, 1.4 + 0.185 * len(series)))
    axes = panel(figure, 0.8, right, 3.95 if has_tail else 1.05, 0.4)
    most = _draw_live(axes, series)
    end_s = max(s.ends_s[-1] for s in series)
    axes.set_xlim(0.0, 1.01 * end_s)
    axes.set_ylim(0.0, 1.12 * most)
    dotted = ", RL steps end to end (dotted: one ends)" if several else ""
    axes.set_title(f"Live sequences over simulated time{dotted}", loc="left")
    axes.legend(
        [Line2D([], [], **line_style(rank, len(series)), marker="o", ms=4.5) for rank in range(len(series))], labels,
        loc="upper left", bbox_to_anchor=(1.01, 1.0), title="system, makespan (dot)", alignment="left", frameon=False,
        fontsize=9, title_fontsize=9, borderaxespad=0.0,
    )  # fmt: skip
    if has_tail:
        start_s = min(tail_start_s(s, threshold) for s in last)
        if not several:
            corner = (start_s, 0.0)
            axes.add_patch(Rectangle(corner, end_s - start_s, threshold, fc=FAINT, ec="#999999", lw=0.6, zorder=0))
        below = panel(figure, 0.8, right, 1.05, figure.get_figheight() - 3.1)
        _draw_live(below, last)
        end_s = max(s.ends_s[-1] for s in last)
        below.set_xlim(start_s, end_s + 0.01 * (end_s - start_s))
        below.set_ylim(0.0, threshold)
        where = "last RL step, on its own clock" if several else "grey above"
        below.set_title(f"The tail ({where}): below {TAIL:.0%} of the largest live batch", loc="left", fontsize=10)
    footer(figure, replayed(result), trusted(result))
    return figure


def _draw_live(axes: Axes, series: Sequence[LiveBatch]) -> int:
    """One line a policy, broken where an RL step ends; returns the largest live batch."""
    most = max(int(s.live.max()) for s in series)
    for rank, one in enumerate(series):
        style = line_style(rank, len(series))
        time_s, live = thinned(one.time_s, one.live)
        breaks_s = np.repeat(one.ends_s[:-1], 2)
        at = np.searchsorted(time_s, breaks_s)
        live_or_break = np.insert(live.astype(np.float64), at, np.tile([0.0, np.nan], len(at) // 2))
        axes.plot(np.insert(time_s, at, breaks_s), live_or_break, drawstyle="steps-post", **style)
        axes.vlines(one.ends_s[:-1], 0, 1.1 * most, color=style["color"], lw=0.8, ls=(0, (1, 1.5)))
        axes.plot(one.ends_s[-1], 0, "o", ms=3.6 + 1.4 * style["lw"], color=style["color"], clip_on=False, zorder=5)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("simulated time (s)")
    axes.set_ylabel("live sequences")
    axes.grid(alpha=0.3, lw=0.6)
    return most


def _makespan(result: Result) -> Figure:
    """Draw a bar a policy, split into the time before and the time of the stragglers."""
    runs = result.runs
    names = [short(name) for name in runs["system"].to_pylist()]
    makespan_s, straggler_s, speedup = (runs[name].to_numpy() for name in ("makespan_s", "straggler_s", "speedup"))
    others_s = makespan_s - straggler_s
    left, right = 0.35 + INCH_PER_LETTER * max(map(len, names)), 1.9
    figure = new_figure(left + right + 5.6, 1.85 + 0.4 * len(names))
    axes = panel(figure, left, right, 1.1, 0.7)
    at = np.arange(len(names))
    colours = [COLOURS[rank % len(COLOURS)] for rank in range(len(names))]
    axes.barh(at, others_s, 0.66, color=colours)
    axes.barh(at, straggler_s, 0.66, left=others_s, color="white", edgecolor=colours, hatch="/////", lw=1)
    low_s, high_s = (runs[f"makespan_{end}_s"].to_numpy() for end in ("low", "high"))
    axes.errorbar(
        makespan_s, at, xerr=[makespan_s - low_s, high_s - makespan_s], fmt="none", ecolor="black", lw=1, capsize=3
    )
    notes = [
        f"{in_seconds(end_s)}   {f'{speedup[rank]:.2f}x' if rank else 'baseline'}"
        for rank, end_s in enumerate(makespan_s)
    ]
    name_bars(axes, names, notes, high_s, 1.003 * float(high_s.max()))
    count = runs["rl_steps"][0].as_py()
    axes.set_xlabel("makespan (s)" if count == 1 else f"makespan, summed over {count} RL steps (s)")
    over = f", and speed-up over the baseline “{names[0]}”" if len(names) > 1 else ""
    axes.set_title(f"Makespan{over}", loc="left", pad=24)
    axes.legend(
        [Patch(fc="#888888"), Patch(fc="white", ec="#888888", hatch="/////"), Line2D([], [], color="black", lw=1)],
        ["other rollouts live too", "only stragglers live (done in the last tenth)", "90 % of true ones"],
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False, fontsize=9, handlelength=1.6, borderpad=0,
    )  # fmt: skip
    footer(figure, replayed(result), trusted(result))
    return figure


def _acceptance_profile(result: Result) -> Figure:
    """Draw the drafter alone: by position in the draft, and by how far the rollout is."""
    drafter = result.runs["drafter"][0].as_py()
    figure = new_figure(11.0, 4.7)
    figure.text(0.75 / 11, 1 - 0.35 / 4.7, f"Drafter {drafter}", fontsize=11)
    footer(figure, f"trace {Path(result.about['trace']['path']).stem}")
    position, probability, drafts = accepted_by_position(result.acceptance)
    if not position.size:
        figure.text(0.5, 0.5, "nothing was drafted, so nothing accepted", ha="center", color=NOTE, fontsize=14)
        return figure
    figure.text(0.75 / 11, 1 - 0.6 / 4.7, "budget unlimited, over all positions of all rollouts", color=NOTE)
    left = panel(figure, 0.75, 6.35, 0.95, 0.8)
    _count_bars(left, position - 0.5, position + 0.5, drafts, "drafts that reach it (bars)")
    left.plot(position, probability, color=COLOURS[1], marker="o", ms=4, lw=1.8)
    left.set_xlim(0.5, position[-1] + 0.5)
    left.set_ylim(0.0, 1.0)
    left.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    left.set_xlabel("position in the draft (tokens)")
    left.set_ylabel("probability that the token is accepted", color=COLOURS[1])
    right = panel(figure, 6.2, 0.9, 0.95, 0.8)
    tokens, drafted, accepted, positions = accepted_by_emitted(result.acceptance)
    edges = tokens.astype(np.float64)
    _count_bars(right, edges[:-1], edges[1:], positions, "positions of rollouts (bars)")
    for values, colour, label in ((drafted, COLOURS[2], "drafted"), (accepted, COLOURS[1], "accepted")):
        right.stairs(values, edges, color=colour, lw=2, label=label, baseline=None)
    right.set_xscale("log", base=2)
    ticks = 4 ** np.arange(int(np.log2(edges[-1]) // 2) + 1)
    right.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    right.set_xlim(1, edges[-1])
    right.set_ylim(0.0, 1.18 * float(np.nanmax(drafted)))
    right.set_xlabel("tokens emitted so far (log scale)")
    right.set_ylabel("tokens per decode step begun there")
    right.legend(loc="upper left", frameon=False, ncols=2)
    return figure


def _count_bars(axes: Axes, low: Bounds, high: Bounds, count: Int64, label: str) -> None:
    """Faint bars behind the lines, on an axis of their own at the right."""
    behind = axes.twinx()
    behind.bar(low, count, high - low, align="edge", color="#eeeeee", edgecolor="white", lw=0.5)
    behind.set_ylabel(label, color=NOTE)
    behind.tick_params(axis="y", colors=NOTE)
    behind.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
