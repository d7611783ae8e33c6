"""The stages on the clock: servers that judge rollouts as they finish, and a trainer that turns RL steps into weights."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import simpy

from simulator.engine.clock import OTHERS, Clock
from simulator.plugins import calling
from simulator.training.stage import BacksOff, Retries, Rollouts, Serves, Stage
from traces.errors import InputError

if TYPE_CHECKING:
    from simulator.played import Step

Int64 = npt.NDArray[np.int64]
Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Span:
    """What a replica or a stage did in an RL step, from when to when on the run's clock."""

    step: int
    who: str
    what: str
    start_s: float
    end_s: float


class Visit(NamedTuple):
    """A rollout's way through a stage: tries of so many seconds, so many of them failed, each followed by a wait of wait_s(i)."""

    seconds: float
    tries: int
    failed: int
    backoff_s: float
    growth: float
    holds: bool

    def wait_s(self, failed: int) -> float:
        """Seconds to wait after a try that is the `failed`-th to fail, from 0."""
        return self.backoff_s * self.growth**failed


class Judging:
    """The stages that rollouts pass through one by one, each with servers of its own."""

    def __init__(
        self, clock: Clock, stages: Sequence[Stage], rollouts: Callable[[Int64], Rollouts], count: int
    ) -> None:
        self._clock, self.stages, self._rollouts = clock, stages, rollouts
        self.done_s = np.full(count, np.nan)
        self._servers = [
            simpy.Resource(clock, stage.servers) if isinstance(stage, Serves) else None for stage in stages
        ]
        self._next = clock.event()

    def all_done(self, numbers: Int64) -> Process:
        """Wait until these have been through all stages; as a SimPy process."""
        while np.isnan(self.done_s[numbers]).any():
            yield self._next

    def judge(self, numbers: Int64, at_s: npt.NDArray[np.float64], told: Callable[[int], None] | None = None) -> None:
        """Let rollouts come in at those times, none of them past; told: is called as each is done."""
        if not self.stages:
            self.done_s[numbers] = at_s
            return
        rollouts = self._rollouts(numbers)
        visits = [self._visits(stage, rollouts) for stage in self.stages]
        for place in np.lexsort((numbers, at_s)).tolist():
            each = [stage[place] for stage in visits]
            self._clock.process(self._pass(int(numbers[place]), float(at_s[place]), each, told))

    def _pass(self, number: int, at_s: float, visits: list[Visit], told: Callable[[int], None] | None) -> Process:
        """One rollout's way through the stages."""
        yield self._clock.at(at_s, OTHERS)
        for servers, visit in zip(self._servers, visits, strict=True):
            yield from self._held(servers, visit) if visit.holds else self._released(servers, visit)
        self.done_s[number] = self._clock.now
        done, self._next = self._next, self._clock.event()
        done.succeed()
        if told is not None:
            told(number)

    def _released(self, servers: simpy.Resource | None, visit: Visit) -> Process:
        """Queue for a server for every try, and wait off it after one that failed."""
        clock = self._clock
        for attempt in range(visit.tries):
            if servers is None:
                yield clock.timeout(visit.seconds)
            else:
                with servers.request() as served:
                    yield served
                    yield clock.timeout(visit.seconds)
            if attempt < visit.failed:
                yield clock.timeout(visit.wait_s(attempt))

    def _held(self, servers: simpy.Resource | None, visit: Visit) -> Process:
        """Keep one server for all tries and the waits after those that failed."""
        clock = self._clock
        request = None if servers is None else servers.request()
        if request is not None:
            yield request
        for attempt in range(visit.tries):
            yield clock.timeout(visit.seconds)
            if attempt < visit.failed:
                yield clock.timeout(visit.wait_s(attempt))
        if servers is not None and request is not None:
            servers.release(request)

    def _visits(self, stage: Stage, rollouts: Rollouts) -> list[Visit]:
        seconds, (failed, backoff_s) = self._seconds(stage, rollouts).tolist(), _failures(stage, rollouts)
        tries, growth, holds = failed + 1, 2.0, False
        if isinstance(stage, BacksOff):
            tries, growth, holds = np.minimum(tries, stage.tries), float(stage.growth), bool(stage.holds)
        return [
            Visit(*one, backoff_s, growth, holds) for one in zip(seconds, tries.tolist(), failed.tolist(), strict=True)
        ]

    def _seconds(self, stage: Stage, rollouts: Rollouts) -> npt.NDArray[np.float64]:
        found = np.asarray(asked(stage, rollouts), np.float64)
        if found.shape not in ((), rollouts.rows.shape):
            raise InputError(
                f"stage {stage.name}: seconds has shape {found.shape}: give one number, or one for each of the "
                f"{rollouts.rows.size} rollouts"
            )
        return np.broadcast_to(found, rollouts.rows.shape)


def busy(clock: Clock, step: "Step", stage: Stage, seconds: float, what: str | None = None) -> Process:
    """Let a stage take its seconds, and note when it did in an RL step."""
    if seconds > 0:
        begun_s = clock.now
        yield clock.timeout(seconds)
        step.spans.append(Span(step.number, stage.name, what or stage.per, begun_s, clock.now))


def asked(stage: Stage, rollouts: Rollouts) -> npt.ArrayLike:
    """A stage's seconds; InputError where they are none."""
    with calling(f"stage {stage.name}: seconds", "mend the stage"):
        found = stage.seconds(rollouts)
        seconds = np.asarray(found, np.float64)
    if not (np.isfinite(seconds).all() and (seconds >= 0).all()):
        raise InputError(
            f"stage {stage.name}: seconds = {seconds.ravel()[:3].tolist()}: give finite seconds, 0 or more"
        )
    return found


def _failures(stage: Stage, rollouts: Rollouts) -> tuple[Int64, float]:
    if not isinstance(stage, Retries):
        return np.zeros(rollouts.rows.size, np.int64), 0.0
    with calling(f"stage {stage.name}: failures", "mend the stage"):
        return np.broadcast_to(np.asarray(stage.failures(rollouts), np.int64), rollouts.rows.shape), float(
            stage.backoff_s
        )
