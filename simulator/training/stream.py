"""The rollouts of a run in the order in which they are submitted, and where each of them and each group stands."""

from collections import deque
from math import ceil, inf

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
        counts = np.array([int((trace.step == step).sum()) for step in steps])
        keys = np.repeat(np.arange(len(steps)) * len(trace.prompt_ids), counts) + trace.prompt[self.rows]
        _, first, number = np.unique(keys, return_index=True, return_inverse=True)
        self.group: Int64 = np.argsort(np.argsort(first))[number]
        self.sizes = np.bincount(self.group)
        self.groups = np.bincount(keys[first] // len(trace.prompt_ids), minlength=len(steps))
        self.ends = np.cumsum(counts)
        self.lengths = trace.output_tokens[self.rows].astype(np.int64)
        self.emitted = np.zeros(self.rows.size, np.int64)
        self.finished: Bool = np.zeros(self.rows.size, np.bool_)
        self.next = 0
        self.left: list[int] = self.sizes.tolist()
        self.dropped: Bool = np.zeros(self.sizes.size, np.bool_)
        self._complete: deque[int] = deque()
        self._over = 0
        self._begun: Int64 = np.append(0, np.maximum.accumulate(self.group) + 1)
        self._by_group = np.split(np.argsort(self.group, kind="stable"), np.cumsum(self.sizes)[:-1])
        self._last = np.maximum.accumulate([int(mine[-1]) for mine in self._by_group])
        self._rollouts = np.diff(self.ends, prepend=0).tolist()

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
        whole = []
        for group in self.group[rollouts].tolist():
            self.left[group] -= 1
            if self.left[group] == 0:
                whole.append(group)
        return sorted(whole)

    def complete(self, group: int, keep: bool = True) -> None:
        """Let a whole group be trained on, or drop it."""
        self._over += 1
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
        return self.of([self._complete.popleft() for _ in range(min(groups, len(self._complete)))])

    def of(self, groups: list[int]) -> Int64:
        """The rollouts of some groups, in order."""
        none: Int64 = np.empty(0, np.int64)
        return np.sort(np.concatenate([none, *(self._by_group[group] for group in groups)]))

    def members(self, group: int) -> Int64:
        """The rollouts of a group."""
        return self._by_group[group]

    def drawn(self, step: int, prompts: float) -> int:
        """The first rollout after the groups that have been drawn by RL step `step`, `prompts` times those needed for each.

        Where a trace mixes groups, those between are drawn, too.
        """
        groups = min(ceil(prompts * int(self.groups[: step + 1].sum())), self.sizes.size) if prompts < inf else -1
        return int(self._last[groups - 1]) + 1 if groups >= 0 else len(self)

    def allowed(self, step: int, lag: int) -> int:
        """The first rollout after those of the RL steps up to `step`, and `lag` more."""
        return int(self.ends[min(step + lag, self.ends.size - 1)])

    def view(self, step: int, until: int, carried: int, in_flight: int) -> LoopView:
        """What a loop may know.

        until: the first rollout that is not due yet; carried: rollouts that are carried over and not submitted again; in_flight:
        submitted.
        """
        begun = int(self._begun[self.next])
        return LoopView(
            step, int(self.groups[step]), self.waiting, begun - self._over, in_flight, carried + max(until - self.next, 0),
            carried + len(self) - self.next, self.sizes[begun:], self._rollouts[step],
        )  # fmt: skip
