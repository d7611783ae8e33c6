"""A drafter's trainer beside a cluster, as a SimPy process: samples wait in a pool, trainer steps take them."""

from collections import Counter, deque
from collections.abc import Callable, Generator
from typing import Any

import simpy

from tests.reference.cluster import Turn

Process = Generator[simpy.Event, Any, None]


class Trainer:
    """Takes `batch` samples, the oldest first, as soon as so many wait; `step_s` later they are learnt.

    Every `sync` steps `publish` is told what is learnt, by domain. Of more than `pool` samples that wait the oldest are lost.
    """

    def __init__(
        self, env: simpy.Environment, rank: int, pool: int, batch: int, step_s: float, sync: int,
        publish: Callable[[Counter[int]], None],
    ) -> None:  # fmt: skip
        self.env = env
        self.rank = rank
        self.pool = pool
        self.batch = batch
        self.step_s = step_s
        self.sync = sync
        self.publish = publish
        self.waiting: deque[int] = deque()
        self.taken: list[int] = []
        self.learnt: Counter[int] = Counter()
        self.steps = 0
        self.lost = 0
        self.versions: list[tuple[float, int, int]] = []  # when, samples behind it, samples that had come by then
        self.came = 0
        self.enough = env.event()
        env.process(self.live())

    def collect(self, domain: int) -> None:
        """A sample comes in."""
        self.came += 1
        self.waiting.append(domain)
        if not self.taken and len(self.waiting) >= self.batch:
            self.take()
            self.enough.succeed()
        if len(self.waiting) > self.pool:
            self.waiting.popleft()
            self.lost += 1

    def take(self) -> None:
        self.taken = [self.waiting.popleft() for _ in range(self.batch)]

    def live(self) -> Process:
        while True:
            yield self.enough
            self.enough = self.env.event()
            while self.taken:
                yield Turn(self.env, self.rank, self.step_s)
                self.learnt.update(self.taken)
                self.taken = []
                self.steps += 1
                if self.steps % self.sync == 0:
                    self.versions.append((self.env.now, self.learnt.total(), self.came))
                    self.publish(Counter(self.learnt))
                if len(self.waiting) >= self.batch:
                    self.take()
