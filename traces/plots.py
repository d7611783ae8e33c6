"""Pictures of a trace's response lengths: a histogram, and the share of rollouts still live."""

from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from traces.atomic import replacing
from traces.trace import Trace

MAX_LINES = 5
MAX_BINS = 40


def plot_lengths(trace: Trace) -> Figure:
    """Histogram of response lengths over all steps, and their survival by step on log-log axes; lengths in tokens."""
    figure = Figure(figsize=(11, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    histogram, survival = figure.subplots(1, 2)
    _histogram(histogram, trace.output_tokens)
    _survival(survival, trace)
    figure.suptitle(f"{Path(trace.source).name}: {len(trace):,} rollouts, {int(trace.offsets[-1]):,} response tokens")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG, atomically."""
    with replacing(path) as file:
        figure.savefig(file, format="png")


def live_share(lengths: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """Share of rollouts longer than each distinct length, both ascending in length; the last share is 0."""
    values, counts = np.unique(lengths, return_counts=True)
    return values, 1.0 - np.cumsum(counts) / len(lengths)


def _histogram(axes: Axes, lengths: npt.NDArray[np.int32]) -> None:
    shortest, longest = int(lengths.min()), int(lengths.max())
    bins = min(MAX_BINS, 2 * int(np.ceil(np.sqrt(len(lengths)))))
    edges = np.unique(np.rint(np.geomspace(shortest, longest + 1, bins + 1)))
    if len(edges) < 2:
        edges = np.array([shortest, shortest + 1])
    axes.hist(lengths, bins=list(edges), color="#4c78a8")
    for name, share, style in (("median", 0.5, "-"), ("p90", 0.9, "--"), ("p99", 0.99, ":")):
        value = float(np.quantile(lengths, share))
        axes.axvline(value, color="black", linestyle=style, linewidth=1.2, label=f"{name} {value:,.0f}")
    axes.set_xscale("log")
    axes.set_xlabel("response length (tokens, log scale)")
    axes.set_ylabel("rollouts per bin")
    axes.set_title("Response lengths, all steps")
    axes.legend(frameon=False)
    _plain_ticks(axes)


def _survival(axes: Axes, trace: Trace) -> None:
    steps = trace.steps
    if len(steps) > MAX_LINES:
        steps = [steps[index] for index in np.linspace(0, len(steps) - 1, MAX_LINES).astype(int)]
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(steps)))
    smallest = 1.0
    for step, colour in zip(steps, colours, strict=True):
        lengths = trace.output_tokens[trace.step == step]
        values, live = live_share(lengths)
        axes.step(
            np.concatenate([[1], values]),
            np.concatenate([[1.0], live]),
            where="post",
            color=colour,
            label=f"step {step}",
        )
        smallest = min(smallest, 1.0 / len(lengths))
    axes.axhline(0.1, color="grey", linewidth=0.8, linestyle="--")
    axes.text(0.01, 0.11, "a tenth still live", transform=axes.get_yaxis_transform(), color="dimgrey", fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(max(0.9, float(trace.output_tokens.min()) / 2), float(trace.output_tokens.max()) * 1.2)
    axes.set_ylim(min(0.05, smallest * 0.7), 1.4)
    axes.set_xlabel("response length (tokens, log scale)")
    axes.set_ylabel("share of rollouts that are longer (log scale)")
    axes.set_title("Survival of rollouts by RL step")
    axes.legend(frameon=False, loc="lower left")
    axes.grid(visible=True, which="major", alpha=0.25)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.10g}"))
    _plain_ticks(axes)


def _plain_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
