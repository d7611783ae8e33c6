"""RL steps that overlap: each replica goes on to the next one when it is through with this one."""

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from simulator.engine.clock import OTHERS, Clock
from simulator.engine.log import Log
from simulator.training.stream import Stream

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Logs = list[Log]
Process = Generator[simpy.Event, Any, None]


class Pacing:
    """When each replica is through with the RL step before, and which rollouts have finished by then.

    replicas; ranks: as many consecutive ones step together. begin_s: float64[replicas], seconds that each still needs for earlier
    RL steps when one begins.
    """

    def __init__(self, clock: Clock, stream: Stream, replicas: int, ranks: int) -> None:
        self._clock, self._stream, self._ranks = clock, stream, ranks
        self._free_s = np.zeros(replicas)
        self.begin_s = np.zeros(replicas)
        self._under_way: list[tuple[Int64, Float64]] = []  # of each RL step: rollouts, and when they are done
        self._over_s = 0.0

    def first_free(self) -> Process:
        """Wait for a replica that is through with the RL step before; note who has finished by then."""
        yield self._clock.at(max(float(self._free_s.min()), self._clock.now), OTHERS)
        now_s = self._clock.now
        self.begin_s = np.maximum(self._free_s - now_s, 0.0)
        for numbers, done_s in self._under_way:
            self._finish(numbers[done_s <= now_s])

    def begun(self, numbers: Int64, start_s: float, finished_s: Float64, logs: Logs, over: Callable[[], None]) -> None:
        """Note what an RL step's rollouts will do, in seconds from `start_s` on; over: is called once all are done, in order."""
        ends_s = [log["start_s"][-1] + log["duration_s"][-1] if len(log) else 0.0 for log in logs]
        together_s = np.maximum(ends_s, self.begin_s).reshape(-1, self._ranks).max(axis=1)
        self._free_s = start_s + np.repeat(together_s, self._ranks)
        self._under_way.append((numbers, start_s + finished_s))
        self._over_s = max(self._over_s, start_s + float(finished_s.max()))
        self._clock.process(self._over(numbers, over))

    def _over(self, numbers: Int64, over: Callable[[], None]) -> Process:
        yield self._clock.at(self._over_s, OTHERS)
        self._under_way.pop(0)
        self._finish(numbers)
        for group in np.unique(self._stream.group[numbers]).tolist():
            self._stream.complete(group)
        over()

    def _finish(self, numbers: Int64) -> None:
        self._stream.finish(numbers[~self._stream.finished[numbers]])
