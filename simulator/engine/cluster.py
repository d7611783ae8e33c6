"""Replicas under one SimPy clock: who gets which rollout when, and what came of the whole RL step."""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from heapq import heappush
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from simulator.budgets.policy import BudgetPolicy
from simulator.engine.deployment import Deployment
from simulator.engine.replica import Ledger, Replica
from simulator.engine.state import IDLE
from simulator.engine.workload import Workload
from simulator.scheduling.dispatch import Dispatch, split

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Records = npt.NDArray[Any]

WAITING_WEIGHT = 4
"""How much more a waiting rollout counts than a running one to vLLM's data-parallel router."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """One simulated RL step.

    rollouts: `state.Rollout`[n], in queue order; logs: `state.Step`[steps] of each replica; busy_s, extrapolated_s:
    float64[replicas], seconds that each replica decoded, and those outside the profile's valid range.
    """

    rollouts: Records
    logs: list[Records]
    busy_s: Float64
    extrapolated_s: Float64

    @property
    def start_s(self) -> float:
        """When the first rollout was admitted."""
        return float(self.rollouts["admitted_s"].min())

    @property
    def makespan_s(self) -> float:
        """Seconds from the first admission to the last completion."""
        return float(self.rollouts["finished_s"].max()) - self.start_s


class Clock(simpy.Environment):
    """SimPy's clock, with events at an absolute time: `now + delay` would round equal times apart."""

    def at(self, time_s: float, priority: int) -> simpy.Event:
        """Return an event at `time_s`; of events at the same instant, the lowest priority number comes first."""
        event = simpy.Event(self)
        event._ok, event._value = True, None
        heappush(self._queue, (time_s, priority, next(self._eid), event))  # type: ignore[misc]
        return event


def simulate(workload: Workload, policy: BudgetPolicy, deployment: Deployment, check: bool = False) -> Outcome:
    """Decode a workload under a policy and return what happened.

    Replicas that have room at the same instant are served in order of their numbers. check: assert every replica's
    invariants at every event.
    """
    ledger = Ledger(workload, policy)
    pools = deployment.serving.pools(workload, deployment.max_num_seqs, ledger.rollouts)
    workers = [
        Replica(number, workload, ledger, policy, deployment, next(pools)) for number in range(deployment.replicas)
    ]
    clock = Clock()
    queue: deque[int] = deque()
    if workload.arrival_s is None:
        parts, rest = split(len(workload), deployment.replicas, deployment.max_num_seqs, deployment.dispatch)
        queue.extend(rest.tolist())
        for number, worker in enumerate(workers):
            worker.enqueue(parts[number])
            clock.process(_work(clock, number, worker, queue, check))
    else:
        clock.process(_route(clock, workload.arrival_s, workers, deployment.dispatch, check))
    clock.run()
    assert not queue
    assert not np.isnan(ledger.rollouts["finished_s"]).any(), "every rollout completes"
    logs = [worker.log for worker in workers]
    return Outcome(
        ledger.rollouts,
        logs,
        np.array([log["duration_s"].sum() for log in logs]),
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
        elif reason == IDLE:
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
