"""One generation phase on several replicas, as SimPy processes: a placement says where rollouts go, and for how long.

A replica's process forms a batch, lets its step pass and tells what left; ranks that share experts do so in lockstep, with one
process for them all. What happens at one instant is put in order by the priorities of SimPy's events: steps end, replica by
replica; rollouts are submitted; the phase is stopped; steps start.
"""

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import simpy
from simpy.events import NORMAL, EventPriority

from tests.reference.serving import (
    Cost,
    Engine,
    Request,
    Rollout,
    Settings,
    Step,
    assert_servable,
    host_s,
    shared,
)

Process = Generator[simpy.Event, Any, None]

ANY = -1
"""Place: on whichever replica has room first."""

QUEUED, HELD, FINISHED, CANCELLED, UNKNOWN = -1, -2, -3, -4, -5
"""View: where a rollout is that is on no replica; unknown: not submitted yet."""


@dataclass(frozen=True)
class Event:
    """What the placement is told: start, arrival, left or finished; the last two of one replica's step."""

    kind: str
    rollouts: tuple[int, ...]
    replica: int | None


@dataclass(frozen=True)
class Place:
    """Put a held rollout on a replica until it has emitted so many tokens there (0: all); kv: recompute or pull."""

    rollout: int
    replica: int = ANY
    stay_tokens: int = 0
    kv: str = "recompute"


@dataclass(frozen=True)
class Cancel:
    """Stop a rollout for good; one that runs, once its step ends."""

    rollout: int


@dataclass(frozen=True)
class View:
    """By replica: its batch, its queue, its room; the common queue; by rollout: tokens last reported, and where it is."""

    time_s: float
    running: list[int]
    waiting: list[int]
    room: list[int]
    queue: list[int]
    emitted: list[int]
    where: list[int]


Placement = Callable[[Event, View], Sequence[Place | Cancel]]


@dataclass(frozen=True)
class ClusterResult:
    """Lists by rollout (nan: never; replica: who finished it, or -1), by replica its steps, and what was told when."""

    queued_s: list[float]
    admitted_s: list[float]
    first_token_s: list[float]
    finished_s: list[float]
    emitted: list[int]
    replica: list[int]
    preemptions: list[int]
    hit_tokens: list[int]
    recomputed: list[int]
    steps: list[int]
    drafted: list[int]
    accepted: list[int]
    cancelled: list[bool]
    log: list[list[Step]]
    told: list[tuple[float, Event]]


class Turn(simpy.Event):
    """After a delay, the later at its instant the higher its rank."""

    def __init__(self, env: simpy.Environment, rank: int, delay_s: float = 0.0) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        env.schedule(self, priority=EventPriority(NORMAL + rank), delay=delay_s)


class Member:
    """A rollout in the cluster: what an engine knows of it, where it is, and how it was placed."""

    def __init__(self, index: int, request: Request, start_tokens: int) -> None:
        assert 0 <= start_tokens < request.output_tokens, f"rollout {index} starts with {start_tokens} tokens"
        self.rollout = Rollout(index, request, p=start_tokens, start=start_tokens)
        self.where = UNKNOWN
        self.place = Place(index)
        self.reported = start_tokens
        self.last_replica = -1  # the last one that its stay ended on
        self.finished_on = -1


class Replica:
    """An engine, and how it is taken from step to step: by itself, or by `Lockstep`."""

    def __init__(self, env: simpy.Environment, index: int, engine: Engine, cluster: "Cluster") -> None:
        self.env = env
        self.index = index
        self.engine = engine
        self.cluster = cluster
        self.stepping = False
        self.ended = env.event()  # the step under way
        self.woken = env.event()
        self.cancelled: list[Member] = []  # once the step under way ends
        self.pauses: list[simpy.Event] = []  # those that are not over, in order

    def live(self) -> Process:
        while True:
            yield Turn(self.env, self.cluster.ranks.form + self.index)
            if self.pauses:
                yield self.pauses[-1]
                continue
            step = self.engine.begin(self.env.now, self.cluster.cost)
            if step is None:
                yield self.woken
                self.woken = self.env.event()
                continue
            if self.engine.settings.check:
                self.cluster.check()
            self.stepping = True
            yield Turn(self.env, self.cluster.ranks.end + self.index, step.dt_s)
            self.over()

    def pause(self, seconds: float) -> None:
        """Start no step for so many seconds: from now, or once the step under way and the pauses before are over."""
        before = [self.ended] * self.stepping + self.pauses[-1:]
        self.pauses.append(self.env.event())
        self.env.process(self.pausing(before, self.pauses[-1], seconds))

    def pausing(self, before: Sequence[simpy.Event], over: simpy.Event, seconds: float) -> Process:
        for event in before:
            if not event.processed:
                yield event
        yield self.env.timeout(seconds)
        self.pauses.remove(over)
        over.succeed()

    def over(self) -> None:
        """The step under way ends now."""
        self.stepping = False
        self.cluster.step_ended(self)
        ended, self.ended = self.ended, self.env.event()
        ended.succeed()

    def wake(self, delay_s: float) -> None:
        """Have it look at its queue after a delay, if it is idle then."""
        self.env.process(self.alarm(delay_s))

    def alarm(self, delay_s: float) -> Process:
        yield self.env.timeout(delay_s)
        if not self.woken.triggered:
            self.woken.succeed()

    def join(self, rollout: Rollout, delay_s: float) -> None:
        self.engine.coming[rollout] = self.env.now + delay_s
        self.wake(delay_s)

    def end_step(self) -> list[Rollout]:
        """Who leaves with the step, in slot order; those that only wait for their next turn are on their way back."""
        left = [rollout for rollout in self.engine.running if rollout in self.engine.leaving]
        self.engine.release()
        for rollout in left:
            if rollout in self.engine.coming:
                self.wake(rollout.wait_s)
        return [rollout for rollout in left if rollout not in self.engine.coming]

    def drop(self, rollout: Rollout) -> None:
        """Forget a rollout, wherever it is here."""
        engine = self.engine
        engine.coming.pop(rollout, None)
        if rollout in engine.waiting:
            engine.waiting.remove(rollout)
        if rollout in engine.running:
            engine.leave(rollout)
        engine.shares = [share for share in engine.shares if share.rollout != rollout.index]

    def running(self) -> int:
        return len(self.engine.running)

    def outside(self) -> list[Rollout]:
        """Those that come, but for those whose step under way is yet to end."""
        return [rollout for rollout in self.engine.coming if rollout not in self.engine.running]

    def waiting(self) -> int:
        """Its queue, with what it has not looked at yet."""
        return len(self.engine.waiting) + sum(self.engine.coming[r] <= self.env.now for r in self.outside())

    def in_transit(self) -> int:
        return sum(self.engine.coming[r] > self.env.now and r.pulled for r in self.outside())

    def load(self) -> int:
        return self.running() + self.waiting() + self.in_transit()

    def room(self) -> int:
        return self.engine.settings.max_num_seqs - self.load()


class Lockstep:
    """Replicas that start each step together and end it together, when the slowest of them would.

    Those that have nothing to do run a dummy step; when nobody has anything to do they wait.
    """

    def __init__(self, env: simpy.Environment, replicas: Sequence[Replica], cluster: "Cluster") -> None:
        self.env = env
        self.replicas = replicas
        self.cluster = cluster

    def live(self) -> Process:
        ranks = self.cluster.ranks
        while True:
            yield Turn(self.env, ranks.form + self.replicas[0].index)
            if pauses := [replica.pauses[-1] for replica in self.replicas if replica.pauses]:
                yield self.env.all_of(pauses)
                continue
            busy = [replica for replica in self.replicas if replica.engine.form(self.env.now)]
            if not busy:
                yield from self.sleep()
                continue
            dt_s = self.start(busy)
            if self.replicas[0].engine.settings.check:
                self.cluster.check()
            for replica in self.replicas:
                yield Turn(self.env, ranks.end + replica.index, dt_s)
                dt_s = 0.0
                if replica in busy:
                    replica.over()

    def start(self, busy: Sequence[Replica]) -> float:
        """Start a step of all; returns how long it takes."""
        settings = self.replicas[0].engine.settings
        alone = [replica.engine.work() if replica in busy else replica.engine.dummy() for replica in self.replicas]
        works = shared(alone, settings.cudagraph_capture_sizes)
        hosts_s = [
            replica.engine.host_s(work) if replica in busy else host_s(work, [], settings, settings.budget)
            for replica, work in zip(self.replicas, works, strict=True)
        ]
        dt_s = max(self.cluster.cost(work) + host for work, host in zip(works, hosts_s, strict=True))
        for replica, work in zip(self.replicas, works, strict=True):
            if replica in busy:
                replica.engine.start(self.env.now, work, dt_s)
                replica.stepping = True
        return dt_s

    def sleep(self) -> Process:
        """Until one of them is woken."""
        yield self.env.any_of([replica.woken for replica in self.replicas])
        for replica in self.replicas:
            if replica.woken.triggered:
                replica.woken = self.env.event()


@dataclass(frozen=True)
class Ranks:
    """In what order things happen at one instant; steps end and start by replica."""

    end: int
    report: int
    submit: int
    stop: int
    form: int

    @staticmethod
    def of(replicas: int) -> "Ranks":
        return Ranks(end=1, report=1 + replicas, submit=2 + replicas, stop=3 + replicas, form=4 + replicas)


class Cluster:
    """The replicas of one phase, from `start` on; every rollout is in one place at a time.

    news: an event with the numbers that finished at an instant, once all steps that end then have ended.
    """

    def __init__(
        self,
        env: simpy.Environment,
        requests: Sequence[Request],
        settings: Settings,
        cost: Cost,
        replicas: int,
        placement: Placement,
        pull_s_per_token: float = 0.0,
        start_tokens: Sequence[int] | None = None,
        by_number: bool = True,
        data_parallel_size: int = 1,
    ) -> None:
        assert_servable(requests, settings)
        assert replicas >= 1, "no replicas"
        assert replicas % data_parallel_size == 0, "as many ranks in each group"
        assert 0.0 <= pull_s_per_token < math.inf, f"{pull_s_per_token} s per token"
        starts = [0] * len(requests) if start_tokens is None else start_tokens
        self.env = env
        self.cost = cost
        self.placement = placement
        self.pull_s_per_token = pull_s_per_token
        self.ranks = Ranks.of(replicas)
        self.members = [Member(i, request, p) for i, (request, p) in enumerate(zip(requests, starts, strict=True))]
        self.queue: deque[Member] = deque()
        self.told: list[tuple[float, Event]] = []
        self.stopped = False
        self.news = env.event()
        self.finished: list[int] = []  # at this instant, not in the news yet
        rollouts = [member.rollout for member in self.members]
        self.replicas = [Replica(env, index, Engine(rollouts, settings, by_number), self) for index in range(replicas)]
        if data_parallel_size == 1:
            for replica in self.replicas:
                env.process(replica.live())
        for first in range(0, replicas, data_parallel_size) if data_parallel_size > 1 else ():
            env.process(Lockstep(env, self.replicas[first : first + data_parallel_size], self).live())

    # What a phase's user does.

    def start(self, rollouts: Sequence[int]) -> None:
        """The phase begins now, with these rollouts, before anything else happens."""
        self.take("start", rollouts)

    def submit(self, rollouts: Sequence[int]) -> simpy.Event:
        """Submit more rollouts at this instant, once the steps that end now have ended."""
        return self.env.process(self.submission(rollouts, 0.0))

    def stop(self) -> simpy.Event:
        """Cancel what is not finished, once this instant's steps have ended and submissions are in; happens when quiet."""
        return self.env.process(self.stopping())

    def swap(self, drafts: Sequence[tuple[Sequence[int], Sequence[int]]], pause_s: float) -> None:
        """From now on steps that start have these drafts, (accepted, drafted) of each rollout; replicas pause first."""
        for member, (accepted, drafted) in zip(self.members, drafts, strict=True):
            rollout = member.rollout
            rollout.request = replace(rollout.request, accepted=accepted, drafted=drafted)
        for replica in self.replicas:
            replica.pause(pause_s)

    def submission(self, rollouts: Sequence[int], delay_s: float) -> Process:
        yield Turn(self.env, self.ranks.submit, delay_s)
        self.take("arrival", rollouts)

    def stopping(self) -> Process:
        yield Turn(self.env, self.ranks.stop)
        self.stopped = True
        under_way = [replica.ended for replica in self.replicas if replica.stepping]
        for member in self.members:
            if member.where != UNKNOWN:
                self.cancel(member)
        yield from under_way
        yield Turn(self.env, self.ranks.stop)

    # What happens in it.

    def take(self, kind: str, rollouts: Sequence[int]) -> None:
        assert not self.stopped, "the phase is over"
        for index in rollouts:
            assert self.members[index].where == UNKNOWN, f"rollout {index} is submitted twice"
            self.members[index].where = HELD
        self.tell(Event(kind, tuple(rollouts), None))
        self.serve(None)

    def step_ended(self, replica: Replica) -> None:
        """Let go of those that leave and those to be cancelled; tell the placement; serve the common queue."""
        left, finished, cancelled = [], [], bool(replica.cancelled)
        for rollout in replica.end_step():
            member = self.members[rollout.index]
            if rollout.p == rollout.request.output_tokens:
                finished.append(rollout.index)
                member.where, member.reported = FINISHED, rollout.p
                member.finished_on = replica.index
            elif member not in replica.cancelled:
                left.append(rollout.index)
                member.where, member.reported = HELD, rollout.p
                member.last_replica = replica.index
        for member in replica.cancelled:
            if member.where != FINISHED:
                replica.drop(member.rollout)
                member.where = CANCELLED
        replica.cancelled = []
        if finished:
            self.report(finished)
        if left:
            self.tell(Event("left", tuple(left), replica.index))
        if finished:
            self.tell(Event("finished", tuple(finished), replica.index))
        if left or finished or cancelled:
            self.serve(replica)

    def report(self, finished: Sequence[int]) -> None:
        """In the news of this instant."""
        if not self.finished:
            self.env.process(self.spread())
        self.finished.extend(finished)

    def spread(self) -> Process:
        yield Turn(self.env, self.ranks.report)
        news, self.news = self.news, self.env.event()
        finished, self.finished = self.finished, []
        news.succeed(finished)

    def tell(self, event: Event) -> None:
        """Ask the placement, and do what it says."""
        self.told.append((self.env.now, event))
        for decision in self.placement(event, self.view()):
            member = self.members[decision.rollout]
            if isinstance(decision, Cancel):
                self.cancel(member)
            else:
                self.place(member, decision)

    def place(self, member: Member, place: Place) -> None:
        assert member.where == HELD, f"rollout {place.rollout} is not there to be placed"
        assert place.replica == ANY or 0 <= place.replica < len(self.replicas), f"no replica {place.replica}"
        assert place.stay_tokens >= 0, f"a stay of {place.stay_tokens} tokens"
        assert place.kv in ("recompute", "pull"), f"kv {place.kv}"
        member.place = place
        if place.replica == ANY:
            member.where = QUEUED
            self.queue.append(member)
        else:
            self.assign(member, self.replicas[place.replica])

    def assign(self, member: Member, replica: Replica) -> None:
        """Send a rollout to a replica's own queue."""
        rollout, place = member.rollout, member.place
        member.where = replica.index
        rollout.stay_end = rollout.p + place.stay_tokens if place.stay_tokens > 0 else math.inf
        rollout.pulled = place.kv == "pull" and member.last_replica >= 0  # elsewhere it was never computed
        replica.join(rollout, self.transfer_s(member, replica))

    def transfer_s(self, member: Member, replica: Replica) -> float:
        if not member.rollout.pulled or member.last_replica == replica.index:
            return 0.0
        return (member.rollout.needed() - 1) * self.pull_s_per_token

    def serve(self, preferred: Replica | None) -> None:
        """Give the common queue's head to the preferred replica or the emptiest, while one has room."""
        while self.queue:
            roomy = [replica for replica in self.replicas if replica.room() > 0]
            if preferred in roomy:
                self.assign(self.queue.popleft(), preferred)
            elif roomy:
                self.assign(self.queue.popleft(), min(roomy, key=lambda replica: (replica.load(), replica.index)))
            else:
                break

    def cancel(self, member: Member) -> None:
        assert member.where != UNKNOWN, f"rollout {member.rollout.index} is not submitted yet"
        if member.where in (FINISHED, CANCELLED):
            return
        if member.where >= 0:
            replica = self.replicas[member.where]
            if replica.stepping and member.rollout in replica.engine.running:
                if member not in replica.cancelled:
                    replica.cancelled.append(member)
                return
            replica.drop(member.rollout)
        elif member.where == QUEUED:
            self.queue.remove(member)
        member.where = CANCELLED

    def view(self) -> View:
        return View(
            time_s=self.env.now,
            running=[replica.running() for replica in self.replicas],
            waiting=[replica.waiting() for replica in self.replicas],
            room=[replica.room() for replica in self.replicas],
            queue=[member.rollout.index for member in self.queue],
            emitted=[member.reported for member in self.members],
            where=[member.where for member in self.members],
        )

    def check(self) -> None:
        """Where a rollout is said to be, it is, and nowhere else."""
        for member in self.members:
            rollout = member.rollout
            engines = [replica.engine for replica in self.replicas]
            here = [
                index
                for index, engine in enumerate(engines)
                if rollout in engine.coming or rollout in engine.waiting or rollout in engine.running
            ]
            assert here == ([member.where] if member.where >= 0 else []), f"{rollout.index} is on {here}"
            assert (member in self.queue) == (member.where == QUEUED)
            assert self.queue.count(member) <= 1

    def result(self) -> ClusterResult:
        rollouts = [member.rollout for member in self.members]
        return ClusterResult(
            queued_s=[rollout.queued_s for rollout in rollouts],
            admitted_s=[rollout.admitted_s for rollout in rollouts],
            first_token_s=[rollout.first_token_s for rollout in rollouts],
            finished_s=[rollout.finished_s for rollout in rollouts],
            emitted=[rollout.p for rollout in rollouts],
            replica=[member.finished_on for member in self.members],
            preemptions=[rollout.preemptions for rollout in rollouts],
            hit_tokens=[rollout.hit_tokens for rollout in rollouts],
            recomputed=[rollout.recomputed for rollout in rollouts],
            steps=[rollout.steps for rollout in rollouts],
            drafted=[rollout.drafted for rollout in rollouts],
            accepted=[rollout.accepted for rollout in rollouts],
            cancelled=[member.where == CANCELLED for member in self.members],
            log=[replica.engine.log for replica in self.replicas],
            told=self.told,
        )


def simulate(
    requests: Sequence[Request],
    settings: Settings,
    cost: Cost,
    replicas: int,
    placement: Placement,
    pull_s_per_token: float = 0.0,
    start_tokens: Sequence[int] | None = None,
    arrivals: bool = False,
    submissions: Sequence[tuple[float, Sequence[int]]] = (),
    by_number: bool = True,
    data_parallel_size: int = 1,
) -> ClusterResult:
    """A phase that starts at time 0, until nothing more happens; arrivals: submit at `arrival_s` what is not submitted at
    the times given, or else at the start; data_parallel_size: so many consecutive replicas step together."""
    env = simpy.Environment(initial_time=0.0)
    cluster = Cluster(
        env,
        requests,
        settings,
        cost,
        replicas,
        placement,
        pull_s_per_token,
        start_tokens,
        by_number,
        data_parallel_size,
    )
    later = {index for _, rollouts in submissions for index in rollouts}
    rest = [index for index in range(len(requests)) if index not in later]
    cluster.start([] if arrivals else rest)
    times = sorted({requests[index].arrival_s for index in rest}) if arrivals else []
    together = [(at_s, [index for index in rest if requests[index].arrival_s == at_s]) for at_s in times]
    for at_s, rollouts in [*together, *submissions]:
        env.process(cluster.submission(rollouts, at_s))
    env.run()
    return cluster.result()
