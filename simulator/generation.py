"""An RL step's generation that a loop watches: it submits more as rollouts finish, and says when there are enough."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from simulator.budgets.view import Requests
from simulator.engine.clock import OTHERS
from simulator.engine.cluster import Cluster, Outcome, Process
from simulator.engine.state import ROLLOUT
from simulator.played import Step
from simulator.plugins import calling
from simulator.prepared import Phase
from simulator.records import records
from simulator.summary import Episode
from simulator.training.loop import ActsOnGroups, Draws, Judges, Loop, LoopView, Watches

if TYPE_CHECKING:
    from simulator.system_run import SystemRun

Int64 = npt.NDArray[np.int64]

TIMES = ("queued_s", "admitted_s", "first_token_s", "finished_s")
COUNTED = ("steps", "drafted", "accepted", "preempted", "cached", "recomputed")
"""What becomes of a rollout, summed over the phases that it was decoded in."""


def nothing_yet(count: int) -> npt.NDArray[Any]:
    """What becomes of so many rollouts over all phases, before the first: `state.Rollout`[count]."""
    sums = records(ROLLOUT, count)
    for name in (*TIMES, "arrival_s"):
        sums[name] = np.nan
    return sums


class Generation:
    """A phase in which a loop watches what finishes: it submits more, or has enough."""

    def __init__(self, run: SystemRun, j: int, step: Step, phase: Phase, loop: Loop) -> None:
        assert isinstance(loop, Watches)
        assert run.policy is not None
        self._run, self._j, self._step, self._phase, self._watch, self._loop = run, j, step, phase, loop, loop
        self._stream, self._policy, self._judges = run.stream, run.policy, isinstance(loop, Judges)
        stream, lag = self._stream, loop.lag if loop.interrupts else 0
        self._until = stream.drawn(j, loop.prompts) if isinstance(loop, Draws) else stream.allowed(j, lag)
        self._by_group = isinstance(loop, ActsOnGroups) and loop.acts_on_groups
        self._first_new = self._stream.next
        self._offered = self._in_flight = 0
        self._cluster: Cluster | None = None
        self._ended = False
        self._late: Int64 = np.empty(0, np.int64)

    def play(self) -> Process:
        """Decode until the loop has enough; as a SimPy process."""
        run, step, phase = self._run, self._step, self._phase
        step.carried = phase.carried
        step.carried_tokens = int(phase.workload.begun_tokens.sum())
        started = time.perf_counter()
        if self._loop.interrupts and run.version > self._j:
            self.stop()  # the next weights are there already
        first = 0 if self._ended or self._has_enough() else self._take(self._offer())
        cluster = self._cluster = Cluster(
            run.clock, phase.workload, self._policy, run.preparing.placed(phase),
            listener=self._finished, submitted=np.arange(first), groups=self._groups(),
        )  # fmt: skip
        if not self._ended:
            if run.beside is not None:
                run.beside.serve(cluster, phase)
            yield from cluster.decode()
            yield from self._steps_under_way(cluster)
        step.wall_s = time.perf_counter() - started
        run.check_finite(cluster.quiet_s)
        if self._ended:
            self._close(cluster)
            self._cluster = None  # it tells this one what finishes: together they would outlive the phase

    def _groups(self) -> tuple[Int64, Int64] | None:
        """The group of each rollout, and how many of each are missing, where only whole groups make a difference."""
        run = self._run
        if (
            not self._by_group
            or self._loop.interrupts
            or run.beside is not None
            or run.judging.stages
            or run.learning.stages
        ):
            return None
        known, group = np.unique(self._stream.group[self._phase.numbers], return_inverse=True)
        return group.astype(np.int64), np.array(self._stream.left, np.int64)[known]

    def stop(self) -> None:
        """End the phase now."""
        if self._ended:
            return
        self._ended = True
        self._step.end_s = self._run.clock.now
        if self._cluster is not None:
            self._late = np.array(self._cluster.stop(), np.int64)
        if self._run.beside is not None:
            self._run.beside.leave()

    def _steps_under_way(self, cluster: Cluster) -> Process:
        """Let the steps end that were under way when the phase did, and what finishes in them finish then."""
        at_s = cluster.ledger.rollouts["finished_s"][self._late]
        for time_s in np.unique(at_s).tolist():
            yield self._run.clock.at(time_s, OTHERS)
            self._note(self._late[at_s == time_s])
        yield self._run.clock.at(max(cluster.quiet_s, self._run.clock.now), OTHERS)

    def _view(self) -> LoopView:
        carried = max(self._phase.carried - self._offered, 0)
        return self._stream.view(self._j, self._until, carried, self._in_flight)

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
        arrival_s = self._run.sums["arrival_s"]
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
        whole = self._note(np.array(finished))
        if whole or not self._by_group:
            self._consult()

    def _note(self, finished: Int64) -> list[int]:
        """Note what finished; groups that are whole are complete, or are judged when their rewards are there. Returns those."""
        run, numbers = self._run, self._phase.numbers[finished]
        self._in_flight -= finished.size
        assert self._cluster is not None
        done_s = self._cluster.ledger.rollouts["finished_s"][finished]
        if self._loop.interrupts:  # else nobody asks before the phase is over
            run.sampled(numbers, self._stream.lengths[numbers] - self._stream.emitted[numbers])
        whole = self._stream.finish(numbers)
        run.judging.judge(numbers, done_s, self._judged if self._judges else None)
        run.learning.judge(numbers, done_s)
        if run.beside is not None:
            run.beside.collect(numbers)
        for group in whole:
            if not self._judges:
                self._stream.complete(group)
            elif not run.stages["rollout"]:
                self._decide(group)
        if self._loop.interrupts:
            run.form_batches()
        return whole

    def _judged(self, number: int) -> None:
        """A reward is there: with the last of its group the group is kept or dropped."""
        group = int(self._stream.group[number])
        members = self._stream.members(group)
        if self._stream.left[group] == 0 and not np.isnan(self._run.judging.done_s[members]).any():
            self._decide(group)
            generation = self._run.generation
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
        facts = run.facts(step, outcome, 0.0)
        ended = outcome.rollouts
        finished = ~np.isnan(ended["finished_s"])
        emitted = np.where(finished, ended["end"], ended["position"]) - ended["start"]
        new = ~finished if self._loop.interrupts else np.ones_like(finished)
        run.sampled(phase.numbers[new], (emitted - workload.begun_tokens)[new])
        step.recomputed_tokens = int(ended["recomputed"].sum())
        stream.emitted[phase.numbers] = emitted
        there = np.arange(self._offered)[emitted[: self._offered] > 0]
        run.put_out(phase.numbers[there], emitted[there])
        sums = run.sums
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
        trace, rows = run.preparing.trace, stream.rows[mine]
        columns = (column[rows].astype(np.int64) for column in (trace.prompt, trace.sample, trace.prompt_tokens))
        step.close(Episode(
            run.name, step.number, Requests(*columns), stream.lengths[mine],
            Outcome(
                done, [log.since(step.start_s) for log in outcome.logs], outcome.busy_s, outcome.extrapolated_s,
                outcome.waited_s, step.end_s - step.start_s,
            ),
            step.wall_s, facts, done["arrival_s"], workload.waits_s[finished],
        ))  # fmt: skip
        if not self._loop.interrupts:
            run.hand_over(self._j)
