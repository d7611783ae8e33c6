"""Batches on their way through the trainer: at once, or in mini-batches as their groups finish."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import simpy

from simulator.engine.clock import Clock
from simulator.plugins import calling
from simulator.training.loop import Loop, Pipelines, ScoresOutputs
from simulator.training.pipeline import Arrivals
from simulator.training.stage import Rollouts, Scores, Stage
from simulator.training.stream import Stream
from simulator.training.trainer import Judging, asked, busy

if TYPE_CHECKING:
    from simulator.played import Step

Int64 = npt.NDArray[np.int64]
Process = Generator[simpy.Event, Any, None]
Training = Generator[simpy.Event, Any, Int64]


class Batches:
    """What the trainer of a run works through, RL step by RL step.

    stages: of the batch; rewards: the servers that a batch waits for; rollouts: from numbers of the stream to what stages see.
    formed: the batches that were handed over, rollouts of the stream.
    """

    def __init__(
        self, clock: Clock, loop: Loop, stages: Sequence[Stage], stream: Stream, rewards: Judging,
        rollouts: Callable[[Int64], Rollouts],
    ) -> None:  # fmt: skip
        self._clock, self._loop, self._stages, self._stream = clock, loop, stages, stream
        self._rewards, self._rollouts = rewards, rollouts
        self.formed: list[Int64] = []
        self._handed_over, self._arrivals = simpy.Store(clock), simpy.Store(clock)
        self._outputs: list[Rollouts] = []
        self._scores_outputs = isinstance(loop, ScoresOutputs) and loop.scores_outputs

    def hand_over(self, batch: Int64) -> None:
        """Hand over the next RL step's batch."""
        self.formed.append(batch)
        self._handed_over.put(batch)

    def put_out(self, numbers: Int64, tokens: Int64) -> None:
        """Note the outputs of an RL step's generation: rollouts that finished in it or were stopped, and tokens of each."""
        self._outputs.append(replace(self._rollouts(numbers), output_tokens=tokens))

    def arriving(self, numbers: Int64) -> Arrivals:
        """What collects the groups of the next RL step, whose rollouts these are, for the trainer to take them as they finish."""
        arrivals = Arrivals(self._clock, int(numbers[0]), self._stream.group[numbers])
        self._arrivals.put(arrivals)
        return arrivals

    def train(self, j: int, step: Step) -> Training:
        """Work through RL step j's batch and return it; as a part of a SimPy process."""
        work = self._in_parts if isinstance(self._loop, Pipelines) else self._at_once
        batch: Int64 = yield from work(j, step)
        step.rewarded_s = float(self._rewards.done_s[batch].max())
        return batch

    def _at_once(self, j: int, step: Step) -> Training:
        batch: Int64 = yield self._handed_over.get()
        yield from self._rewards.all_done(batch)
        yield from self._worked_through(j, step, self._rollouts(batch))
        return batch

    def _in_parts(self, j: int, step: Step) -> Training:
        """In mini-batches, as their groups are ready."""
        assert isinstance(self._loop, Pipelines)
        arrivals: Arrivals = yield self._arrivals.get()
        left = needed = int(self._stream.groups[j])
        with calling(f"loop {type(self._loop).__name__}: minibatch", "mend the loop"):
            most = max(int(self._loop.minibatch(needed)), 1)
        while left:
            groups = yield from arrivals.take(min(most, left))
            left -= len(groups)
            rollouts = self._rollouts(self._stream.of(groups))
            yield from self._worked_through(j, step, replace(rollouts, share=len(groups) / needed))
        batch: Int64 = yield self._handed_over.get()
        return batch

    def _worked_through(self, j: int, step: Step, rollouts: Rollouts) -> Process:
        """Let the stages work on these."""
        started_s = self._clock.now
        for stage in self._stages:
            yield from busy(self._clock, step, stage, self._seconds(j, stage, rollouts))
        step.train_s += self._clock.now - started_s

    def _seconds(self, j: int, stage: Stage, rollouts: Rollouts) -> float:
        """Of a stage for the rollouts of RL step j; where their log-probs are those of outputs, for what it put out."""
        seconds = float(np.sum(asked(stage, rollouts)))
        scoring = stage.scoring if isinstance(stage, Scores) and self._scores_outputs else 0.0
        if scoring == 0.0:
            return seconds
        outputs = replace(self._outputs[j], share=self._outputs[j].tokens / rollouts.tokens)
        return (1 - scoring) * seconds + scoring * float(np.sum(asked(stage, outputs)))
