"""The groups of a trace, as transforms take them apart."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Groups:
    """rows: int64[n] of the trace, group by group, in each those of lower samples first; sizes: int64[groups], one at least."""

    rows: Int64
    sizes: Int64

    @cached_property
    def begins(self) -> Int64:
        """Where each group begins in `rows`, int64[groups]."""
        return np.cumsum(self.sizes) - self.sizes

    @cached_property
    def group(self) -> Int64:
        """The group of each of `rows`, int64[n]."""
        return np.repeat(np.arange(self.sizes.size), self.sizes)

    @cached_property
    def place(self) -> Int64:
        """The place of each of `rows` in its group, from 0, int64[n]."""
        return np.arange(self.rows.size) - self.begins[self.group]

    @property
    def firsts(self) -> Int64:
        """The row of each group's lowest sample."""
        return self.rows[self.begins]

    @property
    def lasts(self) -> Int64:
        """The row of each group's highest sample."""
        last: Int64 = self.rows[self.begins + self.sizes - 1]
        return last

    @property
    def ends(self) -> Int64:
        """The last row that each group has in the trace."""
        return np.maximum.reduceat(self.rows, self.begins)

    def chosen(self, keep: Bool) -> "Groups":
        """The groups that are kept; bool[groups]."""
        return Groups(self.rows[keep[self.group]], self.sizes[keep])


def groups_of(trace: Trace) -> Groups:
    """The rollouts of each prompt in each RL step, in order of RL step and prompt."""
    rows = np.lexsort((trace.sample, trace.prompt, trace.step))
    is_new = (np.diff(trace.step[rows]) != 0) | (np.diff(trace.prompt[rows]) != 0)
    begins = np.append(0, np.flatnonzero(is_new) + 1)
    return Groups(rows, np.diff(begins, append=rows.size))
