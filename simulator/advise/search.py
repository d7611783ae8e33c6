"""Which candidate is best on the part to choose on: all of them on one RL step, the good ones on all, refined by batch size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulator.advise.candidates import Candidate, Place, refined
from simulator.advise.repriced import filled
from simulator.advise.split import Part
from simulator.cost.model import Profile
from simulator.deployed import costs_of
from simulator.replay import run
from simulator.results import Result
from simulator.scenario import Scenario

NEAR = 0.9
"""Of the best speed-up on one RL step: what has less is not tried on more, unless it is the best of its drafter."""
Told = Callable[[str], None]


@dataclass(frozen=True)
class Tried:
    """A candidate's speed-up over no drafts on so many RL steps."""

    candidate: Candidate
    speedup: float
    rl_steps: int


def search(place: Place, part: Part, found: Sequence[Candidate], told: Told) -> list[Tried]:
    """Every candidate, the best first; those tried on all RL steps before the others."""
    base = place.base
    told(f"trying {len(found)} candidates on RL step {part.steps[-1]}")
    first = _tried(base, part, part.steps[-1:], found)
    best = max(one.speedup for one in first)
    leaders = {one.candidate.family: one for one in sorted(first, key=lambda one: one.speedup)}
    good = [one.candidate for one in first if one.speedup >= NEAR * best or one in leaders.values()]
    names = {one.name for one in found}
    good += [other for one in leaders.values() for other in refined(place, one.candidate) if other.name not in names]
    told(f"trying {len(good)} candidates on {len(part.steps)} RL step(s)")
    tried = _tried(base, part, part.steps, good)
    worse = (one for one in first if one.candidate not in good)
    return [one for part_ in (tried, worse) for one in sorted(part_, key=lambda one: -one.speedup)]


def against_nothing(base: Scenario, steps: list[int], found: Sequence[Candidate]) -> Scenario:
    """No drafts, and beside them the candidates. base: a scenario without drafts."""
    systems = [one.system for one in found]
    return base.model_copy(update={"policies": ["none"], "systems": systems, "steps": steps})


def _tried(base: Scenario, part: Part, steps: list[int], found: Sequence[Candidate]) -> list[Tried]:
    result, cost = run(against_nothing(base, steps, found), part.trace, part.drafts), costs_of(base)[0]
    speedups = {row["system"]: row["speedup"] for row in result.runs.to_pylist()}
    return [Tried(one, speedups[one.name] / slowed(result, cost, one), len(steps)) for one in found]


def slowed(result: Result, cost: Profile, one: Candidate) -> float:
    """How many times as long a candidate takes as was simulated, for what the engine verifies in vain."""
    return filled(result, cost, one.name, one.fills) if one.fills else 1.0
