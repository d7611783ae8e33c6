"""From what is varied to cells, and from a cell to the scenario that it stands for."""

import copy
import difflib
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from simulator.drafting.settings import BUILT_IN_KINDS, names_of
from simulator.engine.serving import EngineLimits
from simulator.plugins import only_named_in
from simulator.scenario import EngineSettings, Scenario, build, put
from simulator.sweep.axes import Axis, Cell, canonical
from simulator.validated import SettingError
from traces.errors import InputError

MOST_CELLS = 250_000
"""Their rows are held in memory."""
DRAFTS = ("trace", "drafter", "steps", "seed", "systems")
"""Keys on which a cell's drafts depend."""


@dataclass(frozen=True)
class Study:
    """What all cells have in common: the scenario as it is written, and a policy that each is held against (None: as written).

    named: texts that may name code (module:attr) which the scenario then runs; None: it may run any.
    """

    document: dict[str, Any]
    baseline: str | None = None
    named: tuple[str, ...] | None = None

    def scenario(self, cell: Cell) -> Scenario:
        """The scenario of a cell; InputError where its values do not go together."""
        document = copy.deepcopy(self.document)
        for key in sorted(cell, key=lambda key: key.count(".")):
            value = copy.deepcopy(cell[key])
            path, value = (["policies"], [value]) if key == "policy" else (key.split("."), value)
            put(document, path, value)
        if self.baseline is not None:
            policies = document.get("policies")
            others = [one for one in policies if one != self.baseline] if isinstance(policies, list) else []
            document["policies"] = [self.baseline, *others]
        with nullcontext() if self.named is None else only_named_in(self.named):
            return build(document, self.named is None)

    def is_base(self, row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> bool:
        """Whether this row of a cell is only there for others to be held against."""
        return self.baseline is not None and len(rows) > 1 and row["system"] == self.baseline


def grid(axes: Sequence[Axis]) -> list[Cell]:
    """Every combination, the last axis fastest; InputError where there are too many."""
    keys = [axis.key for axis in axes]
    if (count := math.prod(len(axis.listed) for axis in axes)) > MOST_CELLS:
        raise InputError(
            f"that is {count:,} cells, and a grid has {MOST_CELLS:,} at most: give fewer values, or --search"
        )
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(axis.listed for axis in axes))]


def in_order(cells: Sequence[Cell]) -> list[Cell]:
    """The order to run them in: first one of each set of drafts, which makes them, then set by set, so that they are at hand."""
    sets: dict[str, list[Cell]] = {}
    for cell in cells:
        drafts = {key: value for key, value in cell.items() if key.partition(".")[0] in DRAFTS}
        sets.setdefault(canonical(drafts), []).append(cell)
    return [*(one[0] for one in sets.values()), *(cell for one in sets.values() for cell in one[1:])]


def check(study: Study, axes: Sequence[Axis]) -> None:
    """Raise InputError for a key that no scenario has, and a value that its key cannot have whatever the others are."""
    _check_shorthands(study, axes)
    first = {axis.key: axis.ends[0] for axis in axes}
    for axis in axes:
        for value in axis.ends:
            cell = first | {axis.key: value}
            if fault := _own_fault(study, axis, cell):
                others = (cell | {other.key: one} for other in axes if other is not axis for one in other.ends[1:])
                if all(_own_fault(study, axis, other) for other in others):
                    raise InputError(fault)


def _check_shorthands(study: Study, axes: Sequence[Axis]) -> None:
    """Refuse what a sweep cannot mean."""
    if study.document.get("compare"):
        raise InputError(
            "compare: a sweep has no intervals: leave it out, and --baseline names what speed-ups are against"
        )
    by_policy = any(axis.key == "policy" for axis in axes)
    if study.document.get("systems") and (by_policy or study.baseline is not None):
        what = "policy" if by_policy else "--baseline"
        raise InputError(
            f"{what}: the scenario names systems, with policies of their own: leave them out, or vary `systems`"
        )


def _own_fault(study: Study, axis: Axis, cell: Cell) -> str:
    """What is wrong with this value of a key, empty where nothing is, or where it only does not go with others."""
    try:
        study.scenario(cell)
    except SettingError as error:
        path, n = axis.path, len(error.path)
        if path[:n] == error.path and ": unknown key" in error.rest:
            near = _nearest(axis.key)
            hint = f"did you mean {near!r}" if near else "those of a scenario are in docs/formats.md"
            return f"{axis.key}: unknown key: {hint}"
        if error.path[: len(path)] == path or (path[-1] == "kind" and str(error).startswith(f"{axis.key} = ")):
            return str(error)
    except InputError as error:
        if "is not a section" in str(error):
            return f"{axis.key}: {error}"
    return ""


def _nearest(key: str) -> str:
    """The known key that a wrong one looks like: as a whole, or in its last part."""
    known = [*_known_keys()]
    last: dict[str, str] = {}
    for one in known:
        last.setdefault(one.rpartition(".")[2], one)
    for near in difflib.get_close_matches(key, known, 1, cutoff=0.75):
        return near
    for near in difflib.get_close_matches(key.rpartition(".")[2], last, 1, cutoff=0.75):
        return last[near]
    return next(iter(difflib.get_close_matches(key, known, 1, cutoff=0.5)), "")


def _known_keys() -> Iterator[str]:
    yield "policy"
    yield from Scenario.model_fields
    yield from (f"engine.{name}" for name in (*EngineSettings.model_fields, *EngineLimits.model_fields))
    yield from dict.fromkeys(f"drafter.{name}" for kind in BUILT_IN_KINDS for name in ("kind", *names_of(kind)))
