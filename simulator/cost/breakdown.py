"""Where the time of a step goes: its operators, the largest by name and the others together."""

from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.cost.model import Profile
from simulator.cost.work import WORK_FIELDS, StepWork

Float64 = npt.NDArray[np.float64]

OTHER = "other"
DRAFTING, HOST, WAITING = "drafting", "host time", "waiting"
"""What a decode step takes besides the operators: drafts, what the engine was told to add, and slower ranks."""
ROUNDING = 1e-9
MOST_NAMED = 6


def breakdown(profile: Profile, work: StepWork, most_named: int = MOST_NAMED) -> dict[str, Float64]:
    """Seconds by operator in the shape of the work, largest mean share first; they sum to the step's.

    The operators after the first `most_named` are one, named "other"; none are left out.
    """
    times = profile.operator_times(work)
    total = sum(times.values())
    ranked = sorted(times, key=lambda name: -float(np.mean(times[name] / total)))
    if len(ranked) <= most_named + 1:
        return {name: times[name] for name in ranked}
    rest: Float64 = np.sum([times[name] for name in ranked[most_named:]], axis=0)
    return {name: times[name] for name in ranked[:most_named]} | {OTHER: rest}


def spent(profile: Profile, steps: npt.NDArray[Any], stands_for: Float64) -> dict[str, float]:
    """Seconds by operator, and besides, of simulated decode steps; they sum to the steps' durations, and none is zero.

    steps: `state.Step`[n]; stands_for: float64[n], how many steps each counts for.
    """
    work = StepWork(**{name: steps[name] for name in WORK_FIELDS})
    seconds = {name: float(stands_for @ each) for name, each in profile.operator_times(work).items()}
    whole_s = float(stands_for @ steps["duration_s"])
    besides = {DRAFTING: float(stands_for @ steps["draft_s"]), WAITING: float(stands_for @ steps["waited_s"])}
    besides[HOST] = whole_s - sum(seconds.values()) - sum(besides.values())
    for name, more_s in besides.items():
        seconds[name] = seconds.get(name, 0.0) + more_s
    return {name: one for name, one in seconds.items() if abs(one) > ROUNDING * whole_s}
