"""Replicas on one clock: who gets which rollout when, and what came of it."""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from simulator.budgets.policy import BudgetPolicy
from simulator.drafting.acceptance import Acceptance
from simulator.engine.clock import LAST, OWN, Clock
from simulator.engine.deployment import Deployment
from simulator.engine.fleet import Fleet
from simulator.engine.log import Log
from simulator.engine.replica import Ledger, Replica
from simulator.engine.router import Router
from simulator.engine.workload import Workload
from simulator.scheduling.placement import FINISHED, HELD, events_of
from simulator.scheduling.resolve import placement_of
from simulator.scheduling.start import at_start
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Records = npt.NDArray[Any]
Process = Generator[simpy.Event, None, None]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a workload's rollouts did on a cluster, times on its clock.

    rollouts: `state.Rollout`[n], in queue order; logs: the decode steps of each replica; busy_s, extrapolated_s:
    float64[replicas], seconds that each replica decoded, and those outside the profile's valid range; waited_s: seconds that each
    rank waited for slower ones, in decode steps and, without work, in dummy steps. over_s: when it was over,
    from 0 on, where that was not for the last completion.
    """

    rollouts: Records
    logs: list[Log]
    busy_s: Float64
    extrapolated_s: Float64
    waited_s: Float64
    over_s: float | None = None

    @property
    def start_s(self) -> float:
        """When the first rollout was admitted."""
        return 0.0 if self.over_s is not None else float(self.rollouts["admitted_s"].min())

    @property
    def makespan_s(self) -> float:
        """Seconds from the first admission to the last completion, or to when it was over."""
        return self.over_s if self.over_s is not None else float(self.rollouts["finished_s"].max()) - self.start_s


def simulate(
    workload: Workload,
    policy: BudgetPolicy,
    deployment: Deployment,
    check: bool = False,
    begin_s: Float64 | None = None,
) -> Outcome:
    """Decode a workload under a policy to the last completion, from 0 on, and return what happened.

    check: assert every invariant at every event; begin_s: float64[replicas], when each is free to begin (None: all at 0).
    """
    clock = Clock()
    cluster = Cluster(clock, workload, policy, deployment, check, begin_s=begin_s)
    clock.process(cluster.decode())
    clock.run()
    outcome = cluster.outcome()
    assert not np.isnan(outcome.rollouts["finished_s"]).any(), "every rollout completes"
    return outcome


class Cluster:
    """Equal replicas that decode a workload, from when `decode` begins, where the deployment's placement puts its rollouts.

    listener: is told which rollouts finished, when all that happens at an instant has been done; it may `submit` more, or
    `stop`. groups: int64[n], the group of each, and int64[groups], how many of each are missing; then the listener may be told
    of all that finished when a group is whole or something else happens. Without a listener, and with a placement that acts at
    the start alone, each replica goes ahead of the clock. begin_s: float64[replicas], seconds after which each is free to begin
    (None: at once).
    """

    def __init__(
        self, clock: Clock, workload: Workload, policy: BudgetPolicy, deployment: Deployment, check: bool = False,
        listener: Callable[[list[int]], None] | None = None, submitted: Int64 | None = None, begin_s: Float64 | None = None,
        groups: tuple[Int64, Int64] | None = None,
    ) -> None:  # fmt: skip
        placement = placement_of(deployment.placement, deployment.replicas)
        self.clock, self.workload, self._listener, self._checks = clock, workload, listener, check
        self.ledger = Ledger(workload, policy)
        self._submitted = np.arange(len(workload)) if submitted is None else submitted
        self._known = np.zeros(len(workload), np.bool_)
        self._known[self._submitted] = True
        events = events_of(placement)
        everywhere = workload.siblings is not None and workload.siblings.everywhere
        watched = listener is not None or everywhere or bool(events & {"left", "finished"})
        self._ahead = not watched and (workload.arrival_s is None or "arrival" not in events)
        pools = deployment.serving.pools(workload, deployment.max_num_seqs, self.ledger.rollouts)
        self._ranks = deployment.data_parallel_size
        self.replicas = [
            Replica(number, workload, self.ledger, policy, deployment, next(pools), not self._ahead, watched)
            for number in range(deployment.replicas)
        ]
        self.router = Router(workload, self.replicas, watched, placement, deployment)
        if groups is not None and not events & {"left", "finished"}:
            self.router.fleet.tell_groups(*groups)
        self._begin_s = np.zeros(deployment.replicas) if begin_s is None else begin_s
        self._stopped = False
        self.quiet_s = 0.0

    def decode(self) -> Process:
        """Decode until nothing is left, or `stop` is called; as a SimPy process."""
        now_s = self.clock.now
        self.ledger.rollouts["arrival_s"] += now_s
        for replica, begin_s in zip(self.replicas, self._begin_s.tolist(), strict=True):
            replica.core["now_s"] = replica.core["visible_s"] = now_s + begin_s
            replica.core["next_s"] = max(now_s + begin_s, replica.resume_s)
        yield from self._go_ahead() if self._ahead else self._together()

    def submit(self, rollouts: Int64) -> None:
        """Let rollouts of the workload come in now."""
        self._known[rollouts] = True
        self.router.at(self.clock.now)
        self.router.tell("arrival", rollouts)
        self.router.serve()

    def hold(self, resume_s: Float64) -> None:
        """Before `decode`: let no replica begin a step before such a time, float64[replicas]."""
        assert not self._ahead
        for replica, one_s in zip(self.replicas, resume_s.tolist(), strict=True):
            replica.hold(one_s)

    def swap(self, acceptance: Acceptance, pause_s: float) -> Float64:
        """Let replicas draft with another version: steps under way end first, and each replica pauses after that, or from now on.

        acceptance: of the workload's rollouts from now on. Returns float64[replicas], when each goes on.
        """
        assert not self._ahead, "replicas may be ahead of the clock"
        now_s = self.clock.now
        return np.array([replica.swap(acceptance, now_s, pause_s) for replica in self.replicas])

    def stop(self) -> list[int]:
        """Let nothing but the steps under way go on: returns who finishes in those. Others keep what they have emitted.

        The last of those steps ends at `quiet_s`.
        """
        now_s, finished = self.clock.now, list[int]()
        self._stopped = True
        for replica in self.replicas:
            replica.settle(now_s)
        self.quiet_s = max([now_s, *(replica.now_s for replica in self.replicas)])
        while self.router.fleet.told_s < np.inf:
            finished += self.router.fleet.hear()[2]
        self.router.stop(np.flatnonzero(self._known & (self.router.where > FINISHED)).tolist())
        return finished

    def outcome(self) -> Outcome:
        """What happened so far."""
        logs = [replica.log for replica in self.replicas]
        return Outcome(
            self.ledger.rollouts,
            logs,
            np.array([log["duration_s"].sum() for log in logs]),
            np.array([replica.extrapolated_s for replica in self.replicas]),
            np.array([replica.waited_s for replica in self.replicas]),
        )

    # Ahead of the clock ---------------------------------------------------------------------------------------------------

    def _go_ahead(self) -> Process:
        """Nobody has to know anything but where the common queue goes: each replica decodes to the next moment that matters."""
        parts, rest = self._placed_at_start()
        queue: deque[int] = deque(rest.tolist())
        for replica, part in zip(self.replicas, parts, strict=True):
            replica.enqueue(part) if self.workload.arrival_s is None else replica.expect(part)
        ranks = range(0, len(self.replicas), self._ranks)
        groups = [Fleet(self.replicas[first : first + self._ranks], self._ranks) for first in ranks]
        yield self.clock.all_of([self.clock.process(self._work(group, queue)) for group in groups])
        assert not queue

    def _placed_at_start(self) -> tuple[list[Int64], Int64]:
        """Where a placement that acts at the start alone puts all rollouts, in order of arrival (`start.at_start`)."""
        order, arrival_s = self._submitted, self.workload.arrival_s
        if arrival_s is not None:
            order = order[np.argsort(arrival_s[order], kind="stable")]
        return at_start(
            self.router.placement, self.workload.requests, order, self.workload.begun_tokens, len(self.replicas),
            self.replicas[0].max_num_seqs,
        )  # fmt: skip

    def _work(self, fleet: Fleet, queue: "deque[int]") -> Process:
        """One replica, or ranks that step together: decode to the next moment at which one may take from the queue, and wait."""
        first, over = fleet.replicas[0], False
        while not over:
            over = fleet.go_ahead(wait_when_free=bool(queue))
            for replica in fleet.replicas if self._checks else ():
                replica.check()
            yield self.clock.at(first.now_s, first.number)
            for replica in fleet.replicas:
                if room := min(replica.room, len(queue)):
                    replica.enqueue(np.array([queue.popleft() for _ in range(room)], np.int64))
                    over = False

    # In step with the clock -----------------------------------------------------------------------------------------------

    def _together(self) -> Process:
        """Somebody decides as things happen: no replica begins a step that a decision could still change."""
        clock, router = self.clock, self.router
        coming = self._coming()
        router.at(clock.now)
        if coming and router.events <= {"start"}:
            router.expect(*self._placed_at_start())
            coming = []
        else:
            router.tell("start", self._submitted if not coming else self._submitted[:0])
        router.serve()
        fleet, peek = router.fleet, clock.peek
        while not self._stopped:
            others_s = peek()
            if others_s <= clock.now:
                yield clock.at(clock.now, LAST)
                continue
            until_s = min(others_s, router.next_landing_s, coming[-1][0] if coming else np.inf)
            fleet.advance(until_s)
            whole_s, finished = fleet.whole_group()
            at_s = min(until_s, fleet.told_s, whole_s)
            if at_s == np.inf:
                self._tell(finished)
                self._check_all_done()
                return
            if at_s < others_s:
                clock.skip(at_s)
            else:
                yield clock.at(at_s, OWN)
            if fleet.watched:
                finished += self._ends(at_s)
            router.at(at_s)
            router.land(at_s)
            if coming and coming[-1][0] <= at_s:
                router.tell("arrival", coming.pop()[1])
                router.serve()
            if self._checks:
                self.check()
            self._tell(finished)

    def _tell(self, finished: list[int]) -> None:
        if finished and self._listener is not None:
            self._listener(finished)

    def _coming(self) -> list[tuple[float, Int64]]:
        """Who arrives when, the last ones first; empty where everybody is there."""
        if self.workload.arrival_s is None:
            return []
        at_s = self.ledger.rollouts["arrival_s"][self._submitted]
        order = np.argsort(at_s, kind="stable")
        times, begin = np.unique(at_s[order], return_index=True)
        return list(zip(times.tolist(), np.split(self._submitted[order], begin[1:]), strict=True))[::-1]

    def _ends(self, now_s: float) -> list[int]:
        """Tell of the steps that end now, replica by replica; returns who finished."""
        router, ended = self.router, list[int]()
        while router.fleet.told_s <= now_s:
            number, left, finished = router.fleet.hear()
            router.at(now_s, number)
            if left.size:
                router.tell("left", left, number)
            if finished:
                router.tell("finished", finished, number)
            router.serve(number)
            ended += finished
        return ended

    def _check_all_done(self) -> None:
        router = self.router
        if (left := np.flatnonzero(self._known & (router.where == HELD))).size:
            raise InputError(
                f"placement {router.name} leaves {left.size} rollouts without a replica, the first of them {left[0]}: "
                "place each that it is told of"
            )
        assert not router.queued, "who has room takes from the common queue"

    def check(self) -> None:
        """Assert what must hold between events."""
        rollouts = self.ledger.rollouts
        position = np.where(np.isnan(rollouts["finished_s"]), rollouts["position"], rollouts["end"])
        for replica in self.replicas:
            replica.check(alone=False)
            position[replica.live_slots["rollout"]] = replica.live_slots["position"]
        for first in range(0, len(self.replicas), self._ranks):
            ranks = self.replicas[first : first + self._ranks]
            assert len({replica.now_s for replica in ranks if replica.live_slots.size}) <= 1, "ranks step together"
        emitted = position - rollouts["start"] - self.workload.begun_tokens
        logged = sum(float(replica.log["emitted_tokens"].sum()) for replica in self.replicas)
        assert emitted.sum() == logged, "tokens are conserved, wherever they are emitted"
