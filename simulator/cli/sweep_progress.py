"""Says on stderr how far a sweep is: a bar on a terminal, else a line every so often."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from simulator.sweep.play import Progress

EVERY_S = 10.0
"""Between two lines, where stderr is no terminal."""


@contextmanager
def telling() -> Iterator[Callable[[Progress], None]]:
    """A function that shows how far it is, while the block runs."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    with Bar(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task("")

        def show(progress: Progress) -> None:
            bar.update(task, completed=progress.done, total=progress.total, description=told(progress), refresh=True)

        yield show


def told(progress: Progress) -> str:
    """How far it is, in words."""
    failed = f", {progress.failed:,} cannot be run" if progress.failed else ""
    left = "" if progress.left_s is None else f", {progress.per_s:.3g} cells/s, {_time(progress.left_s)} left"
    return f"{progress.done:,} of {progress.total:,} cells{failed}{left if progress.done < progress.total else ''}"


def _lines() -> Callable[[Progress], None]:
    next_s = time.monotonic() + EVERY_S

    def show(progress: Progress) -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + EVERY_S
            click.echo(told(progress), err=True)

    return show


def _time(seconds: float) -> str:
    """A time that is left, about."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
