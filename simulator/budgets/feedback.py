"""What came of a replica's last decode step, as its next view shows it: what policies that learn, learn from."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.budgets.view import POSITION, ROLLOUT, BatchView

Int64 = npt.NDArray[np.int64]

UNSEEN = 2**62


class LastStep(NamedTuple):
    """One decode step, over the sequences that were in it and are still live.

    sequences: how many; emitted: their tokens; joined: sequences seen for the first time, which the step to come prefills.
    """

    sequences: int
    emitted: int
    joined: int


class Feedback:
    """Differences between a rollout's successive views; one object serves all replicas of an RL step.

    A policy that keeps one is asked every decode step. What a rollout's last step did is never seen: it has left.
    """

    def __init__(self) -> None:
        self._last: dict[int, BatchView] = {}
        self._position: Int64 = np.empty(0, np.int64)  # of rollouts as they were last seen, where the batch has changed

    def last_step(self, view: BatchView, replica: int) -> LastStep:
        """Return what the decode step before this view did; all zero but `joined` if there was none."""
        last = self._last.get(replica)
        self._last[replica] = view
        joined, seen = 0, view.seen
        if last is not None and last.seen[ROLLOUT].tobytes() == seen[ROLLOUT].tobytes():
            emitted = seen[POSITION] - last.seen[POSITION]
        else:
            emitted = self._since_last_seen(view, last)
            joined = view.live - emitted.size
        if last is None or last.steps == view.steps:
            return LastStep(0, 0, joined)
        # others were not scheduled, or are in a prefill that goes on: they emit nothing
        return LastStep(int(np.count_nonzero(emitted)), int(np.add.reduce(emitted)), joined)

    def _since_last_seen(self, view: BatchView, last: BatchView | None) -> Int64:
        """Return emitted tokens of those in the batch that were seen before."""
        if not self._position.size:
            self._position = np.full(view.requests.prompt.size, UNSEEN)
        if last is not None:
            self._position[last.rollout] = last.seen[POSITION]
        emitted: Int64 = view.seen[POSITION] - self._position[view.rollout]
        return emitted[emitted >= 0]
