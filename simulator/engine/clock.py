"""The clock of a run: SimPy's, with events at absolute times."""

from heapq import heappush

import simpy

OWN, OTHERS, LAST = 0, 1, 2
"""Of what happens at one instant: ends of decode steps, then everything else, then what waits for all of that."""


class Clock(simpy.Environment):
    """SimPy's clock, with events at an absolute time: `now + delay` would round equal times apart."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def skip(self, time_s: float) -> None:
        """Let time pass in which nothing happens: to `time_s`, before the next event."""
        assert self._now <= time_s < self.peek()
        self._now = time_s

    def at(self, time_s: float, priority: int) -> simpy.Event:
        """Return an event at `time_s`; of events at the same instant, the lowest priority number comes first."""
        event = simpy.Event(self)
        event._ok, event._value = True, None
        heappush(self._queue, (time_s, priority, next(self._eid), event))  # type: ignore[misc]
        return event
