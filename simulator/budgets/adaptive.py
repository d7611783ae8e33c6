"""A draft length per sequence that follows what its drafts come to (DiffuSpec's controller, arXiv 2510.02358)."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.budgets.trees import chains_only
from simulator.budgets.view import DRAFTED, POSITION, ROLLOUT, BatchView
from simulator.spec import BUDGET, number, one_of, read, refuse

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

UNSEEN = 2.0**52
"""As position, of a rollout that was not seen yet: beyond all."""


@dataclass(frozen=True)
class Settings:
    """`adaptive:low=K,high=K,rho=W,delta=K,compare=last|average`, each with a default.

    low, high: shortest and longest draft; rho: weight of the last draft in the moving averages; delta: tokens more after a draft
    accepted whole; compare: the last draft with what was accepted of it, or the moving averages of both.
    """

    low: int = 20
    high: int = 30
    rho: float = 0.5
    delta: int = 10
    compare: Literal["last", "average"] = "last"


READERS = {"low": BUDGET, "high": BUDGET, "rho": number(0, 1), "delta": BUDGET, "compare": one_of("last", "average")}


class State(NamedTuple):
    """What is known of a replica's batch as it was last seen; the last three are [live]."""

    view: BatchView
    generated: Float64
    accepted: Float64
    length: Int64


class Adaptive:
    """Lengths that follow their rollouts, one object for all replicas; a step without a draft changes nothing.

    After a draft of g tokens of which a were accepted: average = (1 - rho) average + rho g, beginning with 0, and length =
    floor(average), delta more if a >= g, within low and high; at first it is high.
    """

    every = 1

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._last: dict[int, State] = {}
        self._asked: set[int] = set()  # replicas that were asked since a batch last changed
        self._known: Float64 = np.empty((5, 0))  # of rollouts as they were last seen, where a batch has changed

    def __call__(self, view: BatchView) -> Int64:
        """Return the draft length of every live sequence."""
        last, seen = self._last.get(view.replica), view.seen
        if last is not None and last.view.seen[ROLLOUT].tobytes() == seen[ROLLOUT].tobytes():
            change = seen - last.view.seen
            drafted, emitted, state = change[DRAFTED], change[POSITION], State(view, *last[1:])
        else:
            drafted, emitted, state = self._recalled(view)
        drafting = np.count_nonzero(drafted)
        if drafting == drafted.size:
            state = self._after(state, drafted, emitted)
        elif drafting:
            after = self._after(state, drafted, emitted)
            state = State(view, *(np.where(drafted, *pair) for pair in zip(after[1:], state[1:], strict=True)))
        self._last[view.replica] = state
        self._asked.add(view.replica)
        return state.length

    def _after(self, state: State, drafted: Int64, emitted: Int64) -> State:
        """What is known after a draft of each sequence."""
        own = self._settings
        generated = (1 - own.rho) * state.generated + own.rho * drafted
        if own.compare == "last":
            accepted, whole = state.accepted, emitted > drafted
        else:
            accepted = (1 - own.rho) * state.accepted + own.rho * (emitted - 1)
            whole = accepted >= generated
        length = generated.astype(np.int64) + own.delta * whole
        return State(state.view, generated, accepted, np.minimum(np.maximum(length, own.low), own.high))

    def _recalled(self, view: BatchView) -> tuple[Int64, Int64, State]:
        """Tokens drafted and emitted since each of the batch was last seen on any replica, and what was known; 0 if never."""
        if not self._known.size:
            self._known = np.zeros((5, view.requests.prompt.size))
            self._known[0], self._known[4] = UNSEEN, self._settings.high
        for one in (self._last[replica] for replica in self._asked):
            rows = (one.view.seen[POSITION], one.view.seen[DRAFTED], one.generated, one.accepted, one.length)
            self._known[:, one.view.rollout] = rows
        self._asked.clear()
        position, drafted, generated, accepted, length = self._known[:, view.rollout]
        emitted = (view.seen[POSITION] - position).astype(np.int64)
        since = np.where(emitted < 0, 0, view.seen[DRAFTED] - drafted).astype(np.int64)
        return since, emitted, State(view, generated, accepted, length.astype(np.int64))


def adaptive(argument: str, context: Context) -> Adaptive:
    """A draft length per sequence: a moving average of its drafts, and more after one accepted whole."""
    chains_only("adaptive", argument, context)
    settings = Settings(**read("adaptive", argument, READERS))
    if settings.low > settings.high:
        refuse("adaptive", argument, f"has low={settings.low} above high={settings.high}: give low <= high")
    return Adaptive(settings)
