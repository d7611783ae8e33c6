"""Replicas that one clock moves together, and the queue that they share."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiling_elsewhere
from simulator.engine.coasting import coast
from simulator.engine.moves import hear, look
from simulator.engine.replica import Replica
from simulator.engine.state import CORE, FLEET, GOING, IDLE, NOBODY
from simulator.engine.together import advance, end_rank, priced, run_rank
from simulator.records import Pointing, records
from simulator.scheduling.placement import ANY, HELD

Int64 = npt.NDArray[np.int64]

NONE: Int64 = np.empty(0, np.int64)


class Fleet:
    """Replicas that one clock moves together.

    ranks: as many consecutive ones share experts, and step as one. begun_tokens: int64[n], of every rollout, that it has emitted
    before.
    """

    def __init__(
        self, replicas: Sequence[Replica], ranks: int = 1, watched: bool = False, begun_tokens: Int64 = NONE,
    ) -> None:  # fmt: skip
        self.replicas, self.watched = replicas, watched
        self.core = Pointing(FLEET, ranks=ranks, watched=watched, teller=NOBODY, told_s=np.inf, whole_s=np.inf)
        n, most = begun_tokens.size, max(replica.core.target("told").size for replica in replicas)
        self._left, self._finished, self._queue = (
            np.empty(most, np.int64),
            np.empty(max(n, most), np.int64),
            np.empty(n, np.int64),
        )
        self.core.point(
            cores=np.array([replica.core.record.ctypes.data for replica in replicas], np.int64),
            left=self._left, finished=self._finished, queue=self._queue, where=np.full(n, HELD), last=np.full(n, ANY),
            emitted=begun_tokens.copy(), on_the_way=np.zeros(len(replicas), np.int64),
        )  # fmt: skip
        self._told_s, self._until_s = self.core.record["told_s"], self.core.record["until_s"]
        self._queued, self._finishing, self._whole_s = (
            self.core.record[name] for name in ("queued", "finishing", "whole_s")
        )
        self._live = replicas[0].live

    def tell_groups(self, group: Int64, missing: Int64) -> None:
        """Tell of rollouts that finish when a group is whole, where nothing else could come of it.

        group: int64[n], of each rollout; missing: int64[groups], rollouts of each that have not finished, which is kept.
        """
        if self.replicas[0].plain and not self.replicas[0].core["asked"] and self._live is None:
            self.core["by_group"] = True
            self.core.point(group=group, missing=missing)

    @property
    def queued(self) -> int:
        """Rollouts in the common queue."""
        return int(self._queued[0])

    def queue_up(self, rollouts: Int64) -> None:
        """Let rollouts wait at the end of the common queue."""
        core = self.core
        self._queue[(core["first"] + core["queued"] + np.arange(rollouts.size)) % self._queue.size] = rollouts
        core["queued"] += rollouts.size

    def leave_queue(self, rollout: int) -> None:
        """Take a rollout out of the common queue."""
        core, queue = self.core, self._queue
        waiting = np.roll(queue, -core["first"])[: core["queued"]]
        core["first"], core["queued"] = 0, core["queued"] - 1
        queue[: core["queued"]] = waiting[waiting != rollout]

    def whole_group(self) -> tuple[float, list[int]]:
        """When a group was whole, infinite where none is; and who has finished, group or not, that nobody was told of."""
        if not self._finishing[0]:
            return np.inf, []
        whole_s, finished = float(self._whole_s[0]), self._finished[: self._finishing[0]].tolist()
        self._whole_s[0], self._finishing[0] = np.inf, 0
        return whole_s, finished

    @property
    def told_s(self) -> float:
        """When the first of the steps ended that a replica has to tell of; infinite where there is none."""
        return float(self._told_s[0])

    def advance(self, until_s: float) -> None:
        """Let them decode until `until_s`, or until one has to tell of a step's end; steps begun before that are done."""
        self._until_s[0] = until_s
        while (number := advance(self.core.record, self._live)) != NOBODY:
            self.replicas[number].ready()

    def go_ahead(self, wait_when_free: bool = False) -> bool:
        """Let them decode, whatever others do, until nothing is left (True) or, if asked to wait, a slot is free (False)."""
        for replica in self.replicas:
            replica.core["wait_when_free"], replica.core["reason"] = wait_when_free, GOING
        self.advance(np.inf)
        for replica in self.replicas:
            replica.core["due"] = True
        return all(replica.core["reason"] == IDLE for replica in self.replicas)

    def look(self) -> None:
        """Look again who has to tell of a step's end: a replica that somebody was taken from may."""
        look(self.core.record)

    def hear(self) -> tuple[int, Int64, list[int]]:
        """(the replica whose step ended first, who left it, who finished); those cancelled meanwhile have not left."""
        number, left, finished = hear(self.core.record)
        return number, self._left[:left].copy(), self._finished[:finished].tolist()


def compiling(live: bool) -> AbstractContextManager[Callable[[], None]]:
    """`compiled.compiling_elsewhere` for the engine, which is most of what a run compiles; live: with a sibling index."""
    drafts = True if live else None
    return compiling_elsewhere(advance, records(FLEET, 1), drafts, parts=parts(drafts))


def parts(drafts: bool | None) -> tuple[tuple[Any, ...], ...]:
    """What the engine's code comes to in its second half, which is no less than a third of it, and examples of arguments."""
    core = records(CORE, 1)[0]
    return (coast, core), (end_rank, core, 0.0), (priced, core), (run_rank, core, drafts)
