"""The router: asks the placement at every event, and does what it decides."""

import itertools
import weakref
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from simulator.engine.deployment import Deployment
from simulator.engine.fleet import Fleet
from simulator.engine.moves import count, served
from simulator.engine.replica import Replica
from simulator.engine.workload import Workload
from simulator.plugins import told
from simulator.scheduling.placement import (
    ANY,
    CANCELLED,
    FINISHED,
    HELD,
    QUEUED,
    Cancel,
    Event,
    Kind,
    Place,
    Placement,
    View,
    events_of,
    name_of,
)
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]


class Router:
    """Where every rollout of a workload is, and how it gets there; what a `View` looks up. Times are the cluster's clock."""

    def __init__(
        self, workload: Workload, replicas: list[Replica], watched: bool, placement: Placement, deployment: Deployment
    ) -> None:
        self.replicas, self.deployment = replicas, deployment
        self.placement, self.events, self.name = placement, events_of(placement), name_of(placement)
        self._terms: dict[
            int, tuple[int, bool]
        ] = {}  # stay_tokens and pulled of those in the common queue that have any
        self.requests, self.now_s = workload.requests, 0.0
        limited = deployment.serving.num_gpu_blocks is not None
        self.block_size = deployment.serving.block_size if limited else 0
        self._prompt_tokens = workload.prompt_tokens
        self.fleet = Fleet(replicas, deployment.data_parallel_size, watched, workload.begun_tokens)
        self.fleet.core["returning"] = workload.turns is not None
        self._where, self._last, self._emitted, self._on_the_way = (
            self.fleet.core.target(name) for name in ("where", "last", "emitted", "on_the_way")
        )
        self.where, self.emitted_tokens = _shown(self._where), _shown(self._emitted)
        self._counts: Int64 = np.zeros((4, len(self.replicas)), np.int64)
        running, waiting, room, free = (_shown(one) for one in self._counts)
        self._shown = running, waiting, room, free
        self._landings: list[tuple[float, int, int, int]] = []  # (at_s, nth sent, rollout, stay_tokens)
        self._sent = itertools.count()
        self._heard = len(self.replicas)
        self._view = View(weakref.proxy(self), len(self.replicas), deployment.max_num_seqs)

    @property
    def queued(self) -> int:
        """Rollouts in the common queue."""
        return self.fleet.queued

    def counts(self) -> tuple[Int64, Int64, Int64, Int64]:
        """Running, waiting, room and free KV blocks of each replica, now."""
        count(self.fleet.core.record, self.now_s, self._heard, self._counts)
        return self._shown

    def tell(self, kind: Kind, rollouts: "list[int] | Int64", replica: int = ANY) -> None:
        """Ask the placement, if it wants to be told of this, and do what it says."""
        if kind not in self.events:
            if kind != "arrival":
                return
            kind = "start"
        try:
            decisions = tuple(self.placement(Event(kind, np.asarray(rollouts, np.int64), replica), self._view))
        except (Exception, SystemExit) as error:
            raise InputError(f"placement {self.name} raised {told(error)}: mend the placement") from error
        for decision in decisions:
            if isinstance(decision, Place):
                self._place(decision)
            elif isinstance(decision, Cancel):
                for rollout in _numbers(decision.rollout):
                    self._check(rollout)
                    self.cancel(rollout)
            else:
                raise InputError(f"placement {self.name}: answered {decision!r:.60}: return Place and Cancel")

    def expect(self, parts: list[Int64], queue: Int64) -> None:
        """Let rollouts come in as they arrive, where they were placed before: those of each replica, or in the common queue."""
        for replica, part in zip(self.replicas, parts, strict=True):
            self._where[part] = replica.number
            replica.expect(part)
        self._where[queue] = QUEUED
        self.fleet.queue_up(queue)

    def at(self, now_s: float, replica: int = ANY) -> None:
        """It is `now_s`, and the ends of steps at this moment have been told up to this replica, or all of them."""
        self.now_s, self._heard = now_s, len(self.replicas) if replica == ANY else replica

    def serve(self, preferred: int = ANY) -> None:
        """Hand the common queue's head to the preferred replica while it has room, then to whoever has the fewest rollouts."""
        fleet = self.fleet
        if not fleet.queued:
            return
        while (found := served(fleet.core.record, preferred, self.now_s, self._heard))[0] != ANY:
            replica, rollout = found
            self._send(rollout, replica, *self._terms.pop(rollout, (0, False)))

    def cancel(self, rollout: int) -> None:
        """Stop a rollout, wherever it is."""
        where = int(self._where[rollout])
        if where in (FINISHED, CANCELLED):
            return
        self._where[rollout] = CANCELLED
        self.fleet.core["full"] = False
        if where == QUEUED:
            self.fleet.leave_queue(rollout)
            self._terms.pop(rollout, None)
        elif where >= 0 and not self._take_out(rollout, where):
            on_the_way = [one for one in self._landings if one[2] == rollout]
            self._landings = sorted(one for one in self._landings if one[2] != rollout)
            self._on_the_way[where] -= len(on_the_way)

    def _take_out(self, rollout: int, number: int) -> bool:
        replica = self.replicas[number]
        replica.settle(self.now_s)
        told = replica.now_s == self.now_s and number <= self._heard
        found = replica.take_out(rollout, replica.now_s >= self.now_s and not told)
        self.fleet.look()
        return found

    def stop(self, rollouts: list[int]) -> None:
        """Stop these, which are all that there are."""
        self.fleet.core["queued"] = 0
        self._landings.clear()
        self._on_the_way[:] = 0
        for rollout in rollouts:
            where = int(self._where[rollout])
            self._where[rollout] = CANCELLED
            if where >= 0:
                self.replicas[where].take_out(rollout)

    @property
    def next_landing_s(self) -> float:
        """When the next rollout arrives with its KV."""
        return self._landings[0][0] if self._landings else np.inf

    def land(self, now_s: float) -> None:
        """Let rollouts whose KV has been sent join their replicas."""
        while self._landings and self._landings[0][0] <= now_s:
            at_s, _, rollout, stay_tokens = heappop(self._landings)
            replica = int(self._where[rollout])
            self._on_the_way[replica] -= 1
            self.replicas[replica].place(rollout, at_s, stay_tokens, True)

    def _place(self, place: Place) -> None:
        stay_tokens, pulled = int(place.stay_tokens), place.kv == "pull"
        if stay_tokens < 0 or place.kv not in ("pull", "recompute"):
            raise InputError(f"placement {self.name}: {place!r:.120}: give stay_tokens >= 0 and kv recompute or pull")
        if pulled and self.deployment.pull_s_per_token is None:
            raise InputError(
                f"placement {self.name} pulls KV, at a price that nothing says: name a model and a device, or recompute"
            )
        rollouts, replicas = _numbers(place.rollout), _numbers(place.replica)
        if replicas == [ANY]:
            self._queue_up(rollouts, stay_tokens, pulled)
            return
        if len(replicas) != len(rollouts):
            replicas = np.broadcast_to(replicas, len(rollouts)).tolist()
        for rollout, replica in zip(rollouts, replicas, strict=True):
            if replica == ANY:
                self._queue_up([rollout], stay_tokens, pulled)
            elif 0 <= replica < len(self.replicas):
                self._check_held(rollout)
                self._send(rollout, replica, stay_tokens, pulled)
            else:
                most = len(self.replicas) - 1
                raise InputError(
                    f"placement {self.name}: replica {replica}: use 0 to {most}, or ANY for the common queue"
                )

    def _queue_up(self, rollouts: list[int], stay_tokens: int, pulled: bool) -> None:
        for rollout in rollouts:
            self._check_held(rollout)
            self._where[rollout] = QUEUED
        self.fleet.queue_up(np.array(rollouts, np.int64))
        if stay_tokens or pulled:
            self._terms.update(dict.fromkeys(rollouts, (stay_tokens, pulled)))
            self.fleet.core["by_group"] = False

    def _check_held(self, rollout: int) -> None:
        self._check(rollout)
        if self._where[rollout] != HELD:
            raise InputError(
                f"placement {self.name}: places rollout {rollout} twice: place one when it starts, arrives or has left"
            )

    def _check(self, rollout: int) -> None:
        if not 0 <= rollout < self._where.size:
            raise InputError(f"placement {self.name}: rollout {rollout}: they are numbered 0 to {self._where.size - 1}")

    def _send(self, rollout: int, replica: int, stay_tokens: int, pulled: bool) -> None:
        last, self._last[rollout], self._where[rollout] = self._last[rollout], replica, replica
        emitted = int(self._emitted[rollout])
        pulled = pulled and last != ANY and emitted > 0
        if pulled and last != replica and (per_token_s := self.deployment.pull_s_per_token):
            known = max(int(self._prompt_tokens[rollout]), 1) + emitted - 1
            self._on_the_way[replica] += 1
            heappush(self._landings, (self.now_s + known * per_token_s, next(self._sent), rollout, stay_tokens))
        else:
            self.replicas[replica].place(rollout, self.now_s, stay_tokens, pulled)


def _numbers(numbers: "int | Int64") -> list[int]:
    return np.atleast_1d(numbers).tolist() if isinstance(numbers, np.ndarray) else [int(numbers)]


def _shown(array: Int64) -> Int64:
    view = array.view()
    view.flags.writeable = False
    return view
