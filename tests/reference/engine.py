"""Lock-step decoding with one SimPy process per rollout, as the definitions say it.

A decode step of a replica: admit, plan every live rollout's share of the step, let its cost pass, emit. A rollout's
process does nothing but wait for its replica's step ends; a replica's process keeps the batch in step.
"""

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import simpy
from simpy.events import NORMAL, EventPriority

Cost = Callable[[int, int, int, int, int], float]
"""(live, query_tokens, kv_tokens, pairs, prefill_tokens) -> seconds."""

Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Rollout:
    """One rollout and, by tokens emitted, what its drafter would get accepted (A) and propose (D) with no limit.

    Where the draft itself depends on the budget, `by_budget[k]` holds (A, D) at budget k and the plain pair is unused.
    """

    prompt_tokens: int
    output_tokens: int
    accepted: Sequence[int] = ()
    drafted: Sequence[int] = ()
    by_budget: Mapping[int, tuple[Sequence[int], Sequence[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.prompt_tokens >= 0, "negative prompt"
        assert self.output_tokens >= 1, "a rollout emits at least one token"
        for accepted, drafted in self.by_budget.values() or [(self.accepted, self.drafted)]:
            assert len(accepted) == len(drafted) == self.output_tokens, "A and D have one entry per token emitted"
            for p, (a, d) in enumerate(zip(accepted, drafted, strict=True)):
                assert 0 <= a <= min(d, self.output_tokens - p), f"not 0 <= A <= D, A <= l - p at p = {p}: A {a}, D {d}"


@dataclass(frozen=True)
class View:
    """What a deployed engine knows of one replica's batch when a step starts; entries in order of admission.

    before: how many there were in the step before; as many as now in the first one.
    """

    live: int
    rollouts: tuple[int, ...]
    prompt_tokens: tuple[int, ...]
    emitted_tokens: tuple[int, ...]
    before: int = 0


Policy = Callable[[View], list[int]]
"""The most tokens to draft for each live rollout; the entry of a rollout in its prefill is not used."""


@dataclass(frozen=True)
class Share:
    """One rollout's part in one decode step."""

    query_tokens: int
    context_tokens: int
    pairs: int
    prefill_tokens: int
    drafted: int
    accepted: int
    emitted: int


@dataclass(frozen=True)
class Step:
    """One decode step of one replica."""

    replica: int
    start_s: float
    dt_s: float
    end_s: float
    live: int
    query_tokens: int
    kv_tokens: int
    pairs: int
    prefill_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    emitted_tokens: int


@dataclass(frozen=True)
class RunResult:
    """What a run gives: totals, then lists by rollout, then every decode step by (start, replica)."""

    makespan_s: float
    straggler_s: float
    decode_steps: int
    sequence_steps: int
    drafted_tokens: int
    accepted_tokens: int
    output_tokens: int
    finish_s: list[float]
    replica: list[int]
    rollout_steps: list[int]
    rollout_drafted: list[int]
    rollout_accepted: list[int]
    steps: list[Step]


Work = tuple[int, int, int, int, int]
"""Of a step: live sequences, query tokens, context tokens, pairs, prefilled tokens."""
Drafting = Callable[[int, int, int, int, int, float, int, Work], float]
"""Seconds of drafting: sequences that may draft, passes of the draft that takes most, drafted tokens, accepted + bonus tokens,
context tokens of all sequences that decode, seconds of the step without drafting, how many decode, the work of the step ->
seconds."""


def simulate(
    workload: Sequence[Rollout],
    cost: Cost,
    policy: Policy,
    max_num_seqs: int,
    replicas: int = 1,
    dispatch: Literal["shared", "static"] = "shared",
    drafting: "Drafting | None" = None,
    passes: Callable[[int], int] = int,
    switch: tuple[int, int, bool] = (0, 0, False),
) -> RunResult:
    """Run the workload, in queue order, to its last completion; passes: of a draft model, for a draft of so many tokens.

    switch: (live, patience, whether all that runs is prefilled again): a replica drafts from the step on that is the last of
    `patience` in a row before which at most `live` ran.
    """
    env = simpy.Environment(initial_time=0.0)
    waiting = [_Live(index, rollout, env.event()) for index, rollout in enumerate(workload)]
    for rollout in waiting:
        env.process(rollout.live())
    queues = [deque(waiting)] * replicas if dispatch == "shared" else split(waiting, replicas)
    log: list[Step] = []
    cluster = [
        _Replica(env, index, queue, max_num_seqs, cost, policy, log, drafting, passes, switch)
        for index, queue in enumerate(queues)
    ]
    if dispatch == "shared":
        _hand_out(queues[0], cluster)
    for replica in cluster:
        env.process(replica.decode())
    env.run()
    finish_s = [rollout.finish_s for rollout in waiting]
    return RunResult(
        makespan_s=max(finish_s, default=0.0),
        straggler_s=straggler_s(finish_s),
        decode_steps=len(log),
        sequence_steps=sum(step.live for step in log),
        drafted_tokens=sum(step.drafted_tokens for step in log),
        accepted_tokens=sum(step.accepted_tokens for step in log),
        output_tokens=sum(step.emitted_tokens for step in log),
        finish_s=finish_s,
        replica=[rollout.replica for rollout in waiting],
        rollout_steps=[rollout.steps for rollout in waiting],
        rollout_drafted=[rollout.drafted for rollout in waiting],
        rollout_accepted=[rollout.accepted for rollout in waiting],
        steps=log,
    )


def share(rollout: Rollout, p: int, k: int, again: bool = False) -> Share:
    """What the rollout does in a step that starts with p tokens emitted, at budget k; again: it has no KV any more."""
    context = rollout.prompt_tokens + p
    if p == 0 or again:  # the whole prompt and what was emitted, and one token
        q = max(rollout.prompt_tokens, 1) + p
        return Share(q, q if p else context, q * (q + 1) // 2, prefill_tokens=q, drafted=0, accepted=0, emitted=1)
    drafted = accepted = 0
    if k > 0:
        by_position = rollout.by_budget[k] if rollout.by_budget else (rollout.accepted, rollout.drafted)
        accepted, drafted = (min(k, tokens[p]) for tokens in by_position)
    q = 1 + drafted
    emitted = min(accepted + 1, rollout.output_tokens - p)
    return Share(q, context, q * context, prefill_tokens=0, drafted=drafted, accepted=accepted, emitted=emitted)


def straggler_s(finish_s: Sequence[float]) -> float:
    """From the last completion before the last tenth of the makespan, or from the start, to the last completion."""
    makespan_s = max(finish_s, default=0.0)
    return makespan_s - max((finish for finish in finish_s if finish <= 0.9 * makespan_s), default=0.0)


def split(waiting: Sequence["_Live"], parts: int) -> list[deque["_Live"]]:
    """Contiguous parts; where they cannot be equal, the first ones have one more."""
    size, larger = divmod(len(waiting), parts)
    queues, start = [], 0
    for part in range(parts):
        end = start + size + (part < larger)
        queues.append(deque(waiting[start:end]))
        start = end
    return queues


class _Live:
    """A rollout and its process."""

    def __init__(self, index: int, rollout: Rollout, admitted: simpy.Event) -> None:
        self.index = index
        self.rollout = rollout
        self.admitted = admitted
        self.share: Share
        self.again = False
        self.emitted = self.steps = self.drafted = self.accepted = 0
        self.replica = -1
        self.finish_s = float("nan")

    def live(self) -> Process:
        replica: _Replica = yield self.admitted
        self.replica = replica.index
        while self.emitted < self.rollout.output_tokens:
            yield replica.step_end
            self.steps += 1
            self.emitted += self.share.emitted
            self.drafted += self.share.drafted
            self.accepted += self.share.accepted
        self.finish_s = replica.clock_s
        replica.batch.remove(self)


class _Replica:
    """A replica, its batch in order of admission, and the process that keeps the batch in step."""

    def __init__(
        self,
        env: simpy.Environment,
        index: int,
        queue: deque[_Live],
        max_num_seqs: int,
        cost: Cost,
        policy: Policy,
        log: list[Step],
        drafting: "Drafting | None",
        passes: Callable[[int], int],
        switch: tuple[int, int, bool],
    ) -> None:
        self.env = env
        self.index = index
        self.queue = queue
        self.max_num_seqs = max_num_seqs
        self.cost = cost
        self.policy = policy
        self.log = log
        self.drafting, self.passes = drafting, passes
        self.few, self.patience, self.reprefill = switch
        self.calm, self.on = 0, self.patience == 0
        self.batch: list[_Live] = []
        self.before = 0
        self.clock_s = 0.0
        self.step_end = env.event()

    def decode(self) -> Process:
        while True:
            self.look_at_switch()
            while self.queue and self.has_room():
                self.admit(self.queue.popleft())
            if not self.batch:
                return
            step = self.plan_step()
            self.log.append(step)
            yield _Turn(self.env, self.index, step.dt_s)
            self.clock_s += step.dt_s
            assert self.clock_s == self.env.now, "SimPy adds the same floats in the same order"
            ended, self.step_end = self.step_end, self.env.event()
            ended.succeed()
            yield _Turn(self.env, self.index, 0.0)  # the rollouts emit, and leave, first

    def look_at_switch(self) -> None:
        running = [rollout for rollout in self.batch if rollout.emitted > 0]
        if self.on or not running:
            return
        self.calm = self.calm + 1 if len(running) <= self.few else 0
        self.on = self.calm == self.patience
        for rollout in running if self.on and self.reprefill else ():
            rollout.again = True

    def has_room(self) -> bool:
        return len(self.batch) < self.max_num_seqs

    def admit(self, rollout: _Live) -> None:
        self.batch.append(rollout)
        rollout.admitted.succeed(self)

    def plan_step(self) -> Step:
        view = View(
            live=len(self.batch),
            rollouts=tuple(r.index for r in self.batch),
            prompt_tokens=tuple(r.rollout.prompt_tokens for r in self.batch),
            emitted_tokens=tuple(r.emitted for r in self.batch),
            before=self.before or len(self.batch),
        )
        budgets = self.policy(view) if self.on else [0] * len(self.batch)
        self.before = len(self.batch)
        again = [r.again for r in self.batch]
        for r, k in zip(self.batch, budgets, strict=True):
            r.share = share(r.rollout, r.emitted, k, r.again)
            r.again = False
        shares = [r.share for r in self.batch]
        query = sum(s.query_tokens for s in shares)
        kv = sum(s.context_tokens for s in shares)
        pairs = sum(s.pairs for s in shares)
        prefill = sum(s.prefill_tokens for s in shares)
        dt_s = self.cost(len(self.batch), query, kv, pairs, prefill)
        if self.drafting is not None:
            those = zip(self.batch, budgets, again, strict=True)
            decoding = [(r.share, k) for r, k, prefilled in those if r.emitted > 0 and not prefilled]
            dt_s += self.drafting(
                sum(k > 0 for _, k in decoding),
                max((self.passes(s.drafted) for s, _ in decoding), default=0),
                sum(s.drafted for s, _ in decoding),
                sum(s.accepted + 1 for s, _ in decoding),
                sum(s.context_tokens for s, _ in decoding),
                dt_s,
                len(decoding),
                (len(self.batch), query, kv, pairs, prefill),
            )
        assert 0.0 < dt_s < float("inf"), f"a step must take time, not {dt_s} s"
        return Step(
            replica=self.index,
            start_s=self.clock_s,
            dt_s=dt_s,
            end_s=self.clock_s + dt_s,
            live=len(self.batch),
            query_tokens=query,
            kv_tokens=kv,
            pairs=pairs,
            prefill_tokens=prefill,
            drafted_tokens=sum(s.drafted for s in shares),
            accepted_tokens=sum(s.accepted for s in shares),
            emitted_tokens=sum(s.emitted for s in shares),
        )


class _Turn(simpy.Event):
    """After a delay, behind everything else of that instant, and of two replicas the lower index first."""

    def __init__(self, env: simpy.Environment, replica: int, delay_s: float) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        env.schedule(self, priority=EventPriority(NORMAL + 1 + replica), delay=delay_s)


def _hand_out(queue: deque[_Live], cluster: Sequence[_Replica]) -> None:
    """At time 0 a shared queue's head goes to the emptiest replica, the lowest index first, while one has room."""
    while queue and any(replica.has_room() for replica in cluster):
        min(cluster, key=lambda replica: (len(replica.batch), replica.index)).admit(queue.popleft())
