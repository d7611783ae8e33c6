"""Who of a fleet's replicas begins the next step, and who has to tell first of a step's end."""

import numpy as np

from simulator.compiled import compiled
from simulator.engine.state import FREED, IDLE, NOBODY, TOLD, Core, Fleet, arrivals_of, core_at, cores_of, rollouts_of


@compiled
def furthest_behind(fleet: Fleet) -> tuple[int, float, float]:
    """Who may begin the earliest step, NOBODY if none before the clock must stop; when that is; when the next one begins one."""
    cores = cores_of(fleet)
    until_s = fleet.until_s
    fleet.teller, fleet.told_s = NOBODY, np.inf
    first, next_s, others_s = NOBODY, np.inf, np.inf
    for i in range(cores.size):
        core = core_at(cores[i])
        if core.reason in (TOLD, FREED):
            until_s = min(until_s, core.now_s)
            if core.now_s < fleet.told_s:
                fleet.teller, fleet.told_s = i, core.now_s
        elif core.reason != IDLE:
            if core.next_s < next_s:
                first, next_s, others_s = i, core.next_s, next_s
            else:
                others_s = min(others_s, core.next_s)
    return first if next_s < until_s else NOBODY, until_s, others_s


@compiled
def next_start(core: Core) -> float:
    """When its next step may begin: now, after a pause, or with the next arrival where it has nothing to do."""
    now_s = max(core.now_s, core.resume_s)
    if core.live == 0 and core.head == core.tail:
        arrivals = arrivals_of(core)
        if core.next_arrival < arrivals.size:
            return max(now_s, rollouts_of(core)[arrivals[core.next_arrival]].arrival_s)
    return now_s
