"""Replicas under one SimPy clock: who gets which rollout when, and what came of the whole RL step."""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from heapq import heappush

import numpy as np
import numpy.typing as npt
import simpy

from simulator.budgets.policy import BudgetPolicy
from simulator.cost.model import CostModel
from simulator.drafting.drafter import FREE, DraftCost
from simulator.engine import fields
from simulator.engine.replica import Ledger, Replica
from simulator.engine.serving import ANYTHING, Serving
from simulator.engine.workload import Workload
from simulator.scheduling.dispatch import Dispatch, split

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

DURATION_S = fields.LOG_COLUMNS.index("duration_s")
WAITING_WEIGHT = 4
"""How much more a waiting rollout counts than a running one to vLLM's data-parallel router."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """One simulated RL step.

    ledger: per rollout, in queue order; logs: per replica, float64[steps, len(fields.LOG_COLUMNS)]; busy_s,
    extrapolated_s: float64[replicas], seconds that each replica decoded, and those outside the profile's valid range.
    """

    ledger: Ledger
    logs: list[Float64]
    busy_s: Float64
    extrapolated_s: Float64

    @property
    def start_s(self) -> float:
        """When the first rollout was admitted."""
        return float(self.ledger.times[fields.ADMITTED_S].min())

    @property
    def makespan_s(self) -> float:
        """Seconds from the first admission to the last completion."""
        return float(self.ledger.times[fields.FINISHED_S].max()) - self.start_s


class Clock(simpy.Environment):
    """SimPy's clock, with events at an absolute time: `now + delay` would round equal times apart."""

    def at(self, time_s: float, priority: int) -> simpy.Event:
        """Return an event at `time_s`; of events at the same instant, the lowest priority number comes first."""
        event = simpy.Event(self)
        event._ok, event._value = True, None
        heappush(self._queue, (time_s, priority, next(self._eid), event))  # type: ignore[misc]
        return event


def simulate(
    workload: Workload,
    cost: CostModel,
    policy: BudgetPolicy,
    max_num_seqs: int,
    replicas: int = 1,
    dispatch: Dispatch = "shared",
    draft_cost: DraftCost = FREE,
    serving: Serving = ANYTHING,
    check: bool = False,
) -> Outcome:
    """Decode a workload on `replicas` equal replicas and return what happened.

    dispatch: see `scheduling.dispatch`; replicas that have room at the same instant are served in order of their numbers.
    draft_cost: what drafting adds to a decode step. check: assert every replica's invariants at every event.
    """
    ledger = Ledger(workload, policy)
    pools = serving.pools(workload, max_num_seqs)
    workers = [
        Replica(number, workload, ledger, policy, cost, max_num_seqs, draft_cost, serving, next(pools))
        for number in range(replicas)
    ]
    clock = Clock()
    queue: deque[int] = deque()
    if workload.arrival_s is None:
        parts, rest = split(len(workload), replicas, max_num_seqs, dispatch)
        queue.extend(rest.tolist())
        for number, worker in enumerate(workers):
            worker.enqueue(parts[number])
            clock.process(_work(clock, number, worker, queue, check))
    else:
        clock.process(_route(clock, workload.arrival_s, workers, dispatch, check))
    clock.run()
    assert not queue
    assert not np.isnan(ledger.times[fields.FINISHED_S]).any(), "every rollout completes"
    logs = [worker.log for worker in workers]
    return Outcome(
        ledger,
        logs,
        np.array([log[:, DURATION_S].sum() for log in logs]),
        np.array([worker.extrapolated_s for worker in workers]),
    )


def _work(
    clock: Clock, number: int, worker: Replica, queue: "deque[int]", check: bool
) -> Generator[simpy.Event, None, None]:
    """One replica: decode ahead to the next moment at which it could take from the shared queue, and sleep until then."""
    while True:
        reason = worker.advance(wait_when_free=bool(queue))
        if check:
            worker.check()
        yield clock.at(worker.now_s, number)
        if room := min(worker.room, len(queue)):
            worker.enqueue(np.array([queue.popleft() for _ in range(room)], np.int64))
        elif reason == fields.IDLE:
            return


def _route(
    clock: Clock, arrival_s: Float64, workers: list[Replica], dispatch: Dispatch, check: bool
) -> Generator[simpy.Event, None, None]:
    """The router: give every rollout to a replica as it arrives, then let the replicas run dry.

    `shared` and `least_loaded` look at the replicas at that moment; with the others each replica knows its share from the start.
    """
    order = np.argsort(arrival_s, kind="stable")
    if dispatch in ("shared", "least_loaded") and len(workers) > 1:
        for rollout in order.tolist():
            now_s = float(arrival_s[rollout])
            yield clock.at(now_s, 0)
            for worker in workers:
                worker.advance(until_s=now_s)
                if check:
                    worker.check()
            loads = [
                WAITING_WEIGHT * waiting + running for waiting, running in (worker.load(now_s) for worker in workers)
            ]
            workers[int(np.argmin(loads))].expect(np.array([rollout], np.int64))
    else:
        for number, worker in enumerate(workers):
            mine = (
                order[number :: len(workers)] if dispatch != "static" else np.array_split(order, len(workers))[number]
            )
            worker.expect(mine)
    for worker in workers:
        worker.advance()
        if check:
            worker.check()
