"""Hands cells to whoever runs them, and keeps what comes back."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Protocol

from simulator.sweep.axes import Cell
from simulator.sweep.journal import Journal
from simulator.sweep.worker import Outcome

BATCH_S = 0.5
"""Cells are handed over together as long as they take about so long: handing over costs a millisecond."""
MOST_TOGETHER = 32
AHEAD = 2
"""Batches that a worker has or waits with."""
TICK_S = 0.2


class WorkerLostError(Exception):
    """A worker is gone with the cells that it had; others can run them."""


class Workers(Protocol):
    """Processes that run cells, wherever they are."""

    @property
    def count(self) -> int:
        """How many."""

    def submit(self, cells: Sequence[Cell]) -> "Future[list[Outcome]]":
        """Have cells run by the next that is free."""


@dataclass
class Progress:
    """How far a sweep is. total: cells, or trials; before: of those done, the ones that were finished at `begun_s`, by an earlier
    run for the most part; failed: of those done.
    """  # fmt: skip

    total: int
    before: int
    done: int
    failed: int
    begun_s: float

    @property
    def per_s(self) -> float:
        """Cells that finish in a second."""
        return (self.done - self.before) / max(time.monotonic() - self.begun_s, 1e-9)

    @property
    def left_s(self) -> float | None:
        """Seconds that are left, as fast as it went so far; None where none has finished."""
        return (self.total - self.done) / self.per_s if self.done > self.before else None


Tell = Callable[[Progress], None]


def play(cells: Iterable[Cell], workers: Workers, journal: Journal, progress: Progress, tell: Tell) -> None:
    """Run the cells that the journal lacks; each is in the journal before it counts.

    The first one runs alone, so that what it compiles is compiled once. tell: is called several times a second.
    """
    left = deque(cell for cell in cells if journal.of(cell) is None)
    running: dict[Future[list[Outcome]], list[Cell]] = {}
    ran, seconds = 0, 0.0
    while left or running:
        while left and len(running) < (workers.count * AHEAD if ran else 1):
            together = _together(len(left), workers.count, seconds / ran if ran else BATCH_S)
            batch = [left.popleft() for _ in range(together)]
            running[workers.submit(batch)] = batch
        outcomes = list[Outcome]()
        for future in wait(running, TICK_S, FIRST_COMPLETED).done:
            batch = running.pop(future)
            try:
                outcomes += future.result()
            except WorkerLostError:
                left.extend(batch)
        if outcomes:
            journal.add(outcomes)
            if progress.done == progress.before:  # what it took to start, and to compile, says nothing of the rest
                progress.before, progress.begun_s = progress.before + len(outcomes), time.monotonic()
            ran += len(outcomes)
            seconds += sum(one.seconds for one in outcomes)
            progress.done += len(outcomes)
            progress.failed += sum(one.reason is not None for one in outcomes)
        tell(progress)


def _together(left: int, workers: int, mean_s: float) -> int:
    """Cells of a batch: so many that it takes a while, and so few that all workers end at about the same time."""
    return max(1, min(int(BATCH_S / max(mean_s, 1e-6)), MOST_TOGETHER, left // (workers * AHEAD * 2)))
