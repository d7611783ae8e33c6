"""A search by a tree-structured Parzen estimator (Optuna's): what to try next follows from what was tried, and from nothing else.

Trials are proposed a round at a time. A round's sampler has a seed of its own and is told the trials before it, in order: so a
search that was stopped, even in the middle of a round, goes on as if it never was, and does not depend on how many work on it.
"""

import difflib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from simulator.results import RUNS
from simulator.sweep.axes import Axis, Cell, Range, canonical
from simulator.sweep.worker import Outcome
from traces.errors import InputError


@dataclass(frozen=True)
class Objective:
    """A column of `results.RUNS` that is to be small, or large."""

    column: str
    largest: bool = False

    def of(self, outcome: Outcome | None) -> float | None:
        """Its value in a cell; None where there is none."""
        if outcome is None or not outcome.rows:
            return None
        if len(outcome.rows) > 1:
            names = ", ".join(str(row["system"]) for row in outcome.rows)
            raise InputError(
                f"a search goes by one row of a cell, and there are {len(outcome.rows)} ({names}): name one policy, or --baseline"
            )
        value = outcome.rows[0][self.column]
        return None if value is None else float(value)


@dataclass(frozen=True)
class Search:
    """So many trials, `at_once` a round; seed: of the random numbers."""

    trials: int
    seed: int = 0
    at_once: int = 8


@dataclass(frozen=True)
class Trial:
    """A cell that was tried, and what it came to (None: it could not be run)."""

    cell: Cell
    value: float | None


def objective(column: str, largest: bool) -> Objective:
    """The objective of this name; InputError where no run has such a number."""
    numbers = [field.name for field in RUNS if str(field.type) in ("double", "int64", "int32")]
    if column not in numbers:
        near = difflib.get_close_matches(column, numbers, 1, cutoff=0.4)
        raise InputError(
            f"{column!r} is no number of a run: {f'did you mean {near[0]!r}' if near else f'use {numbers}'}"
        )
    return Objective(column, largest)


def proposed(search: Search, axes: Sequence[Axis], told: Sequence[Trial], aim: Objective) -> list[Cell]:
    """The cells of the next round after these trials, of all rounds before it."""
    optuna = _optuna()
    number = len(told)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=search.seed * 1_000_003 + number, constant_liar=True)
    study = optuna.create_study(sampler=sampler, direction="maximize" if aim.largest else "minimize")
    distributions = {axis.key: _distribution(optuna, axis) for axis in axes}
    states = optuna.trial.TrialState
    for trial in told:
        params = {axis.key: _told(axis, trial.cell[axis.key]) for axis in axes}
        study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=distributions, value=trial.value,
                state=states.FAIL if trial.value is None else states.COMPLETE,
            )
        )  # fmt: skip
    asked = [study.ask(distributions) for _ in range(min(search.at_once, search.trials - number))]
    return [{axis.key: _asked(axis, one.params[axis.key]) for axis in axes} for one in asked]


def at_an_edge(axes: Sequence[Axis], best: Cell) -> list[str]:
    """What to say of keys whose best value is the end of its range."""
    ranges = [(axis.key, axis.values, best[axis.key]) for axis in axes if isinstance(axis.values, Range)]
    return [
        f"the best {key} = {value} is at the edge of {values}: there may be better beyond"
        for key, values, value in ranges
        if value in (values.low, values.high) or (values.step and value + values.step > values.high)
    ]


def trials_of(cells: Sequence[Cell], of: Callable[[Cell], Outcome | None], aim: Objective) -> list[Trial]:
    """Cells with what they came to."""
    return [Trial(cell, aim.of(of(cell))) for cell in cells]


def _distribution(optuna: Any, axis: Axis) -> Any:
    values, make = axis.values, optuna.distributions
    if not isinstance(values, Range):
        return make.CategoricalDistribution([canonical(value) for value in values])
    if values.whole:
        return make.IntDistribution(int(values.low), int(values.high), values.log, int(values.step or 1))
    return make.FloatDistribution(float(values.low), float(values.high), values.log, values.step)


def _told(axis: Axis, value: Any) -> Any:
    return value if isinstance(axis.values, Range) else canonical(value)


def _asked(axis: Axis, value: Any) -> Any:
    if isinstance(axis.values, Range):
        return value
    return next(one for one in axis.values if canonical(one) == value)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise InputError("--search optuna needs Optuna: pip install 'rolloutsim[search]', or leave it out") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
