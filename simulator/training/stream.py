"""The rollouts of a run in the order in which they are submitted, and where each of them and each group stands."""

from collections import deque

import numpy as np
import numpy.typing as npt

from simulator.training.loop import LoopView
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


class Stream:
    """Rollouts 0 to n - 1: those of each RL step after those of the one before, in the trace's order.

    rows: int64[n], of the trace; group: int64[n], 0 to g - 1 in order of their first rollouts; groups: how many each RL step
    has; ends: int64[steps], the first rollout after each RL step. emitted: int64[n], tokens so far.
    """

    def __init__(self, trace: Trace, steps: list[int]) -> None:
        self.rows = np.concatenate([np.flatnonzero(trace.step == step) for step in steps])
        keys = np.stack([np.repeat(np.arange(len(steps)), [int((trace.step == step).sum()) for step in steps]),
                         trace.prompt[self.rows].astype(np.int64)])  # fmt: skip
        _, first, number = np.unique(keys, axis=1, return_index=True, return_inverse=True)
        self.group: Int64 = np.argsort(np.argsort(first))[number.ravel()]
        self.sizes = np.bincount(self.group)
        self.groups = np.bincount(keys[0, np.sort(first)], minlength=len(steps))
        self.ends = np.cumsum(np.bincount(keys[0], minlength=len(steps)))
        self.lengths = trace.output_tokens[self.rows].astype(np.int64)
        self.emitted = np.zeros(self.rows.size, np.int64)
        self.finished: Bool = np.zeros(self.rows.size, np.bool_)
        self.next = 0
        self.left = self.sizes.copy()
        self.dropped: Bool = np.zeros(self.sizes.size, np.bool_)
        self._complete: deque[int] = deque()
        self._whole: Bool = np.zeros(self.sizes.size, np.bool_)

    def __len__(self) -> int:
        """Return the number of rollouts."""
        return self.rows.size

    def carried(self) -> Int64:
        """Rollouts that were submitted and are not finished: those with tokens first, then those without."""
        mine = np.flatnonzero(~self.finished[: self.next])
        begun = self.emitted[mine] > 0
        return np.concatenate([mine[begun], mine[~begun]])

    def finish(self, rollouts: Int64) -> list[int]:
        """Note that rollouts have finished; returns the groups that are whole now, in order."""
        self.finished[rollouts] = True
        self.emitted[rollouts] = self.lengths[rollouts]
        groups = np.unique(self.group[rollouts])
        self.left -= np.bincount(self.group[rollouts], minlength=self.sizes.size)
        return [int(group) for group in groups if self.left[group] == 0]

    def complete(self, group: int, keep: bool = True) -> None:
        """Let a whole group be trained on, or drop it."""
        self._whole[group] = True
        if keep:
            self._complete.append(group)
        else:
            self.dropped[group] = True

    @property
    def waiting(self) -> int:
        """Groups that are complete and have not been trained on."""
        return len(self._complete)

    def batch(self, groups: int) -> Int64:
        """Take the rollouts of so many groups, those that were complete first."""
        taken = [self._complete.popleft() for _ in range(min(groups, len(self._complete)))]
        return np.flatnonzero(np.isin(self.group, taken))

    def members(self, group: int) -> Int64:
        """The rollouts of a group."""
        return np.flatnonzero(self.group == group)

    def view(self, step: int, lag: int, carried: int, in_flight: int) -> LoopView:
        """What a loop may know. carried: rollouts that are carried over and not submitted again; in_flight: submitted."""
        due = int(self.ends[min(step + lag, self.ends.size - 1)])
        begun = 0 if self.next == 0 else int(self.group[self.next - 1]) + 1
        return LoopView(
            step, int(self.groups[step]), self.waiting, begun - int(self._whole[:begun].sum()), in_flight,
            carried + max(due - self.next, 0), carried + len(self) - self.next, self.sizes[begun:],
        )  # fmt: skip
