"""RL steps on one SimPy clock, as the definitions say them: a loop submits rollouts, reward servers judge, a trainer trains.

Every rollout is a record, every stage a process; nothing is remembered that could be counted again.
"""

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import simpy

from tests.reference.cluster import FINISHED, Cluster, Placement
from tests.reference.serving import Cost, Request, Settings, Step

Process = Generator[simpy.Event, Any, None]
LoopName = Literal["sync", "one_step_async", "partial", "refill", "streaming"]


@dataclass(frozen=True)
class SystemSettings:
    """rollouts: in flight, of partial and streaming; lag: of streaming; reward_s, failures: by rollout, None without a reward
    stage; batch_s: seconds of the trainer's stages for a batch; rewards: by rollout."""

    loop: LoopName
    rollouts: int
    lag: int
    reward_s: Sequence[float] | None
    servers: int
    failures: Sequence[int] | None
    backoff_s: float
    batch_s: Callable[[list[int]], float]
    sync_s: float
    rewards: Sequence[float]


@dataclass
class RLStep:
    """Times on the clock; finished: who did in its phase; emitted: tokens of each in its phase; trained: its batch."""

    start_s: float = 0.0
    end_s: float = 0.0
    sync_s: float = 0.0
    rewarded_s: float = 0.0
    trained_s: float = 0.0
    train_s: float = 0.0
    carried: int = 0
    carried_tokens: int = 0
    recomputed: int = 0
    finished: list[int] = field(default_factory=list)
    emitted: dict[int, int] = field(default_factory=dict)
    trained: list[int] = field(default_factory=list)
    stale_mean: float = 0.0
    stale_max: int = 0
    log: list[list[Step]] = field(default_factory=list)


class Run:
    """Everything that is known of the run at the clock's time."""

    def __init__(
        self, requests: Sequence[Request], groups: Sequence[int], step_of: Sequence[int], settings: Settings, cost: Cost,
        replicas: int, placement: Callable[[], Placement], system: SystemSettings, pull_s_per_token: float, by_number: bool,
    ) -> None:  # fmt: skip
        self.env = simpy.Environment(0.0)
        self.requests, self.groups, self.step_of, self.system = requests, groups, step_of, system
        self.make = lambda env, mine, begun: Cluster(
            env, mine, settings, cost, replicas, placement(), pull_s_per_token, begun, by_number
        )
        self.steps = [RLStep() for _ in range(1 + max(step_of))]
        self.tokens = [0] * len(requests)  # emitted before the phase at hand
        self.spans: list[dict[int, int]] = [{} for _ in requests]  # tokens by the version that sampled them
        self.finished_s = [math.nan] * len(requests)
        self.judged_s = [math.nan] * len(requests)
        self.begun: set[int] = set()
        self.complete: list[int] = []  # groups, in order of completion, those of batches included
        self.dropped: set[int] = set()
        self.batched = 0
        self.batches: list[list[int]] = []
        self.version = self.loaded = 0
        self.updated, self.something = self.env.event(), self.env.event()
        self.servers = simpy.Resource(self.env, system.servers)
        self.over = len(self.steps)
        self.phase: Phase | None = None

    def needed(self, j: int) -> int:
        return len({g for g, step in zip(self.groups, self.step_of, strict=True) if step == j})

    def members(self, group: int) -> list[int]:
        return [i for i, g in enumerate(self.groups) if g == group]

    def wake(self) -> None:
        """Let everybody who waits for something look again."""
        something, self.something = self.something, self.env.event()
        something.succeed()

    def note_finished(self, i: int, at_s: float) -> None:
        self.finished_s[i] = at_s
        if self.system.reward_s is None:
            self.judged_s[i] = at_s
        else:
            self.env.process(self.judge(i, at_s))

    def judge(self, i: int, at_s: float) -> Process:
        assert self.system.reward_s is not None
        assert self.system.failures is not None
        yield self.env.timeout(at_s - self.env.now)
        for attempt in range(self.system.failures[i] + 1):
            with self.servers.request() as turn:
                yield turn
                yield self.env.timeout(self.system.reward_s[i])
            if attempt < self.system.failures[i]:
                yield self.env.timeout(self.system.backoff_s * 2**attempt)
        self.judged_s[i] = self.env.now
        if self.system.loop == "refill":
            self.complete_groups()
            if self.phase is not None:
                self.phase.consult()
        self.wake()

    def complete_groups(self) -> None:
        """Groups all of whose rollouts have finished (for refill: and have been judged), that nobody noted yet."""
        seen = {*self.complete, *self.dropped}
        found = []
        for group in sorted(set(self.groups) - seen):
            times = [
                self.judged_s[i] if self.system.loop == "refill" else self.finished_s[i] for i in self.members(group)
            ]
            if not any(math.isnan(time_s) for time_s in times):
                found.append((max(times), group))
        for _, group in sorted(found):
            if self.system.loop == "refill" and len({self.system.rewards[i] for i in self.members(group)}) == 1:
                self.dropped.add(group)
            else:
                self.complete.append(group)

    def waiting(self) -> int:
        return len(self.complete) - self.batched

    def form_batch(self, j: int) -> None:
        mine = self.complete[self.batched : self.batched + self.needed(j)]
        self.batched += len(mine)
        self.batches.append(sorted(i for group in mine for i in self.members(group)))
        self.wake()

    # Processes ------------------------------------------------------------------------------------------------------------

    def generate(self) -> Process:
        lag = {"one_step_async": 1}.get(self.system.loop, 0)
        for j, step in enumerate(self.steps):
            while self.version < j - lag:
                yield self.updated
            if self.loaded < self.version:
                self.loaded = self.version
                step.sync_s = self.system.sync_s
                yield self.env.timeout(self.system.sync_s)
            step.start_s = self.env.now
            self.phase = Phase(self, j)
            yield from self.phase.play()
            if self.over <= j:
                return

    def train(self) -> Process:
        for j, step in enumerate(self.steps):
            while len(self.batches) <= j or any(math.isnan(self.judged_s[i]) for i in self.batches[j]):
                yield self.something
            batch = step.trained = self.batches[j]
            step.rewarded_s = max(self.judged_s[i] for i in batch)
            step.train_s = self.system.batch_s(batch)
            yield self.env.timeout(step.train_s)
            step.trained_s = self.env.now
            spans = [(j - version, tokens) for i in batch for version, tokens in self.spans_of(i).items()]
            step.stale_mean = sum(stale * tokens for stale, tokens in spans) / sum(tokens for _, tokens in spans)
            step.stale_max = max(stale for stale, _ in spans)
            self.version = j + 1
            updated, self.updated = self.updated, self.env.event()
            updated.succeed()
            if self.system.loop == "streaming" and self.phase is not None:
                self.phase.stop()

    def spans_of(self, i: int) -> dict[int, int]:
        """Tokens by version, those of the phase at hand included: who is trained on has finished."""
        before = sum(self.spans[i].values())
        left = self.requests[i].output_tokens - before
        return {**self.spans[i], self.loaded: self.spans[i].get(self.loaded, 0) + left} if left else self.spans[i]


class Phase:
    """The generation of one RL step under one version. Rollouts are numbered in the order in which they are submitted."""

    def __init__(self, run: Run, j: int) -> None:
        self.run, self.j, self.step = run, j, run.steps[j]
        whole = run.system.loop in ("sync", "one_step_async")
        unfinished = [i for i in sorted(run.begun) if math.isnan(run.finished_s[i])]
        carried = sorted(unfinished, key=lambda i: run.tokens[i] == 0)
        new = [i for i in range(len(run.requests)) if i not in run.begun and (not whole or run.step_of[i] == j)]
        self.order = [*carried, *new]
        self.step.carried, self.step.carried_tokens = len(carried), sum(run.tokens[i] for i in carried)
        self.submitted = 0
        self.ended = False
        self.quiet: simpy.Event | None = None
        self.cluster: Cluster | None = None

    def in_flight(self) -> int:
        return sum(math.isnan(self.run.finished_s[i]) for i in self.order[: self.submitted])

    def offer(self) -> int:
        run, system, rest = self.run, self.run.system, self.order[self.submitted :]
        if system.loop in ("sync", "one_step_async"):
            return len(rest)
        if system.loop == "partial":
            return max(0, min(system.rollouts - self.in_flight(), len(rest)))
        if system.loop == "streaming":
            latest = min(self.j + system.lag, len(run.steps) - 1)
            due = sum(i in run.begun or run.step_of[i] <= latest for i in rest)
            return max(0, min(system.rollouts - self.in_flight(), due))
        begun = {run.groups[i] for i in run.begun} - {*run.complete, *run.dropped}
        missing = run.needed(self.j) - run.waiting() - len(begun)
        fresh = list(dict.fromkeys(run.groups[i] for i in rest))[: max(missing, 0)]
        return sum(run.groups[i] in fresh for i in rest)

    def enough(self) -> bool:
        run, loop = self.run, self.run.system.loop
        if loop == "streaming":
            return False
        if loop in ("sync", "one_step_async"):
            return self.submitted == len(self.order) and self.in_flight() == 0
        if run.waiting() >= run.needed(self.j):
            return True
        begun = {run.groups[i] for i in run.begun} - {*run.complete, *run.dropped}
        return loop == "refill" and self.in_flight() == 0 and self.submitted == len(self.order) and not begun

    def take(self) -> list[int]:
        """Submit what the loop offers; the numbers."""
        count = self.offer()
        numbers = list(range(self.submitted, self.submitted + count))
        self.submitted += count
        self.run.begun |= {self.order[number] for number in numbers}
        return numbers

    def consult(self) -> None:
        if self.ended or self.cluster is None:
            return
        if self.enough():
            self.stop()
        elif numbers := self.take():
            self.cluster.submit(numbers)

    def stop(self) -> None:
        if not self.ended:
            self.ended = True
            self.step.end_s = self.run.env.now
            if self.cluster is not None:
                self.quiet = self.cluster.stop()
            self.run.wake()

    def play(self) -> Process:
        run, env = self.run, self.run.env
        whole = run.system.loop in ("sync", "one_step_async")
        if not self.order or (run.system.loop == "streaming" and run.version > self.j) or (not whole and self.enough()):
            self.stop()
        else:
            mine = [run.requests[i] for i in self.order]
            self.cluster = run.make(env, mine, [run.tokens[i] for i in self.order])
            self.cluster.start(self.take())
            while not self.ended:
                yield self.cluster.news | run.something
                self.look()
            assert self.quiet is not None
            while not self.quiet.processed:
                yield self.cluster.news | self.quiet
                self.look()
            self.close()
        if run.system.loop == "streaming":
            return
        if run.waiting() < run.needed(self.j):
            run.over = self.j
        else:
            run.form_batch(self.j)

    def look(self) -> None:
        """Note who has finished since the last look."""
        assert self.cluster is not None
        finished = False
        for number in range(self.submitted):
            i, member = self.order[number], self.cluster.members[number]
            if member.where == FINISHED and math.isnan(self.run.finished_s[i]):
                self.run.note_finished(i, member.rollout.finished_s)
                self.step.finished.append(i)
                finished = True
        if not finished:
            return
        self.run.complete_groups()
        while self.run.system.loop == "streaming" and len(self.run.batches) < len(self.run.steps) and (
            self.run.waiting() >= self.run.needed(len(self.run.batches))
        ):  # fmt: skip
            self.run.form_batch(len(self.run.batches))
        self.consult()

    def close(self) -> None:
        """Keep what everybody has emitted."""
        assert self.cluster is not None
        result = self.cluster.result()
        self.step.log = result.log
        self.step.recomputed = sum(result.recomputed)
        for number, i in enumerate(self.order):
            delta = result.emitted[number] - self.run.tokens[i]
            if delta:
                self.step.emitted[i] = delta
                spans = self.run.spans[i]
                spans[self.run.loaded] = spans.get(self.run.loaded, 0) + delta
            self.run.tokens[i] = result.emitted[number]


def play(
    requests: Sequence[Request], groups: Sequence[int], step_of: Sequence[int], settings: Settings, cost: Cost, replicas: int,
    placement: Callable[[], Placement], system: SystemSettings, pull_s_per_token: float = 0.0, by_number: bool = True,
) -> list[RLStep]:  # fmt: skip
    """The RL steps that there are rollouts for; groups, step_of: of each rollout, both ascending."""
    run = Run(requests, groups, step_of, settings, cost, replicas, placement, system, pull_s_per_token, by_number)
    run.env.process(run.generate())
    run.env.process(run.train())
    run.env.run()
    return run.steps[: run.over]
