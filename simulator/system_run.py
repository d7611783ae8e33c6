"""A system played over the RL steps of a trace on one clock: rollouts are generated, judged, trained on, and weights return."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import simpy

from simulator.beside import beside_of
from simulator.budgets.answers import facts_of
from simulator.budgets.policy import BudgetPolicy
from simulator.budgets.view import Requests
from simulator.compare.sensitivity import SAMPLE
from simulator.engine.clock import OTHERS, Clock
from simulator.engine.cluster import Outcome, simulate
from simulator.generation import Generation, nothing_yet
from simulator.played import Step, nobody_decodes, with_reused, with_whole
from simulator.prepared import Phase, Preparing
from simulator.reasoning.generating import Generate
from simulator.summary import Episode
from simulator.training.batches import Batches
from simulator.training.loop import Loop, OwnPace, Pipelines, Watches
from simulator.training.pacing import Pacing
from simulator.training.spot import spot_of
from simulator.training.stage import AfterBatch, Per, Publishes, Rollouts, Stage
from simulator.training.trainer import Judging, asked, busy
from simulator.transforms.prefixes import NOBODY
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Process = Generator[simpy.Event, Any, None]


class SystemRun:
    """One system over the RL steps of a trace; `play` yields each as it ends.

    ready: is called before anything is simulated; ahead: generates rollouts reasoning step by reasoning step, in place of the
    cluster. phases: of the RL steps begun, for whoever takes them as those end; None where nothing was left to generate.
    """

    def __init__(
        self, name: str, preparing: Preparing, loop: Loop, stages: Sequence[Stage], ready: Callable[[], None],
        verification: Stage | None = None, ahead: Generate | None = None,
    ) -> None:  # fmt: skip
        self.name, self.preparing, self.loop, self._ready = name, preparing, loop, ready
        self._verification, self._ahead = verification, ahead
        self.stream, self.clock = preparing.stream, Clock()
        sample = max(SAMPLE // len(preparing.steps), 1)
        self.steps = [Step(number, self.clock.event(), sample) for number in preparing.steps]
        self.stages = {per: [one for one in stages if one.per == per] for per in get_args(Per)}
        late = [one for one in self.stages["rollout"] if isinstance(one, AfterBatch) and one.after_batch]
        early = [one for one in self.stages["rollout"] if one not in late]
        self.judging = Judging(self.clock, early, self.rollouts, len(self.stream))
        self._comparing = Judging(self.clock, late, self.rollouts, len(self.stream))
        self.learning = Judging(self.clock, self.stages["drafter"], self.rollouts, len(self.stream))
        deployment = preparing.deployment
        self.spot = spot_of(self.stages["idle"], preparing.drafter, deployment.replicas, deployment.data_parallel_size)
        self.beside = beside_of(self.stages["online"], preparing)
        if self.spot is not None and self.beside is not None:
            raise InputError("stages spot and online: one trains the drafter: leave the other out")
        if self._ahead is not None and self.beside is not None:
            raise InputError(
                "stage online: versions come while rollouts decode, and reasoning has them drafted ahead: drop one"
            )
        self.version = self._loaded = self._formed = 0
        self._updated = self.clock.event()
        rewards = self._comparing if late else self.judging
        self._trainer = Batches(self.clock, loop, self.stages["batch"], self.stream, rewards, self.rollouts)
        self._sampled_by = np.zeros(len(self.stream))
        self._oldest = np.full(len(self.stream), len(self.steps), np.int64)
        self.sums = nothing_yet(len(self.stream) if isinstance(loop, Watches) else 0)
        self.policy: BudgetPolicy | None = None
        self.generation: Generation | None = None
        replicas, ranks = preparing.deployment.replicas, preparing.deployment.data_parallel_size
        self._pacing = Pacing(self.clock, self.stream, replicas, ranks) if isinstance(loop, OwnPace) else None
        self.ran_dry = False
        self.batches, self.put_out = self._trainer.formed, self._trainer.put_out
        self.phases: deque[Phase | None] = deque()

    def play(self) -> Iterator[Step]:
        """Yield each RL step once its update is done, until the trace has no more rollouts for one."""
        if self.beside is not None and isinstance(self.loop, Watches):
            self.beside.follow(self.clock)
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
        return Rollouts(rows, trace.prompt_tokens[rows].astype(np.int64), self.stream.lengths[numbers])

    # Generation -----------------------------------------------------------------------------------------------------------

    def _generate(self) -> Process:
        loop = self.loop
        for j, step in enumerate(self.steps):
            while self.version < (j if loop.interrupts else j - loop.lag):
                yield self._updated
            if self._pacing is not None:
                yield from self._pacing.first_free()
            yield from self._take_up_weights(step)
            step.start_s = self.clock.now
            if self.stream.next == len(self.stream) and self.stream.finished.all():
                self._nothing_left(step)
                self.phases.append(None)
                if not loop.interrupts:
                    self.hand_over(j)
                continue
            if self.spot is not None and (version := self.spot.begin(step.number)) is not None:
                self.preparing.teach(version)
            phase = self.preparing.phase(j, isinstance(loop, Watches), self._learnt(step))
            self.phases.append(phase)
            self.policy = self.preparing.policy(phase, self.policy)
            self._ready()
            if isinstance(loop, Watches):
                generation = self.generation = Generation(self, j, step, phase, loop)
                yield from generation.play()
            else:
                yield from self._whole(j, step, phase)
            if self.spot is not None:
                outcome, tokens = step.episode.outcome, int(step.episode.output_tokens.sum())
                step.tell(self.spot.train(outcome.logs, outcome.start_s + outcome.makespan_s, tokens))
            if self.ran_dry:
                return

    def _learnt(self, step: Step) -> Bool:
        """Which rollouts the drafter has learnt by now, in whole versions."""
        finished, stages = self.stream.finished, self.stages["drafter"]
        if self.beside is not None:
            self.beside.advance(self.clock.now)
            step.unlearnt = self.beside.unlearnt
        if not stages:
            return finished
        done_s = np.where(finished, self.learning.done_s, np.nan)
        order = np.lexsort((np.arange(done_s.size), done_s))[: int((done_s <= self.clock.now).sum())]
        every = max(one.every if isinstance(one, Publishes) else 1 for one in stages)
        learnt = np.zeros_like(finished)
        learnt[order[: order.size // every * every]] = True
        step.unlearnt = int(finished.sum() - learnt.sum())
        return learnt

    def _take_up_weights(self, step: Step) -> Process:
        if self._loaded == self.version:
            return
        self._loaded = self.version
        nobody = self.rollouts(np.empty(0, np.int64))
        for stage in self.stages["sync"]:
            seconds = float(np.sum(asked(stage, nobody)))
            step.sync_s += seconds
            yield from busy(self.clock, step, stage, seconds)

    def _verify(self, step: Step, phase: Phase) -> Process:
        """Verify what rollouts may begin with, and note what they then have."""
        kept, trace = phase.kept, self.preparing.trace
        assert kept is not None
        verified = np.flatnonzero(kept.previous != NOBODY)
        if verified.size and self._verification is not None:
            numbers, before = phase.numbers[verified], kept.previous[verified]
            prompts, outputs = (
                column[before].astype(np.int64) for column in (trace.prompt_tokens, trace.output_tokens)
            )
            step.verify_s = float(np.sum(asked(self._verification, Rollouts(before, prompts, outputs))))
            yield from busy(self.clock, step, self._verification, step.verify_s, "verify")
            steps_ago = trace.step[self.stream.rows[numbers]] - trace.step[before]
            self.sampled(numbers, kept.prefix_tokens[verified], steps_ago)
        step.start_s, step.reused_tokens = self.clock.now, int(kept.prefix_tokens.sum())
        self.stream.lengths[phase.numbers] = kept.total_tokens

    def _whole(self, j: int, step: Step, phase: Phase) -> Process:
        """Nothing can disturb it: it is played in one go on a clock of its own, and what finished then happens on the run's."""
        assert self.policy is not None
        if phase.kept is not None:
            yield from self._verify(step, phase)
        started = time.perf_counter()
        outcome, told = self._decoded(step, phase, self.policy)
        step.wall_s = time.perf_counter() - started
        self.check_finite(outcome.makespan_s)
        done_s = step.start_s + outcome.rollouts["finished_s"]
        arrivals = self._trainer.arriving(phase.numbers) if isinstance(self.loop, Pipelines) else None
        self.judging.judge(phase.numbers, done_s, None if arrivals is None else arrivals.judged)
        if arrivals is not None and not self.judging.stages:
            self.clock.process(arrivals.finishing(done_s))
        self.learning.judge(phase.numbers, done_s)
        step.recomputed_tokens = int(outcome.rollouts["recomputed"].sum())
        workload = phase.workload
        episode = Episode(
            self.name, step.number, workload.requests, workload.output_tokens, outcome, step.wall_s,
            self.facts(step, outcome, step.start_s) | told,
            workload.arrivals_s, workload.waits_s,
        )  # fmt: skip
        if phase.kept is not None:
            episode = with_reused(episode, self.preparing.trace, self.stream.rows[phase.numbers], phase.kept)
        self.sampled(phase.numbers, episode.generated_tokens)
        step.close(episode)
        self.stream.next = int(self.stream.ends[j])
        self.put_out(phase.numbers, self.stream.lengths[phase.numbers])
        step.end_s = float(done_s.max())
        if self._pacing is not None:
            finished_s = outcome.rollouts["finished_s"]
            self._pacing.begun(phase.numbers, step.start_s, finished_s, outcome.logs, partial(self.form_batch, j))
            return
        for group in self.stream.finish(phase.numbers):
            self.stream.complete(group)
        yield self.clock.at(step.end_s, OTHERS)
        self.form_batch(j)

    def _decoded(self, step: Step, phase: Phase, policy: BudgetPolicy) -> tuple[Outcome, dict[str, Any]]:
        """What the rollouts of a phase do on the cluster, and what a result should say of it besides `facts`."""
        kept = phase.kept
        if self.beside is not None:
            if self._pacing is not None:
                raise InputError(
                    "stage online: it trains on one RL step after the other, and with this loop replicas go on to the next at "
                    "their own pace: use another loop, or leave the stage out"
                )
            return self.beside.play(phase, policy, step.start_s), {}
        if kept is not None and not kept.left.size:
            return with_whole(nobody_decodes(self.preparing.deployment.replicas), kept), {}
        deployment = self.preparing.placed(phase)
        if self._ahead is not None:
            found = self._ahead(phase.workload, policy, deployment, self.stream.rows[phase.numbers])
            return found.outcome, {"lookahead": found.facts}
        begin_s = None if self._pacing is None else self._pacing.begin_s
        outcome = simulate(phase.workload, policy, deployment, begin_s=begin_s)
        return outcome if kept is None else with_whole(outcome, kept), {}

    def facts(self, step: Step, outcome: Outcome, begun_s: float) -> dict[str, Any]:
        """What the policy says about itself, and the drafter's trainer; times of the outcome's logs count from `begun_s`."""
        assert self.policy is not None
        told = facts_of(self.policy)
        if self.beside is None:
            return told
        step.spans += self.beside.spans(step.number)
        return told | self.beside.facts(outcome.logs, begun_s)

    def check_finite(self, seconds: float) -> None:
        """Raise InputError for costs that add up to no time."""
        if not np.isfinite(seconds):
            raise InputError(
                f"profile {self.preparing.deployment.cost.name}: its costs add up to {seconds} s: correct them"
            )

    def _nothing_left(self, step: Step) -> None:
        """Everything has been generated; what is left is to train on it."""
        step.end_s, none = step.start_s, np.empty(0, np.int64)
        self.put_out(none, none)
        outcome = nobody_decodes(self.preparing.deployment.replicas)
        step.close(
            Episode(
                self.name, step.number, Requests(none, none, none), none, outcome, 0.0, {}, np.zeros(0), np.zeros(0)
            )
        )

    def sampled(self, numbers: Int64, tokens: Int64, steps_ago: "int | Int64" = 0) -> None:
        """Note that so many tokens of rollouts were emitted under the weights that the replicas hold, or held RL steps ago."""
        version = self._loaded - np.broadcast_to(np.asarray(steps_ago, np.int64), numbers.shape)
        self._sampled_by[numbers] += tokens * version
        some = tokens > 0
        self._oldest[numbers[some]] = np.minimum(self._oldest[numbers[some]], version[some])

    # Training -------------------------------------------------------------------------------------------------------------

    def form_batch(self, j: int) -> None:
        """Hand RL step j's groups to the trainer."""
        self._formed = j + 1
        self._trainer.hand_over(self.stream.batch(int(self.stream.groups[j])))
        if self._comparing.stages:
            self.clock.process(self._compare(self.batches[-1]))

    def _compare(self, batch: Int64) -> Process:
        """Let a batch come in at the stages that wait for it."""
        yield from self.judging.all_done(batch)
        self._comparing.judge(batch, np.full(batch.size, self.clock.now))

    def hand_over(self, j: int) -> None:
        """End RL step j's generation: with its groups, or with the run where the trace has no more."""
        if self.stream.waiting < self.stream.groups[j]:
            self.ran_dry = True
        else:
            self.form_batch(j)

    def form_batches(self) -> None:
        """Hand over as many RL steps as there are groups complete for."""
        while self._formed < len(self.steps) and self.stream.waiting >= self.stream.groups[self._formed]:
            self.form_batch(self._formed)

    def _train(self) -> Process:
        for j, step in enumerate(self.steps):
            batch = yield from self._trainer.train(j, step)
            step.trained_s, step.trained = self.clock.now, batch.size
            tokens = self.stream.lengths[batch]
            step.trained_tokens = int(tokens.sum())
            step.stale_mean = j - float(self._sampled_by[batch].sum() / tokens.sum())
            step.stale_max = j - int(self._oldest[batch].min())
            self.version = j + 1
            if self.beside is not None:
                self.beside.advance(self.clock.now)
                step.spans += self.beside.spans(step.number)
            step.close()  # before anybody goes on
            updated, self._updated = self._updated, self.clock.event()
            updated.succeed()
            if self.loop.interrupts and self.generation is not None:
                self.generation.stop()
