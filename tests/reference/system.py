"""A run of a whole system on one clock: phases on clusters, a reward stage and a trainer, as a loop has them follow.

Three SimPy processes and their state: `System.generate` takes the run from phase to phase, `System.train` from update
to update, `RewardStage` gives every finished rollout its reward. Nothing is remembered that could be counted again.
"""

import math
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from fractions import Fraction
from typing import Any

import simpy

from tests.reference.cluster import Cluster, ClusterResult, Placement, Ranks, Turn
from tests.reference.online import Trainer
from tests.reference.serving import Cost, Request, Settings, Step

Process = Generator[simpy.Event, Any, None]

LOOPS = ("sync", "one_step_async", "partial", "refill", "streaming")


@dataclass(frozen=True)
class SystemSettings:
    """What surrounds the cluster; lists are by rollout.

    rollouts: in flight, of partial and streaming; share: of partial in their place, over the rollouts of an RL step; prompts:
    that partial draws for an RL step, over those it needs (None: all that there are); score_s: seconds of a pass of partial over
    what a phase put out, rollouts and their tokens by then; minibatch: groups that sync and one_step_async train on at a time,
    as they are ready (0: on the batch); lag: RL steps that streaming may run ahead; reward_s: seconds of a
    try (None: no reward stage); servers: tries at a time; failures: tries that fail first; backoff_s: off the server
    after the first of them, `growth` times as long after each further one; tries: the most, after which one gives up
    and has a reward all the same (None: it goes on); holds: on the server, instead; after_batch: nobody is judged before
    all of the batch have finished and the replicas are quiet; batch_s: seconds of the trainer's stages for a batch;
    sync_s: of a weight sync; rewards: values, by which refill judges. kept: tokens of an earlier response, sampled an
    RL step before, that a rollout begins with (None: none; those that are all of it are done as the phase starts);
    verify_s: seconds that it takes before a phase of these rollouts to know them.
    """

    loop: str
    _: KW_ONLY
    batch_s: Callable[[list[int]], float]
    rollouts: int = 0
    share: float | None = None
    prompts: Fraction | None = None
    score_s: Callable[[list[tuple[int, int]]], float] | None = None
    minibatch: int = 0
    lag: int = 0
    reward_s: Sequence[float] | None = None
    servers: int = 1
    failures: Sequence[int] | None = None
    backoff_s: float = 0.0
    growth: float = 2.0
    tries: int | None = None
    holds: bool = False
    after_batch: bool = False
    sync_s: float = 0.0
    rewards: Sequence[float] | None = None
    kept: Sequence[int] | None = None
    verify_s: Callable[[list[int]], float] = lambda order: 0.0


@dataclass(frozen=True)
class Online:
    """A trainer of the drafter beside the replicas (`online.Trainer`), which pause before they take a version up.

    domains: by rollout; drafts: of a version that has learnt so many samples of each domain, (accepted, drafted) by rollout.
    """

    pool: int
    batch: int
    step_s: float
    sync: int
    pause_s: float
    domains: Sequence[int]
    drafts: Callable[[Counter[int]], Sequence[tuple[Sequence[int], Sequence[int]]]]


@dataclass(frozen=True)
class RLStep:
    """One phase and the batch of the same number; rollouts by their number in the stream, but for `log`.

    start_s: after the weight sync before it, which took sync_s (0: none was needed), and verifying, which took verify_s;
    end_s: the loop had enough;
    quiet_s: no step is under way any more; rewarded_s: of the batch's last reward, or last finish without a reward
    stage; trained_s: the update of train_s is over. carried: begun in an earlier phase and not finished when this one
    starts, with carried_tokens emitted; recomputed: tokens, in this phase; finished, finished_s, emitted (no entry:
    no token): in this phase, what the steps under way at its end did included. trained: the batch, in order of
    number; stale_mean, stale_max: over its tokens, updates between the version that sampled one and the update. log:
    steps by replica, whose shares have positions; order: the rollout at each position (empty, like the log's lists,
    for a phase that ended at once).
    """

    start_s: float
    end_s: float
    quiet_s: float
    rewarded_s: float
    trained_s: float
    train_s: float
    sync_s: float
    verify_s: float
    carried: int
    carried_tokens: int
    recomputed: int
    finished: list[int]
    finished_s: dict[int, float]
    emitted: dict[int, int]
    trained: list[int]
    stale_mean: float
    stale_max: int
    log: list[list[Step]]
    order: list[int]


class RewardStage:
    """Servers that take rollouts first come, first served; those that come at one time by number.

    ready_s: by rollout, when its reward was there; arrived: is called with it then.
    """

    def __init__(
        self, env: simpy.Environment, settings: SystemSettings, rank: int, arrived: Callable[[int], None]
    ) -> None:
        self.env = env
        self.settings = settings
        self.rank = rank
        self.arrived = arrived
        self.queue: list[tuple[float, int]] = []  # (came, rollout)
        self.busy = 0
        self.failed: Counter[int] = Counter()

    def join(self, rollout: int) -> None:
        self.queue.append((self.env.now, rollout))
        self.env.process(self.serve())

    def serve(self) -> Process:
        """Once all of this instant have come, give the first of the queue to the free servers."""
        yield Turn(self.env, self.rank)
        self.queue.sort()
        while self.queue and self.busy < self.settings.servers:
            _, rollout = self.queue.pop(0)
            self.busy += 1
            self.env.process(self.attempt(rollout))

    def attempt(self, rollout: int) -> Process:
        settings = self.settings
        yield self.env.timeout(settings.reward_s[rollout])
        failures = 0 if settings.failures is None else settings.failures[rollout]
        fails = self.failed[rollout] < failures
        if not (fails and settings.holds):
            self.free()
        if fails:
            self.failed[rollout] += 1
            yield self.env.timeout(settings.backoff_s * settings.growth ** (self.failed[rollout] - 1))
        if fails and self.failed[rollout] != settings.tries:
            if settings.holds:
                self.env.process(self.attempt(rollout))
            else:
                self.join(rollout)
        else:
            if fails and settings.holds:
                self.free()
            self.arrived(rollout)

    def free(self) -> None:
        """A server is free."""
        self.busy -= 1
        self.env.process(self.serve())


@dataclass
class Phase:
    """A phase under way or over; its cluster knows a rollout by its position in `order`, which is that of submission.

    The order is of all that may still be submitted in it; version: of the weights in the replicas; carried: by
    rollout, the tokens it comes with; over: the loop has enough.
    """

    step: int
    order: list[int]
    version: int
    carried: dict[int, int]
    start_s: float
    sync_s: float
    verify_s: float
    over: simpy.Event
    submitted: int = 0  # of the order
    cluster: Cluster | None = None
    finished: list[int] = field(default_factory=list)
    end_s: float = math.nan
    quiet_s: float = math.nan
    recomputed: int = 0
    emitted: dict[int, int] = field(default_factory=dict)
    log: list[list[Step]] = field(default_factory=list)
    everyone: list[int] = field(default_factory=list)  # whom its cluster knows

    def take(self, count: int) -> list[int]:
        """Submit the next so many: their positions."""
        first, self.submitted = self.submitted, self.submitted + count
        assert self.submitted <= len(self.order), "more than there are"
        return list(range(first, self.submitted))


class System:
    """The state of a run, its loop, and what happens in it."""

    def __init__(
        self,
        requests: Sequence[Request],
        groups: Sequence[int],
        step_of: Sequence[int],
        settings: SystemSettings,
        replicas: int,
        make: Callable[[simpy.Environment, Sequence[Request], list[int]], Cluster],
        online: Online | None = None,
    ) -> None:
        self.env = simpy.Environment(initial_time=0.0)
        self.requests = list(requests)
        self.group = groups
        self.step_of = step_of
        self.settings = settings
        self.replicas = replicas
        self.make = make
        self.steps = step_of[-1] + 1
        self.end = [sum(step <= j for step in step_of) for j in range(self.steps)]
        self.needed = [
            len({g for g, step in zip(groups, step_of, strict=True) if step == j}) for j in range(self.steps)
        ]
        self.members = {g: [i for i, other in enumerate(groups) if other == g] for g in groups}

        ranks = Ranks.of(replicas)
        self.last = ranks.form + replicas  # after all else of an instant
        self.stage = RewardStage(self.env, settings, ranks.submit, self.reward_arrived)
        self.version = 0  # v, of the trainer
        self.loaded = 0  # w, of the replicas
        self.tokens = [0] * len(requests)
        self.begun: set[int] = set()  # rollouts submitted, ever
        self.finished_s: dict[int, float] = {}
        self.ready_s: dict[int, float] = {}  # with a reward stage: the reward is there
        self.complete: list[int] = []  # groups that are not in a batch yet
        self.judged: set[int] = set()  # groups complete or dropped, ever
        self.phases: list[Phase] = []
        self.batches: list[list[int]] = []
        self.train_s: list[float] = []
        self.trained_s: list[float] = []
        self.change = self.env.event()
        self.cluster: Cluster | None = None  # the last one
        self.online = online
        self.trainer = None
        if online is not None:
            self.trainer = Trainer(
                self.env, ranks.submit, online.pool, online.batch, online.step_s, online.sync, self.publish
            )

    # The drafter.

    def publish(self, learnt: Counter[int]) -> None:
        """A version is there: what is decoded from now on is drafted by it."""
        drafts = self.online.drafts(learnt)
        self.requests = [
            replace(request, accepted=accepted, drafted=drafted)
            for request, (accepted, drafted) in zip(self.requests, drafts, strict=True)
        ]
        last = next(phase for phase in reversed(self.phases) if phase.cluster is self.cluster)
        self.cluster.swap([drafts[i] for i in last.everyone], self.online.pause_s)

    # The loops.

    def streaming(self) -> bool:
        return self.settings.loop == "streaming"

    def judges(self) -> bool:
        return self.settings.loop == "refill"

    def behind(self) -> int:
        """How many updates may be missing when a phase starts."""
        return 1 if self.settings.loop == "one_step_async" else 0

    def in_flight(self, phase: Phase) -> int:
        """Submitted in the phase and not over with, as the loop sees it."""
        over = self.ready_s if self.judges() else self.finished_s
        return sum(i not in over for i in phase.order[: phase.submitted])

    def due(self, phase: Phase) -> int:
        """Not submitted in the phase yet, and of an RL step that it may work on."""
        ahead = self.version + self.settings.lag if self.streaming() else phase.step
        end = self.end[min(ahead, self.steps - 1)]
        return sum(i < end for i in phase.order[phase.submitted :])

    def fresh(self, phase: Phase) -> int:
        """Not submitted in the phase yet."""
        return len(phase.order) - phase.submitted

    def open_groups(self) -> int:
        """Groups that have begun and are neither complete nor dropped."""
        return len({self.group[i] for i in self.begun} - self.judged)

    def at_most(self, j: int) -> int:
        """How many are in flight in a phase of partial."""
        if self.settings.share is None:
            return self.settings.rollouts
        return max(round(self.settings.share * (self.end[j] - (self.end[j - 1] if j else 0))), 1)

    def drawn(self, phase: Phase) -> int:
        """Not submitted in the phase yet, and among the groups that have been drawn, or before the last of those."""
        if self.settings.prompts is None:
            return self.fresh(phase)
        groups = math.ceil(self.settings.prompts * sum(self.needed[: phase.step + 1]))
        last = max(i for g in list(self.members)[:groups] for i in self.members[g])
        return sum(i <= last for i in phase.order[phase.submitted :])

    def offer(self, phase: Phase) -> int:
        """How many to submit now."""
        if self.settings.loop == "partial":
            return min(self.at_most(phase.step) - self.in_flight(phase), self.drawn(phase))
        if self.settings.loop == "streaming":
            return min(self.settings.rollouts - self.in_flight(phase), self.due(phase))
        if self.settings.loop == "refill":
            missing = max(self.needed[phase.step] - len(self.complete) - self.open_groups(), 0)
            groups = list(dict.fromkeys(self.group[i] for i in phase.order[phase.submitted :]))
            return sum(len(self.members[g]) for g in groups[:missing])
        return self.due(phase)

    def enough(self, phase: Phase) -> bool:
        """Whether the phase is over."""
        if self.settings.loop == "partial":
            return len(self.complete) >= self.needed[phase.step]
        if self.settings.loop == "streaming":
            return self.version > phase.step
        if self.settings.loop == "refill":
            nothing = self.in_flight(phase) == 0 and self.fresh(phase) == 0 and self.open_groups() == 0
            return len(self.complete) >= self.needed[phase.step] or nothing
        return self.in_flight(phase) == 0 and self.due(phase) == 0

    def order(self, j: int) -> list[int]:
        """What a phase may submit, in order: the RL step's rollouts in loops that do one at a time, or what is left."""
        left = [i for i in range(len(self.requests)) if i not in self.finished_s]
        if self.settings.loop in ("sync", "one_step_async"):
            return [i for i in left if i < self.end[j]]
        carried = [i for i in left if i in self.begun]
        started = [i for i in carried if self.tokens[i] > 0]
        waiting = [i for i in carried if self.tokens[i] == 0]
        return started + waiting + [i for i in left if i not in self.begun]

    # Generation.

    def generate(self) -> Process:
        for j in range(self.steps):
            while self.version < j - self.behind():
                yield self.change
                yield Turn(self.env, self.last)
            sync_s = 0.0
            if self.loaded < self.version:
                sync_s, self.loaded = self.settings.sync_s, self.version
                yield self.env.timeout(sync_s)
                yield Turn(self.env, self.last)
            order = self.order(j)
            carried = {i: self.tokens[i] for i in order if i in self.begun}
            verify_s = self.settings.verify_s(order)
            if verify_s > 0:
                yield self.env.timeout(verify_s)
            phase = Phase(j, order, self.loaded, carried, self.env.now, sync_s, verify_s, self.env.event())
            self.phases.append(phase)
            self.keep(phase)
            order = phase.order
            if self.enough(phase) or not order:
                phase.order, phase.log = [], [[] for _ in range(self.replicas)]
                phase.end_s = self.env.now
                phase.over.succeed()
            else:
                yield from self.run(phase)
            if not self.streaming():
                if len(self.complete) < self.needed[j]:
                    return
                self.form_batch(j)
            self.changed()
            if phase.cluster is not None:
                yield phase.cluster.stop()
                self.account(phase, phase.cluster.result())
            phase.quiet_s = self.env.now
            if self.settings.after_batch and not self.streaming():
                self.judge(j)
            self.changed()

    def keep(self, phase: Phase) -> None:
        """Rollouts have what they keep, and are done where it is all."""
        if self.settings.kept is None:
            return
        for i in phase.order:
            self.tokens[i] = self.settings.kept[i]
        whole = [i for i in phase.order if self.tokens[i] == self.requests[i].output_tokens]
        phase.order = [i for i in phase.order if i not in whole]
        for i in whole:
            self.finish(phase, i)

    def run(self, phase: Phase) -> Process:
        """From the phase's start to its end."""
        phase.everyone = list(phase.order)
        chosen = [self.requests[i] for i in phase.order]
        phase.cluster = self.make(self.env, chosen, [self.tokens[i] for i in phase.order])
        if self.cluster is not None:  # the replicas are the same ones
            for replica, earlier in zip(phase.cluster.replicas, self.cluster.replicas, strict=True):
                replica.pauses = earlier.pauses
        self.cluster = phase.cluster
        phase.cluster.start(self.submit(phase, self.offer(phase)))
        assert phase.submitted > 0, "nothing to wait for"
        self.env.process(self.listen(phase, phase.cluster))
        yield phase.over
        phase.end_s = self.env.now

    def submit(self, phase: Phase, count: int) -> list[int]:
        positions = phase.take(count)
        self.begun.update(phase.order[position] for position in positions)
        return positions

    def listen(self, phase: Phase, cluster: Cluster) -> Process:
        while True:
            news = yield cluster.news
            for position in news:
                self.finish(phase, phase.order[position])
            if self.streaming():
                self.form_batches()
            if not self.judges() or self.settings.reward_s is None:
                self.ask(phase)
            self.changed()

    def ask(self, phase: Phase) -> None:
        """Have the loop decide."""
        if phase.over.triggered:
            return
        if self.enough(phase):
            phase.over.succeed()
        elif (count := self.offer(phase)) > 0:
            phase.cluster.submit(self.submit(phase, count))

    def finish(self, phase: Phase, rollout: int) -> None:
        assert rollout not in self.finished_s, f"rollout {rollout} finishes twice"
        self.finished_s[rollout] = self.env.now
        phase.finished.append(rollout)
        if self.trainer is not None:
            self.trainer.collect(self.online.domains[rollout])
        group = self.group[rollout]
        if not self.judges() and all(i in self.finished_s for i in self.members[group]):
            self.complete.append(group)
            self.judged.add(group)
        if self.settings.reward_s is None:
            self.rewarded(rollout)
        elif not self.settings.after_batch:
            self.stage.join(rollout)

    def reward_arrived(self, rollout: int) -> None:
        self.rewarded(rollout)
        if self.judges():
            self.ask(self.phases[-1])
        self.changed()

    def rewarded(self, rollout: int) -> None:
        """Its reward is there, or none is needed; judge the group that is whole by it."""
        self.ready_s[rollout] = self.env.now
        members = self.members[self.group[rollout]]
        if self.judges() and all(i in self.ready_s for i in members):
            self.judged.add(self.group[rollout])
            if len({self.settings.rewards[i] for i in members}) > 1:
                self.complete.append(self.group[rollout])

    def account(self, phase: Phase, result: ClusterResult) -> None:
        """What the phase did, now that it is quiet."""
        for position, rollout in enumerate(phase.order):
            emitted = result.emitted[position] - self.tokens[rollout]
            if emitted > 0:
                phase.emitted[rollout] = emitted
                self.tokens[rollout] += emitted
            assert (result.finished_s[position] == self.finished_s.get(rollout)) == (rollout in phase.finished)
        phase.recomputed = sum(result.recomputed)
        phase.log = result.log

    # Training.

    def form_batch(self, j: int) -> None:
        """The groups that were whole first."""
        assert len(self.batches) == j, "batches in order"
        self.complete.sort(key=lambda g: (max(self.finished_s[i] for i in self.members[g]), g))
        chosen, self.complete = self.complete[: self.needed[j]], self.complete[self.needed[j] :]
        self.batches.append(sorted(i for g in chosen for i in self.members[g]))
        if self.settings.after_batch and self.streaming():
            self.judge(j)

    def form_batches(self) -> None:
        """As many as there are groups for."""
        while (j := len(self.batches)) < self.steps and len(self.complete) >= self.needed[j]:
            self.form_batch(j)

    def judge(self, j: int) -> None:
        """Have the rewards of a whole batch."""
        for rollout in self.batches[j] if self.settings.reward_s is not None else []:
            self.stage.join(rollout)

    def trainable(self, j: int) -> bool:
        """Whether a batch is there with its rewards; without a lag, also whether the replicas are quiet."""
        if len(self.batches) <= j or not all(i in self.ready_s for i in self.batches[j]):
            return False
        return self.streaming() or self.behind() > 0 or not math.isnan(self.phases[j].quiet_s)

    def ready_groups(self, j: int) -> list[int]:
        """Of an RL step that sync or one_step_async generate, those with all rewards, in order."""
        mine = dict.fromkeys(g for g, step in zip(self.group, self.step_of, strict=True) if step == j)
        there = [g for g in mine if all(i in self.ready_s for i in self.members[g])]
        return sorted(there, key=lambda g: (max(self.ready_s[i] for i in self.members[g]), g))

    def train_in_parts(self, j: int) -> Process:
        """One mini-batch after another, each as soon as its groups are ready."""
        done, train_s = 0, 0.0
        while done < self.needed[j]:
            size = min(self.settings.minibatch, self.needed[j] - done)
            while len(self.ready_groups(j)) < done + size:
                yield self.change
            yield Turn(self.env, self.last)
            chosen = self.ready_groups(j)[done : done + size]
            seconds = self.settings.batch_s(sorted(i for g in chosen for i in self.members[g]))
            yield self.env.timeout(seconds)
            done, train_s = done + size, train_s + seconds
        self.train_s.append(train_s)

    def scored_s(self, j: int) -> float:
        """Seconds of the pass over what a phase put out: what it finished, and what is in flight at its end and has tokens."""
        if self.settings.score_s is None:
            return 0.0
        phase = self.phases[j]
        there = [i for i in phase.order[: phase.submitted] if self.tokens[i] > 0]
        return self.settings.score_s([(i, self.tokens[i]) for i in there])

    def train(self) -> Process:
        for j in range(self.steps):
            if self.settings.minibatch:
                yield from self.train_in_parts(j)
                self.trained_s.append(self.env.now)
                self.version = j + 1
                self.changed()
                continue
            while not self.trainable(j):
                yield self.change
            self.train_s.append(self.settings.batch_s(self.batches[j]) + self.scored_s(j))
            yield self.env.timeout(self.train_s[j])
            self.trained_s.append(self.env.now)
            self.version = j + 1
            if self.streaming():
                self.ask(self.phases[-1])
            self.changed()

    def changed(self) -> None:
        """Have those that wait for something look again."""
        change, self.change = self.change, self.env.event()
        change.succeed()

    # The end.

    def result(self, j: int) -> RLStep:
        phase, batch = self.phases[j], self.batches[j]
        stale: Counter[int] = Counter()  # tokens of the batch, by staleness
        for earlier in self.phases:
            stale[j - earlier.version] += sum(earlier.emitted.get(i, 0) for i in batch)
        if self.settings.kept is not None:
            stale[j - (self.phases[j].version - 1)] += sum(self.settings.kept[i] for i in batch)
        stale = +stale
        assert stale.total() == sum(self.requests[i].output_tokens for i in batch), "a batch is of whole rollouts"
        return RLStep(
            start_s=phase.start_s,
            end_s=phase.end_s,
            quiet_s=phase.quiet_s,
            rewarded_s=max(self.ready_s[i] for i in batch),
            trained_s=self.trained_s[j],
            train_s=self.train_s[j],
            sync_s=phase.sync_s,
            verify_s=phase.verify_s,
            carried=len(phase.carried),
            carried_tokens=sum(phase.carried.values()),
            recomputed=phase.recomputed,
            finished=phase.finished,
            finished_s={i: self.finished_s[i] for i in phase.finished},
            emitted=phase.emitted,
            trained=batch,
            stale_mean=sum(behind * tokens for behind, tokens in stale.items()) / stale.total(),
            stale_max=max(stale),
            log=phase.log,
            order=phase.order,
        )


def assert_runnable(
    requests: Sequence[Request], groups: Sequence[int], step_of: Sequence[int], system: SystemSettings
) -> None:
    """AssertionError for a stream or settings that mean nothing."""
    count = len(requests)
    assert system.loop in LOOPS, f"loop {system.loop}"
    assert 0 < count == len(groups) == len(step_of), "a group and an RL step for each rollout"
    assert list(step_of) == sorted(step_of), "RL steps in stream order"
    assert set(step_of) == set(range(step_of[-1] + 1)), "no RL step is empty"
    assert len(set(zip(groups, step_of, strict=True))) == len(set(groups)), "a group is of one RL step"
    first = list(dict.fromkeys(groups))
    assert first == sorted(first), "groups are numbered in stream order"
    assert system.rollouts >= 1 or system.share or system.loop not in ("partial", "streaming"), "rollouts in flight"
    assert system.prompts is None or system.prompts >= 1, "as many prompts as are needed"
    assert not system.minibatch or system.loop in ("sync", "one_step_async"), "mini-batches of RL steps that are whole"
    assert not (system.minibatch and system.after_batch), "nobody waits for the batch"
    assert system.score_s is None or system.loop == "partial", "scored between phases"
    assert system.lag >= 0, f"lag {system.lag}"
    assert system.servers >= 1, f"{system.servers} servers"
    assert system.tries is None or max(system.failures or [0]) <= system.tries, "no more fail than are tried"
    for each in (system.reward_s, system.failures, system.rewards):
        assert each is None or len(each) == count, "one for each rollout"
    if system.kept is not None:
        assert system.loop == "sync", "which waits for all that it would verify"
        assert all(0 <= k <= r.output_tokens for k, r in zip(system.kept, requests, strict=True)), (
            "tokens of the rollout"
        )
    if system.loop == "refill":
        assert system.rewards is not None, "nothing to judge by"
        assert not system.after_batch, "it judges before there is a batch"
        assert list(groups) == sorted(groups), "groups are submitted whole"


def play(
    requests: Sequence[Request],
    groups: Sequence[int],
    step_of: Sequence[int],
    settings: Settings,
    cost: Cost,
    replicas: int,
    placement: Callable[[], Placement],
    system: SystemSettings,
    pull_s_per_token: float = 0.0,
    by_number: bool = True,
    online: Online | None = None,
    trainers: list[Trainer] | None = None,
) -> list[RLStep]:
    """Run the stream to its last update, or to the phase of refill that finds too few groups, which is left out.

    groups, step_of: by rollout, in stream order; placement makes a fresh one for each phase. A phase's placement and
    cluster know rollouts by position: in the RL step for sync and one_step_async; in the phase's order of submission
    for the other loops, that is first the carried (those with tokens, then those without, each in stream order), then
    the rest of the stream, submitted or not (`System.order`; `RLStep.order` has it for each phase). What is submitted
    as a phase starts is told as `start`, the rest as `arrival`. trainers: takes that of the drafter, where there is one.
    """
    assert_runnable(requests, groups, step_of, system)

    def make(env: simpy.Environment, chosen: Sequence[Request], starts: list[int]) -> Cluster:
        return Cluster(env, chosen, settings, cost, replicas, placement(), pull_s_per_token, starts, by_number)

    run = System(requests, groups, step_of, system, replicas, make, online)
    if trainers is not None:
        trainers.append(run.trainer)
    generation = run.env.process(run.generate())
    run.env.process(run.train())
    run.env.run()
    assert generation.triggered, "a phase never ends"
    done = len(run.batches)
    assert len(run.trained_s) == done, "a batch is never trained"
    return [run.result(j) for j in range(done)]
