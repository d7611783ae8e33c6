"""A window per sequence that grows while drafts are accepted whole (RhymeRL's HistoSpec, arXiv 2508.18588)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.budgets.feedback import UNSEEN
from simulator.budgets.policy import UNLIMITED
from simulator.budgets.trees import chains_only
from simulator.budgets.view import POSITION, ROLLOUT, BatchView
from simulator.spec import one_of, read, refuse, whole

Int64 = npt.NDArray[np.int64]

CAPS = {"add": 32, "double": 16}


@dataclass(frozen=True)
class Settings:
    """`aimd:variant=add|double,start=K,cap=K`, each with a default.

    variant: add grows by 2 and falls back to the start, as the paper has it; double doubles and halves, never below the
    start, as the released code has it. cap: largest window (default 32 for add, 16 for double).
    """

    variant: Literal["add", "double"] = "add"
    start: int = 2
    cap: int | None = None

    @property
    def largest(self) -> int:
        """The largest window."""
        return CAPS[self.variant] if self.cap is None else self.cap


READERS = {"variant": one_of(*CAPS), "start": whole(1, UNLIMITED), "cap": whole(1, UNLIMITED)}


class Aimd:
    """Windows that follow their rollouts, one object for all replicas: emitting more than the window widens it."""

    every = 1

    def __init__(self, settings: Settings) -> None:
        start, cap = settings.start, settings.largest
        now = np.arange(UNLIMITED + 1)
        add = settings.variant == "add"
        self._wider: Int64 = np.minimum(now + 2 if add else now * 2, cap)
        self._narrower: Int64 = np.full_like(now, start) if add else np.maximum(now // 2, start)
        self._start = start
        self._last: dict[int, tuple[BatchView, Int64]] = {}
        self._position: Int64 = np.empty(0, np.int64)  # of rollouts as they were last seen, where the batch has changed
        self._window: Int64 = np.empty(0, np.int64)

    def __call__(self, view: BatchView) -> Int64:
        """Return the window of every live sequence."""
        replica = view.replica
        last = self._last.get(replica)
        position = view.seen[POSITION]
        if last is not None and last[0].seen[ROLLOUT].tobytes() == view.seen[ROLLOUT].tobytes():
            before, window = last[0].seen[POSITION], last[1]
        else:
            before, window = self._recalled(view, last)
        if last is not None and last[0].steps != view.steps:
            emitted = position - before
            after = np.where(emitted > window, self._wider[window], self._narrower[window])
            # one that was not scheduled, or prefills still, says nothing of its drafts
            window = after if emitted.all() else np.where(emitted == 0, window, after)
        self._last[replica] = view, window
        return window

    def _recalled(self, view: BatchView, last: "tuple[BatchView, Int64] | None") -> tuple[Int64, Int64]:
        """Return position and window of the batch as last seen; one seen for the first time keeps the start, UNSEEN."""
        if not self._window.size:
            rollouts = view.requests.prompt.size
            self._position, self._window = np.full(rollouts, UNSEEN), np.full(rollouts, self._start)
        if last is not None:
            self._position[last[0].rollout], self._window[last[0].rollout] = last[0].seen[POSITION], last[1]
        return self._position[view.rollout], self._window[view.rollout]


def aimd(argument: str, context: Context) -> Aimd:
    """A draft window per sequence: wider after a draft accepted whole, narrower after any other step."""
    chains_only("aimd", argument, context)
    settings = Settings(**read("aimd", argument, READERS))
    if settings.start > settings.largest:
        refuse("aimd", argument, f"has start={settings.start} above cap={settings.largest}: give start <= cap")
    return Aimd(settings)
