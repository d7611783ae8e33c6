"""Placement: which replica decodes which rollout, for how many tokens, who moves and who is stopped."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.budgets.view import Requests

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

ANY = -1
"""In place of a replica: whichever has room first."""
QUEUED, HELD, FINISHED, CANCELLED = -1, -2, -3, -4
"""Where a rollout is that is on no replica: in the common queue, with nobody, at its end, or stopped."""
TO_THE_END = 0

Kind = Literal["start", "arrival", "left", "finished"]
KINDS: frozenset[Kind] = frozenset(get_args(Kind))
KV = Literal["recompute", "pull"]


class Event(NamedTuple):
    """What a placement is told: which rollouts are there at the start, arrive, have ended a stay or have finished.

    rollouts: int64[k], by number in queue order; replica: where they left or finished, -1 else. Each that leaves or finishes
    frees a slot there.
    """

    kind: Kind
    rollouts: Int64
    replica: int = -1


class Place(NamedTuple):
    """Let a rollout, or several in this order, join a replica's queue, or with ANY the queue that all replicas share.

    rollout: a number, or int64[k]; replica: one for all, or int64[k]; stay_tokens: it leaves again once it has emitted so many
    tokens there, 0: it stays to its end. kv: whether its KV is computed again there, or pulled from where it was.
    """

    rollout: int | Int64
    replica: int | Int64 = ANY
    stay_tokens: int = TO_THE_END
    kv: KV = "recompute"


class Cancel(NamedTuple):
    """Stop a rollout, or several; a step under way is finished, and its tokens stay."""

    rollout: int | Int64


Decision = Place | Cancel


class State(Protocol):
    """What a view looks up; see there."""

    @property
    def now_s(self) -> float:
        """Seconds on the clock."""

    @property
    def requests(self) -> Requests:
        """Of every rollout."""

    @property
    def queued(self) -> int:
        """Rollouts in the common queue."""

    @property
    def block_size(self) -> int:
        """Tokens of a KV block, 0 where there is no limit to them."""

    @property
    def emitted_tokens(self) -> Int64:
        """Of every rollout."""

    @property
    def where(self) -> Int64:
        """Of every rollout."""

    def counts(self) -> tuple[Int64, Int64, Int64, Int64]:
        """Running, waiting, room and free blocks of each replica."""


class View:
    """What a router knows at the moment of an event; nothing tells how long a rollout will go on.

    replicas; max_num_seqs: slots of each. It shows the present: its arrays are read-only and change with the next event.
    """

    def __init__(self, state: State, replicas: int, max_num_seqs: int) -> None:
        self._state, self.replicas, self.max_num_seqs = state, replicas, max_num_seqs

    @property
    def time_s(self) -> float:
        """Seconds on the clock."""
        return self._state.now_s

    @property
    def requests(self) -> Requests:
        """Prompt, sample and prompt length of every rollout."""
        return self._state.requests

    @property
    def queued(self) -> int:
        """Rollouts in the common queue."""
        return self._state.queued

    @property
    def block_size(self) -> int:
        """Tokens of a KV block; 0 where there is no limit to how many."""
        return self._state.block_size

    @property
    def emitted_tokens(self) -> Int64:
        """Tokens of each rollout as last reported, when a stay ended or it finished; int64[n]."""
        return self._state.emitted_tokens

    @property
    def where(self) -> Int64:
        """The replica that each rollout was placed on, or QUEUED, HELD, FINISHED, CANCELLED; int64[n]."""
        return self._state.where

    @property
    def loads(self) -> tuple[Int64, Int64, Int64, Int64]:
        """Of each replica, int64[replicas]: rollouts in its batch, in its own queue, that it has room for besides, and KV blocks
        that nobody refers to (0 where they are not counted).
        """  # fmt: skip
        return self._state.counts()


class Placement(Protocol):
    """Any callable that decides at an event, and may ask to be told of fewer kinds of them (`Selective`).

    A rollout that it does not place it may place at any later event; one that it never places is an error. `PreparesPlacement`
    is asked once per RL step for the placement to use.
    """

    def __call__(self, event: Event, view: View) -> Iterable[Decision]:
        """Return what to do now, in order."""


@runtime_checkable
class Selective(Protocol):
    """A placement that says what it must be told: one that acts at the start alone costs nothing after it."""

    events: frozenset[Kind]


@runtime_checkable
class PreparesPlacement(Protocol):
    """What makes a placement anew for each RL step."""

    def prepare(self, context: Context) -> Placement:
        """Return the placement of the RL step that `context` is known of."""


@runtime_checkable
class KnowsLengths(Protocol):
    """A placement that is shown how long rollouts will go on: an oracle, whole or with errors, and named as one in every result.

    knows: what it knows, in a line.
    """

    @property
    def knows(self) -> str:
        """In words."""

    def shown(self, lengths: Int64, keys: UInt64) -> Placement:
        """Return the placement of an RL step with such rollouts: tokens that each still emits, and its key for random numbers."""


@dataclass(frozen=True)
class Told:
    """A function as a placement that is told of some kinds of events."""

    decide: Callable[[Event, View], Iterable[Decision]]
    events: frozenset[Kind]
    name: str

    def __call__(self, event: Event, view: View) -> Iterable[Decision]:
        """Return what to do now."""
        return self.decide(event, view)


def told_at(*kinds: Kind) -> Callable[[Callable[[Event, View], Iterable[Decision]]], Told]:
    """Make a function a placement that is told of these kinds of events alone."""
    return lambda decide: Told(decide, frozenset(kinds), decide.__name__)


def events_of(placement: Placement) -> frozenset[Kind]:
    """The kinds of events that it is told of."""
    return placement.events if isinstance(placement, Selective) else KINDS


def name_of(placement: Placement) -> str:
    """A placement, in words."""
    return str(getattr(placement, "name", getattr(placement, "__qualname__", type(placement).__qualname__)))
