"""Groups on their way to a trainer that takes them as they finish."""

from collections.abc import Generator
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from simulator.engine.clock import LAST, OTHERS, Clock

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Process = Generator[simpy.Event, Any, None]


class Arrivals:
    """The groups of an RL step in the order in which they are ready: when the last reward of each is there.

    Those that are ready at one instant go by number. groups: int64[n], of the rollouts, by their number in the stream from
    `first` on.
    """

    def __init__(self, clock: Clock, first: int, groups: Int64) -> None:
        self._clock, self._first, self._group = clock, first, groups.tolist()
        self._left = np.bincount(groups).tolist()
        self._ready: list[tuple[float, int]] = []
        self._more = clock.event()

    def judged(self, number: int) -> None:
        """A rollout's reward is there now."""
        group = self._group[number - self._first]
        self._left[group] -= 1
        if self._left[group] == 0:
            self._ready.append((self._clock.now, group))
            more, self._more = self._more, self._clock.event()
            more.succeed()

    def finishing(self, at_s: Float64) -> Process:
        """Let rollouts, which need no reward, be ready at those times, none of them past; as a SimPy process."""
        for place in np.argsort(at_s, kind="stable").tolist():
            if at_s[place] > self._clock.now:
                yield self._clock.at(float(at_s[place]), OTHERS)
            self.judged(self._first + place)

    def take(self, count: int) -> Generator[simpy.Event, Any, list[int]]:
        """Wait for so many groups, and return them; as a part of a SimPy process."""
        while len(self._ready) < count:
            yield self._more
        yield self._clock.at(self._clock.now, LAST)  # others may be ready at this instant
        self._ready.sort()
        taken, self._ready = self._ready[:count], self._ready[count:]
        return [group for _, group in taken]
