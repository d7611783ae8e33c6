"""A drafter that is trained beside serving: what finishes goes to its trainer, and replicas take up its versions at once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.budgets.policy import BudgetPolicy
from simulator.engine.clock import OTHERS, Clock
from simulator.engine.cluster import Cluster, Outcome, Process
from simulator.engine.log import Log
from simulator.engine.workload import Workload
from simulator.prepared import Phase, Preparing
from simulator.training.online import OnlineTrainer
from simulator.training.stage import Stage, TrainsOnline
from simulator.training.trainer import Span
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class Beside:
    """The trainer of a run's drafter, and where its replicas stand with its versions; times are on the run's clock.

    A phase that is played on the run's clock has the trainer on it, too (`follow`). One that is played in one go has it on the
    phase's own (`play`); between such phases it catches up (`advance`).
    """

    def __init__(self, stage: TrainsOnline, preparing: Preparing) -> None:
        self.trainer = OnlineTrainer(stage)
        self._stage, self._preparing, self._drafter = stage, preparing, preparing.drafter
        self._resume_s = np.zeros(preparing.deployment.replicas)
        self._taken: list[Float64] = []
        self._clock, self._begun_s, self._follows = Clock(), 0.0, False
        self._cluster: Cluster | None = None
        self._phase: Phase | None = None
        self._workload: Workload | None = None
        self._told_stale = self._told_spans = 0
        stage.learnt(self._drafter, self.trainer.known)

    @property
    def unlearnt(self) -> int:
        """Rollouts that have finished, and that the last version has not learnt."""
        return self.trainer.collected - int(self.trainer.known.sum())

    # What moves it --------------------------------------------------------------------------------------------------------

    def follow(self, clock: Clock) -> None:
        """Go by the run's clock from now on."""
        self._clock, self._follows = clock, True

    def serve(self, cluster: Cluster, phase: Phase) -> None:
        """A phase begins on the run's clock."""
        cluster.hold(self._resume_s)
        self._cluster, self._phase, self._workload = cluster, phase, phase.workload

    def leave(self) -> None:
        """The phase is over; a version that comes now is taken up after the steps that are under way."""
        if self._cluster is not None:
            ends_s = [self._begun_s + replica.now_s for replica in self._cluster.replicas]
            self._resume_s = np.maximum(self._resume_s, ends_s)
        self._cluster = None

    def play(self, phase: Phase, policy: BudgetPolicy, start_s: float) -> Outcome:
        """Decode a phase to the last completion on a clock of its own, which begins at `start_s`, and return what happened."""
        if phase.kept is not None:
            raise InputError(
                "stage online: rollouts go on from parts of earlier responses, and drafts for the rest are not made anew by its "
                "versions: leave the stage out, or the transform that keeps them"
            )
        self._clock, self._begun_s = Clock(), start_s
        over, left = self._clock.event(), len(phase.workload)

        def finished(rollouts: list[int]) -> None:
            nonlocal left
            self.collect(phase.numbers[rollouts])
            left -= len(rollouts)
            if left == 0:
                over.succeed()

        cluster = Cluster(self._clock, phase.workload, policy, self._preparing.placed(phase), listener=finished)
        cluster.hold(self._resume_s - start_s)
        self._cluster, self._phase, self._workload = cluster, phase, phase.workload
        steps = cluster.decode()
        decoding = self._clock.process(steps)
        if self.trainer.due_s < np.inf:
            self._clock.process(self._train())
        self._clock.run(until=self._clock.any_of([over, decoding]))
        assert left == 0, "every rollout completes"
        steps.close()  # it waits for what nobody will see, and would keep the cluster
        self.leave()
        return cluster.outcome()

    def advance(self, time_s: float) -> None:
        """Train up to this time, while nothing is decoded; on the run's clock it has done so."""
        while not self._follows and self.trainer.due_s <= time_s:
            self._end_step()

    def collect(self, numbers: Int64) -> None:
        """Rollouts of the stream finish now."""
        preparing, idle = self._preparing, self.trainer.due_s == np.inf
        rows = preparing.stream.rows[np.asarray(numbers)]
        self.trainer.collect(self._stage.domains[rows], self._begun_s + self._clock.now)
        if idle and self.trainer.due_s < np.inf:
            self._clock.process(self._train())

    def _train(self) -> Process:
        while self.trainer.due_s < np.inf:
            yield self._clock.at(max(self.trainer.due_s - self._begun_s, self._clock.now), OTHERS)
            self._end_step()

    def _end_step(self) -> None:
        at_s = self.trainer.due_s
        if self.trainer.end_step():
            self._preparing.teach(self._stage.learnt(self._drafter, self.trainer.known))
            self._take_up(at_s)

    # What replicas do -----------------------------------------------------------------------------------------------------

    def _take_up(self, time_s: float) -> None:
        """All replicas take up the last version, after the steps that are under way."""
        pause_s = self._stage.pause_s
        if self._cluster is None:
            self._resume_s = np.maximum(self._resume_s, time_s) + pause_s
        else:
            self._resume_s = self._begun_s + self._cluster.swap(self._drafted(self._cluster).acceptance, pause_s)
        self._taken.append(self._resume_s)

    def _drafted(self, cluster: Cluster) -> Workload:
        """The workload as the last version drafts for it."""
        phase, workload, preparing = self._phase, self._workload, self._preparing
        assert phase is not None
        assert workload is not None
        if phase.growing is not None:
            phase.growing.renew()
            return workload
        mine = np.isnan(cluster.ledger.rollouts["finished_s"])
        part = preparing.accepted(preparing.stream.rows[phase.numbers[mine]], phase.past, preparing.scenario.seed)
        self._workload = replace(workload, acceptance=workload.acceptance.exchanged(mine, part))
        return self._workload

    # What is told ---------------------------------------------------------------------------------------------------------

    def facts(self, logs: Sequence[Log], begun_s: float) -> dict[str, Any]:
        """What a phase that is over has to tell; times of its logs count from `begun_s`.

        So far: versions, trained and dropped samples, and seconds that each replica paused. Over the rollouts that finished since
        the last phase: samples that were served and that the version in use had not learnt, mean and most. In the phase: mean
        acceptance length by version.
        """
        trainer, stale = self.trainer, self.trainer.stale[self._told_stale :]
        self._told_stale = len(trainer.stale)
        return {
            "versions": trainer.versions, "trained_samples": trainer.trained, "dropped_samples": trainer.dropped,
            "swap_s": trainer.versions * self._stage.pause_s,
            "stale_samples": float(np.mean(stale)) if stale else 0.0, "most_stale_samples": max(stale, default=0),
            "acceptance_length_by_version": self._lengths(logs, begun_s),
        }  # fmt: skip

    def _lengths(self, logs: Sequence[Log], begun_s: float) -> dict[str, float]:
        """Emitted tokens per decoding sequence and step, by the version that drafted; times of the logs count from `begun_s`."""
        accepted, sequences = np.zeros((2, len(self._taken) + 1))
        taken_s = np.array(self._taken).reshape(-1, len(logs))
        for number, log in enumerate(logs):
            version = np.searchsorted(taken_s[:, number], begun_s + log["start_s"], side="right")
            np.add.at(accepted, version, log["accepted_tokens"])
            np.add.at(sequences, version, log["live"] - log["prefill_seqs"])
        return {
            str(version): 1.0 + float(accepted[version] / sequences[version])
            for version in np.flatnonzero(sequences).tolist()
        }

    def spans(self, step: int) -> list[Span]:
        """When it trained since it was asked last: steps without a gap between them are one span."""
        told, self._told_spans = self.trainer.spans[self._told_spans :], len(self.trainer.spans)
        if not told:
            return []
        begins, ends = np.array(told).T
        first = np.concatenate([[True], begins[1:] > ends[:-1]])
        last = np.append(first[1:], True)
        pairs = zip(begins[first].tolist(), ends[last].tolist(), strict=True)
        return [Span(step, "trainer", "online", begun_s, ended_s) for begun_s, ended_s in pairs]


def beside_of(stages: Sequence[Stage], preparing: Preparing) -> Beside | None:
    """What trains the drafter beside serving, if a stage does; InputError where several do, or the drafter cannot be trained."""
    if not stages:
        return None
    if len(stages) > 1:
        raise InputError(
            f"stages {', '.join(one.name for one in stages)}: one trains the drafter online: leave others out"
        )
    (stage,) = stages
    if not isinstance(stage, TrainsOnline):
        raise InputError(
            f"stage {stage.name}: per = 'online' needs samples_per_s, pool, batch, sync, pause_s, gpus, domains and learnt"
        )
    return Beside(stage, preparing)
