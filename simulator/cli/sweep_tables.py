"""The best cells of a sweep on a terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulator.sweep.search import at_an_edge
from simulator.sweep.table import DONE, FAILED, LEFT_OUT, column_of

if TYPE_CHECKING:
    from simulator.sweep.sweep import Asked

BEST = 8
LONGEST_NAME = 24
FIGURES = ("makespan_s", "speedup", "samples_per_s", "drafted_tokens", "mean_acceptance_length")


def print_sweep(table: pa.Table, asked: "Asked", written: Sequence[Path]) -> None:
    """Print the best cells, and how many could not be run."""
    console = Console(width=max(Console().width, 132), highlight=False, markup=False)
    rows = table.to_pylist()
    done = best_first(rows, asked.aim.column, asked.aim.largest)
    names = [*dict.fromkeys([*(column_of(axis.key) for axis in asked.axes), *_more(done)])]
    figures = [*dict.fromkeys([asked.aim.column, *(one for one in FIGURES if one != "speedup" or _compared(done))])]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (*names, *figures):
        if name in figures:
            grid.add_column(name, justify="right", no_wrap=True)
        else:
            grid.add_column(name, overflow="fold", min_width=min(len(name), LONGEST_NAME))
    for row in done[:BEST]:
        grid.add_row(*(Text(_shown(row[name])) for name in (*names, *figures)))
    cells = len({row["cell"] for row in rows})
    most = "most" if asked.aim.largest else "least"
    if done:
        console.print(f"{cells:,} cells; those with the {most} {asked.aim.column}:")
        console.print(grid)
    else:
        console.print(f"{cells:,} cells, and {asked.aim.column} has no value in any: name another column")
    if failed := [row for row in rows if row["status"] == FAILED]:
        console.print(f"{len(failed):,} of them cannot be run; the first: {failed[0]['reason']}", soft_wrap=True)
    if left := [row for row in rows if row["status"] == LEFT_OUT]:
        console.print(
            f"systems left out: {len(left):,} times; the first, {left[0]['system']}: {left[0]['reason']}",
            soft_wrap=True,
        )
    if done:
        best = {axis.key: done[0][column_of(axis.key)] for axis in asked.axes}
        for line in at_an_edge(asked.axes, best):
            console.print(f"note: {line}", soft_wrap=True)
    click.echo(f"table and plots: {', '.join(map(str, written))}")


def best_first(rows: Sequence[dict[str, Any]], column: str, largest: bool) -> list[dict[str, Any]]:
    """Rows of what was run, the best first; of equals the earlier cell."""
    done = [row for row in rows if row["status"] == DONE and row[column] is not None]
    return sorted(done, key=lambda row: (-row[column] if largest else row[column], row["cell"]))


def _more(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The system's name, where cells have several."""
    return ["system"] if len({row["cell"] for row in rows}) < len(rows) else []


def _compared(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether anything is held against something else."""
    return any(row["speedup"] != 1 for row in rows)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
