"""What a choice gains on rollouts that it was not chosen on, and between what."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, hypot, inf, log, sqrt
from typing import NamedTuple

import numpy as np
import scipy  # loads its parts when they are first used

from simulator.advise.candidates import Candidate
from simulator.advise.repriced import most_speedup
from simulator.advise.search import Told, against_nothing, slowed
from simulator.advise.split import Part
from simulator.compare import bootstrap
from simulator.cost.errors import LEVEL
from simulator.deployed import costs_of
from simulator.drafting.settings import DrafterSettings, SuffixSettings
from simulator.replay import run
from simulator.results import Result
from simulator.scenario import CompareSettings, Scenario

Ends = tuple[float, float]


@dataclass(frozen=True)
class Judged:
    """A candidate's speed-up over no drafts, on a log scale as far as it is uncertain.

    sampled: half of its 90 % interval over draws of prompts; below, above: how far costs within their 90 % ranges move it, and
    never above what free drafts would gain (`repriced.most_speedup`). closed: share of the gap from no drafts to the least time
    that any budgets need, None where that is not known; drafted_share: drafts over emitted tokens.
    """

    candidate: Candidate
    makespan_s: float
    none_s: float
    sampled: float
    below: float
    above: float
    closed: float | None
    drafted_share: float

    @property
    def speedup(self) -> float:
        """No drafts' makespan over its own."""
        return self.none_s / self.makespan_s

    @property
    def sampling(self) -> Ends:
        """Over draws of prompts alone."""
        return self._around(self.sampled, self.sampled)

    @property
    def costs(self) -> Ends:
        """Within the errors of the costs alone."""
        return self._around(self.below, self.above)

    @property
    def ends(self) -> Ends:
        """Both at once: they are independent, so they add up in quadrature."""
        return self._around(hypot(self.sampled, self.below), hypot(self.sampled, self.above))

    def _around(self, below: float, above: float) -> Ends:
        return self.speedup * exp(-below), self.speedup * exp(above)


def judge(
    base: Scenario, part: Part, found: Sequence[Candidate], resamples: int, error: float | None, told: Told
) -> tuple[list[Judged], Result]:  # fmt: skip
    """Each candidate on the part that judges, and the run that they were all in. error: of the costs, in place of their own."""
    told(f"judging {', '.join(one.name for one in found)} on {len(part.steps)} RL step(s)")
    result, cost = run(against_nothing(base, part.steps, found), part.trace, part.drafts), costs_of(base)[0]
    none, *rows = result.runs.to_pylist()
    judged = []
    for one, row in zip(found, rows, strict=True):
        told(f"drawing prompts for {one.name}")
        moved = compared(base, part, one, resamples, error)
        makespan_s = row["makespan_s"] * slowed(result, cost, one)
        most = log(most_speedup(result, cost, none["system"], one.name) * makespan_s / none["makespan_s"])
        moved = moved._replace(above=max(min(moved.above, most), 0.0))
        drafted_share = row["drafted_tokens"] / row["output_tokens"]
        judged.append(Judged(one, makespan_s, none["makespan_s"], *moved, drafted_share))
    return judged, result


class Moved(NamedTuple):
    """How far what moves a speed-up; the fields of `Judged`."""

    sampled: float
    below: float
    above: float
    closed: float | None


def compared(base: Scenario, part: Part, one: Candidate, resamples: int, error: float | None = None) -> Moved:
    """What a comparison of a candidate with no drafts says (`compare.report`). error: of the costs, in place of their own.

    Drafts from live siblings cannot be resampled; what moves them is taken to be what moves drafts that learn siblings' tokens in
    the next RL step.
    """
    scenario = base.model_copy(update={
        "policies": ["none", one.policy], "drafter": _frozen(one.drafter), "steps": part.steps,
        "compare": CompareSettings(bootstrap=resamples, profile_error=error),
    })  # fmt: skip
    found = run(scenario, part.trace, part.drafts).comparison
    assert found is not None, "it was asked for"
    row = found.table.to_pylist()[1]
    below, above = (log(row[name] / row["speedup"]) for name in ("profile_low", "profile_high"))
    told = row["high"] is not None and prompts_of(part) > 1
    sampled = log(row["high"] / row["speedup"]) * _widening(part) if told else inf
    closed = row["closed"] if row["speedup"] > 1 else None  # of a gap that may be none
    return Moved(sampled, max(-below, 0.0), max(above, 0.0), closed)


def prompts_of(part: Part) -> int:
    """Distinct prompts among those that it plays."""
    rows = np.isin(part.trace.step, part.steps)
    return int(np.unique(part.trace.prompt[rows]).size) // part.copies


def _frozen(drafter: DrafterSettings) -> DrafterSettings:
    return drafter.model_copy(update={"siblings": "next-step"}) if isinstance(drafter, SuffixSettings) else drafter


def _widening(part: Part) -> float:
    """From half of a comparison's interval to half of one of 90 %; a copy of a prompt tells nothing new."""
    prompts = prompts_of(part)
    ours, theirs = ((LEVEL, prompts), (bootstrap.LEVEL, prompts * part.copies))
    quantiles = [float(scipy.special.stdtrit(n - 1, (1 + level) / 2)) for level, n in (ours, theirs)]
    return sqrt(part.copies) * quantiles[0] / quantiles[1]
