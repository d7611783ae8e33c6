"""Where the time of a step goes: its operators, the largest by name and the others together."""

import numpy as np
import numpy.typing as npt

from simulator.cost.model import Profile
from simulator.cost.work import StepWork

Float64 = npt.NDArray[np.float64]

OTHER = "other"
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
