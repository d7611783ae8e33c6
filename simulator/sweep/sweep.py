"""A sweep from what was asked to its table: checked as a whole, then run cell by cell, each kept as it finishes."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from simulator.deployed import costs_of
from simulator.results import RUNS
from simulator.sweep.axes import Axis, Cell, canonical
from simulator.sweep.grid import Study, check, grid, in_order
from simulator.sweep.journal import Journal, journal
from simulator.sweep.play import Progress, Tell, Workers, play
from simulator.sweep.search import Objective, Search, proposed, trials_of
from simulator.sweep.worker import Outcome
from traces.errors import InputError
from traces.io import read
from traces.trace import Trace

COSTS = ("profile", "model", "device", "tables", "tensor_parallel_size", "kv_cache_dtype", "engine.data_parallel_size")
"""Keys that say what decode steps cost."""
Start = Callable[[Study, dict[str, Trace]], AbstractContextManager[Workers]]
"""Starts workers."""


@dataclass(frozen=True)
class Asked:
    """What is varied in what, and how: every combination, or a search for the best. aim: what is best."""

    study: Study
    axes: tuple[Axis, ...]
    aim: Objective
    search: Search | None = None


@dataclass(frozen=True)
class Swept:
    """Every cell, in the order of the grid or of the trials, each once; about: what all of them rest on."""

    outcomes: list[Outcome]
    about: dict[str, Any]


def sweep(asked: Asked, folder: Path, start: Start, tell: Tell) -> Swept:
    """Run every cell that the folder's journal lacks; `tell` is called as they finish.

    Raises InputError, before anything runs, for keys and values that no cell can have, and for a folder that holds another sweep
    or that another process has open.
    """
    study, axes = asked.study, asked.axes
    check(study, axes)
    cells = [] if asked.search else grid(axes)
    traces = _traces(study, axes)
    about = _about(asked, traces)
    with journal(folder, about) as kept, start(study, traces) as workers:
        if asked.search:
            cells = _searched(asked, asked.search, kept, workers, tell)
        else:
            done = [one for one in map(kept.of, cells) if one is not None]
            progress = _begun(len(cells), done)
            tell(progress)
            play(in_order(cells), workers, kept, progress, tell)
    found = [one for one in map(kept.of, cells) if one is not None]
    assert len(found) == len(cells)
    if all(one.reason is not None for one in found):
        raise InputError(f"none of {len(found)} cells can be run; the first: {found[0].reason}")
    return Swept(found, about)


def _searched(asked: Asked, search: Search, kept: Journal, workers: Workers, tell: Tell) -> list[Cell]:
    """The distinct cells of a search, in the order in which they were first tried."""
    tried = list[Cell]()
    progress: Progress | None = None
    while len(tried) < search.trials:
        told = trials_of(tried, kept.of, asked.aim)
        tried += (round_ := proposed(search, asked.axes, told, asked.aim))
        missing = [*{canonical(cell): cell for cell in round_ if kept.of(cell) is None}.values()]
        if progress is None and missing:
            done = [one for one in map(kept.of, tried) if one is not None]
            progress = _begun(search.trials, done)
        if progress is not None:
            progress.done = len(tried) - len(missing)
            play(missing, workers, kept, progress, tell)
    trials_of(tried, kept.of, asked.aim)
    return [*{canonical(cell): cell for cell in tried}.values()]


def _begun(total: int, done: Sequence[Outcome]) -> Progress:
    failed = sum(one.reason is not None for one in done)
    return Progress(total, len(done), len(done), failed, time.monotonic())


def _traces(study: Study, axes: Sequence[Axis]) -> dict[str, Trace]:
    """Every trace that a cell may name, read once."""
    named = next((axis.listed for axis in axes if axis.key == "trace"), (study.document.get("trace"),))
    return {name: read(name) for name in named if isinstance(name, str)}


def _about(asked: Asked, traces: dict[str, Trace]) -> dict[str, Any]:
    """What cells rest on, so that those of another sweep are not taken for this one's."""
    study, axes, search = asked.study, asked.axes, asked.search
    costs = None
    if not any(axis.key in COSTS for axis in axes):
        try:
            scenario = study.scenario({axis.key: axis.ends[0] for axis in axes})
        except InputError:
            pass  # these values do not go together, which their cell will say
        else:
            costs = costs_of(scenario)[0].sha256
    return {
        "sweep": 1,
        "rolloutsim": version("rolloutsim"),
        "columns": {field.name: str(field.type) for field in RUNS},
        "scenario": study.document,
        "baseline": study.baseline,
        "keys": sorted(axis.key for axis in axes),
        "traces": {name: trace.sha256 for name, trace in traces.items()},
        "costs": costs,
        "search": None if search is None else {
            "seed": search.seed, "at_once": search.at_once, "column": asked.aim.column, "largest": asked.aim.largest,
            "ranges": {axis.key: canonical(axis.values) for axis in axes},
        },
    }  # fmt: skip
