"""A system played over the RL steps of a trace on one clock: rollouts are generated, judged, trained on, and weights return."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from simulator.budgets.answers import facts_of
from simulator.budgets.policy import BudgetPolicy
from simulator.budgets.view import Requests
from simulator.engine.clock import OTHERS, Clock
from simulator.engine.cluster import Cluster, Outcome, simulate
from simulator.engine.state import ROLLOUT, STEP
from simulator.plugins import calling
from simulator.prepared import Phase, Preparing
from simulator.records import records
from simulator.summary import Episode
from simulator.training.loop import Judges, Loop, LoopView, Watches
from simulator.training.stage import Rollouts, Stage
from simulator.training.trainer import Judging, Span, asked
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]
Process = Generator[simpy.Event, Any, None]

COUNTED = ("steps", "drafted", "accepted", "preempted", "cached", "recomputed")
"""What becomes of a rollout, summed over the phases that it was decoded in."""
TIMES = ("queued_s", "admitted_s", "first_token_s", "finished_s")


@dataclass(eq=False)
class Step:
    """An RL step as it was played; times on the run's clock.

    number: of the trace; start_s, end_s: from when its rollouts are submitted to when the loop has enough; rewarded_s: when all
    rewards of what is trained on are there; trained_s: when its update is done; sync_s, train_s: seconds of those stages.
    carried: rollouts begun in an earlier RL step, and carried_tokens that they had then; recomputed_tokens: prefilled again.
    trained: rollouts trained on; stale: RL steps between the weights that sampled their tokens and the update: mean, most.
    episode: what the rollouts that finished in it did, times since start_s.
    """

    number: int
    over: simpy.Event
    start_s: float = 0.0
    end_s: float = 0.0
    rewarded_s: float = 0.0
    trained_s: float = 0.0
    sync_s: float = 0.0
    train_s: float = 0.0
    carried: int = 0
    carried_tokens: int = 0
    recomputed_tokens: int = 0
    trained: int = 0
    trained_tokens: int = 0
    stale_mean: float = 0.0
    stale_max: int = 0
    spans: list[Span] = field(default_factory=list)
    wall_s: float = 0.0
    _episode: Episode | None = None
    _updated: bool = False

    @property
    def episode(self) -> Episode:
        """What its rollouts did."""
        assert self._episode is not None, "it is over"
        return self._episode

    def close(self, episode: Episode | None = None) -> None:
        """Note that generation (with its episode) or the update is done; with both the RL step is over."""
        self._episode = episode or self._episode
        self._updated |= episode is None
        if self._episode is not None and self._updated:
            self.over.succeed()


class SystemRun:
    """One system over the RL steps of a trace; `play` yields each as it ends.

    ready: is called before anything is simulated.
    """

    def __init__(
        self, name: str, preparing: Preparing, loop: Loop, stages: Sequence[Stage], ready: Callable[[], None]
    ) -> None:
        self.name, self.preparing, self.loop, self._ready = name, preparing, loop, ready
        self.stream, self.clock = preparing.stream, Clock()
        self.steps = [Step(number, self.clock.event()) for number in preparing.steps]
        self._stages = {per: [one for one in stages if one.per == per] for per in ("rollout", "batch", "sync")}
        self._judging = Judging(self.clock, self._stages["rollout"], self.rollouts, len(self.stream))
        self._version = self._loaded = self._formed = 0
        self._updated = self.clock.event()
        self._batches: simpy.Store = simpy.Store(self.clock)
        self._sampled_by = np.zeros(len(self.stream))
        self._oldest = np.full(len(self.stream), len(self.steps), np.int64)
        self._sums = records(ROLLOUT, len(self.stream))
        for time_s in (*TIMES, "arrival_s"):
            self._sums[time_s] = np.nan
        self._policy: BudgetPolicy | None = None
        self._generation: _Generation | None = None
        self.ran_dry = False
        self.batches: list[Int64] = []
        self.phase: Phase

    def play(self) -> Iterator[Step]:
        """Yield each RL step once its update is done, until the trace has no more rollouts for one."""
        self.clock.process(self._generate())
        self.clock.process(self._train())
        for step in self.steps:
            try:
                self.clock.run(until=step.over)
            except RuntimeError:
                if self.clock.peek() < np.inf:
                    raise
                if self.ran_dry:  # nothing is left to happen
                    return
                kind = type(self.loop).__name__
                raise InputError(
                    f"loop {kind}: RL step {step.number} never ends: nothing is in flight, and it has not enough"
                ) from None
            yield step

    def rollouts(self, numbers: Int64) -> Rollouts:
        """Rollouts of the stream as stages see them."""
        trace, rows = self.preparing.trace, self.stream.rows[numbers]
        return Rollouts(rows, trace.prompt_tokens[rows].astype(np.int64), trace.output_tokens[rows].astype(np.int64))

    # Generation -----------------------------------------------------------------------------------------------------------

    def _generate(self) -> Process:
        loop = self.loop
        for j, step in enumerate(self.steps):
            while self._version < (j if loop.interrupts else j - loop.lag):
                yield self._updated
            yield from self._take_up_weights(step)
            step.start_s = self.clock.now
            if self.stream.next == len(self.stream) and self.stream.finished.all():
                self._nothing_left(step)
                continue
            phase = self.phase = self.preparing.phase(j, isinstance(loop, Watches))
            self._policy = self.preparing.policy(phase, self._policy)
            self._ready()
            if isinstance(loop, Watches):
                generation = self._generation = _Generation(self, j, step, phase, loop)
                yield from generation.play()
            else:
                yield from self._whole(j, step, phase)
            if self.ran_dry:
                return

    def _take_up_weights(self, step: Step) -> Process:
        if self._loaded == self._version:
            return
        self._loaded = self._version
        nobody = self.rollouts(np.empty(0, np.int64))
        for stage in self._stages["sync"]:
            seconds = float(np.sum(asked(stage, nobody)))
            step.sync_s += seconds
            yield from self._busy(step, stage, seconds)

    def _whole(self, j: int, step: Step, phase: Phase) -> Process:
        """Nothing can disturb it: it is played in one go on a clock of its own, and what finished then happens on the run's."""
        assert self._policy is not None
        started = time.perf_counter()
        outcome = simulate(phase.workload, self._policy, self.preparing.placed(phase))
        step.wall_s = time.perf_counter() - started
        self.check_finite(outcome.makespan_s)
        done_s = step.start_s + outcome.rollouts["finished_s"]
        self._judging.judge(phase.numbers, done_s)
        self.sampled(phase.numbers, phase.workload.output_tokens)
        step.recomputed_tokens = int(outcome.rollouts["recomputed"].sum())
        workload = phase.workload
        step.close(Episode(
            self.name, step.number, workload.requests, workload.output_tokens, outcome, step.wall_s, facts_of(self._policy),
            workload.arrivals_s, workload.waits_s,
        ))  # fmt: skip
        self.stream.next = int(self.stream.ends[j])
        for group in self.stream.finish(phase.numbers):
            self.stream.complete(group)
        step.end_s = float(done_s.max())
        yield self.clock.at(step.end_s, OTHERS)
        self.form_batch(j)

    def check_finite(self, seconds: float) -> None:
        """Raise InputError for costs that add up to no time."""
        if not np.isfinite(seconds):
            raise InputError(
                f"profile {self.preparing.deployment.cost.name}: its costs add up to {seconds} s: correct them"
            )

    def _nothing_left(self, step: Step) -> None:
        """Everything has been generated; what is left is to train on it."""
        step.end_s, none = step.start_s, np.empty(0, np.int64)
        replicas = self.preparing.deployment.replicas
        outcome = Outcome(
            records(ROLLOUT, 0), [records(STEP, 0)] * replicas, np.zeros(replicas), np.zeros(replicas), 0.0
        )
        step.close(
            Episode(
                self.name, step.number, Requests(none, none, none), none, outcome, 0.0, {}, np.zeros(0), np.zeros(0)
            )
        )

    def sampled(self, numbers: Int64, tokens: Int64) -> None:
        """Note that rollouts emitted so many tokens under the weights that the replicas hold."""
        self._sampled_by[numbers] += tokens * self._loaded
        sampled = numbers[tokens > 0]
        self._oldest[sampled] = np.minimum(self._oldest[sampled], self._loaded)

    # Training -------------------------------------------------------------------------------------------------------------

    def form_batch(self, j: int) -> None:
        """Hand RL step j's groups to the trainer."""
        self._formed = j + 1
        self.batches.append(self.stream.batch(int(self.stream.groups[j])))
        self._batches.put(self.batches[-1])

    def form_batches(self) -> None:
        """Hand over as many RL steps as there are groups complete for."""
        while self._formed < len(self.steps) and self.stream.waiting >= self.stream.groups[self._formed]:
            self.form_batch(self._formed)

    def _train(self) -> Process:
        for j, step in enumerate(self.steps):
            batch: Int64 = yield self._batches.get()
            yield from self._judging.all_done(batch)
            step.rewarded_s = float(self._judging.done_s[batch].max())
            rollouts, started_s = self.rollouts(batch), self.clock.now
            for stage in self._stages["batch"]:
                yield from self._busy(step, stage, float(np.sum(asked(stage, rollouts))))
            step.train_s, step.trained_s, step.trained = self.clock.now - started_s, self.clock.now, batch.size
            tokens = self.stream.lengths[batch]
            step.trained_tokens = int(tokens.sum())
            step.stale_mean = j - float(self._sampled_by[batch].sum() / tokens.sum())
            step.stale_max = j - int(self._oldest[batch].min())
            self._version = j + 1
            step.close()  # before anybody goes on
            updated, self._updated = self._updated, self.clock.event()
            updated.succeed()
            if self.loop.interrupts and self._generation is not None:
                self._generation.stop()

    def _busy(self, step: Step, stage: Stage, seconds: float) -> Process:
        if seconds > 0:
            begun_s = self.clock.now
            yield self.clock.timeout(seconds)
            step.spans.append(Span(step.number, stage.name, stage.per, begun_s, self.clock.now))


class _Generation:
    """A phase in which a loop watches what finishes: it submits more, or has enough."""

    def __init__(self, run: SystemRun, j: int, step: Step, phase: Phase, loop: Loop) -> None:
        assert isinstance(loop, Watches)
        assert run._policy is not None
        self._run, self._j, self._step, self._phase, self._watch, self._loop = run, j, step, phase, loop, loop
        self._stream, self._policy = run.stream, run._policy
        self._first_new = self._stream.next
        self._offered = self._in_flight = 0
        self._cluster: Cluster | None = None
        self._ended = False

    def play(self) -> Process:
        """Decode until the loop has enough; as a SimPy process."""
        run, step, phase = self._run, self._step, self._phase
        step.carried = phase.carried
        step.carried_tokens = int(phase.workload.begun_tokens.sum())
        started = time.perf_counter()
        if self._loop.interrupts and run._version > self._j:
            self.stop()  # the next weights are there already
        first = 0 if self._ended or self._has_enough() else self._take(self._offer())
        cluster = self._cluster = Cluster(
            run.clock, phase.workload, self._policy, run.preparing.placed(phase),
            listener=self._finished, submitted=np.arange(first),
        )  # fmt: skip
        if not self._ended:
            yield from cluster.decode()
        step.wall_s = time.perf_counter() - started
        run.check_finite(cluster.quiet_s)
        if self._ended:
            self._close(cluster)

    def stop(self) -> None:
        """End the phase now."""
        if self._ended:
            return
        self._ended = True
        self._step.end_s = self._run.clock.now
        if self._cluster is not None and (late := self._cluster.stop()):
            self._note(np.array(late))

    def _view(self) -> LoopView:
        carried = max(self._phase.carried - self._offered, 0)
        return self._stream.view(self._j, self._loop.lag if self._loop.interrupts else 0, carried, self._in_flight)

    def _has_enough(self) -> bool:
        with calling(f"loop {type(self._loop).__name__}: enough", "mend the loop"):
            enough = bool(self._watch.enough(self._view()))
        if enough:
            self.stop()
        return enough

    def _offer(self) -> int:
        view = self._view()
        with calling(f"loop {type(self._loop).__name__}: offer", "mend the loop"):
            return min(max(int(self._watch.offer(view)), 0), view.fresh)

    def _take(self, count: int) -> int:
        """Count so many rollouts as submitted; returns how many are now."""
        self._offered += count
        self._in_flight += count
        self._phase.reach(self._offered)
        self._stream.next = max(self._stream.next, self._first_new + self._offered - self._phase.carried)
        mine = self._phase.numbers[self._offered - count : self._offered]
        arrival_s = self._run._sums["arrival_s"]
        arrival_s[mine] = np.where(np.isnan(arrival_s[mine]), self._run.clock.now, arrival_s[mine])
        return self._offered

    def _consult(self) -> None:
        if self._ended or self._has_enough():
            return
        if (count := self._offer()) > 0 and self._cluster is not None:
            first = self._offered
            self._cluster.submit(np.arange(first, self._take(count)))

    def _finished(self, finished: list[int]) -> None:
        """What the cluster tells."""
        self._note(np.array(finished))
        self._consult()

    def _note(self, finished: Int64) -> None:
        """Note what finished; groups that are whole are complete, or are judged when their rewards are there."""
        run, numbers = self._run, self._phase.numbers[finished]
        self._in_flight -= finished.size
        assert self._cluster is not None
        done_s = self._cluster.ledger.rollouts["finished_s"][finished]
        run.sampled(numbers, self._stream.lengths[numbers] - self._stream.emitted[numbers])
        whole = self._stream.finish(numbers)
        judges = isinstance(self._loop, Judges)
        run._judging.judge(numbers, done_s, self._judged if judges else None)
        for group in whole:
            if not judges:
                self._stream.complete(group)
            elif not run._stages["rollout"]:
                self._decide(group)
        if self._loop.interrupts:
            run.form_batches()

    def _judged(self, number: int) -> None:
        """A reward is there: with the last of its group the group is kept or dropped."""
        group = int(self._stream.group[number])
        members = self._stream.members(group)
        if self._stream.left[group] == 0 and not np.isnan(self._run._judging.done_s[members]).any():
            self._decide(group)
            generation = self._run._generation
            if generation is not None:
                generation._consult()

    def _decide(self, group: int) -> None:
        assert isinstance(self._loop, Judges)
        trace = self._run.preparing.trace
        rows = self._stream.rows[self._stream.members(group)]
        rewards = trace.table.column("reward").to_numpy()[rows]
        with calling(f"loop {type(self._loop).__name__}: keep", "mend the loop"):
            self._stream.complete(group, bool(self._loop.keep(rewards.astype(np.float64))))

    def _close(self, cluster: Cluster) -> None:
        """Sum up what the phase did, and hand its groups to the trainer."""
        run, step, phase, stream = self._run, self._step, self._phase, self._stream
        outcome, workload = cluster.outcome(), phase.workload
        ended = outcome.rollouts
        finished = ~np.isnan(ended["finished_s"])
        emitted = np.where(finished, ended["end"], ended["position"]) - ended["start"]
        run.sampled(phase.numbers[~finished], (emitted - workload.begun_tokens)[~finished])
        step.recomputed_tokens = int(ended["recomputed"].sum())
        stream.emitted[phase.numbers] = emitted
        sums = run._sums
        for name in COUNTED:
            sums[name][phase.numbers] += ended[name]
        for name in TIMES:
            earlier = sums[name][phase.numbers]
            sums[name][phase.numbers] = np.where(np.isnan(earlier), ended[name], earlier)
        sums["replica"][phase.numbers] = ended["replica"]
        mine = phase.numbers[finished]
        done = sums[mine]
        for name in (*TIMES, "arrival_s"):
            done[name] -= step.start_s
        for log in outcome.logs:
            log["start_s"] -= step.start_s
        trace, rows = run.preparing.trace, stream.rows[mine]
        columns = (column[rows].astype(np.int64) for column in (trace.prompt, trace.sample, trace.prompt_tokens))
        step.close(Episode(
            run.name, step.number, Requests(*columns), stream.lengths[mine],
            Outcome(done, outcome.logs, outcome.busy_s, outcome.extrapolated_s, step.end_s - step.start_s),
            step.wall_s, facts_of(self._policy), done["arrival_s"], workload.waits_s[finished],
        ))  # fmt: skip
        if self._loop.interrupts:
            return
        if stream.waiting < stream.groups[self._j]:
            run.ran_dry = True
        else:
            run.form_batch(self._j)
