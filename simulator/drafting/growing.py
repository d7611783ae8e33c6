"""Acceptance of rollouts of which nobody knows yet how many will be decoded: tables are made as they are submitted."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from simulator.drafting.acceptance import NO_TABLE, Acceptance

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


class Growing:
    """The acceptance of n rollouts, made in parts.

    acceptance: of all of them, right for those that `reach` was asked for; parts: what it is made of. make: from the first
    rollout and the one after the last to the acceptance of those between; cuts: int64[], where parts begin, ascending from 0;
    offsets: int64[n + 1]; blank: whether nothing is drafted in any part.
    """

    def __init__(
        self, make: Callable[[int, int], Acceptance], offsets: Int64, cuts: Int64, blank: bool = False
    ) -> None:
        self._make, self._offsets = make, offsets
        self._cuts = np.append(np.unique(cuts), offsets.size - 1).tolist()
        first = make(self._cuts[0], self._cuts[1])
        self.parts: list[Acceptance] = [first]
        self.acceptance = Acceptance(offsets, self._table, first.prefix, first.least, checked=True, blank=blank)

    def reach(self, count: int) -> None:
        """See to it that the first `count` rollouts have tables."""
        while len(self.parts) < len(self._cuts) - 1 and self._cuts[len(self.parts)] < count:
            number = len(self.parts)
            self.parts.append(self._make(self._cuts[number], self._cuts[number + 1]))
            self._write(number)

    def renew(self) -> None:
        """Make the parts that there are anew, in place: what is accepted of their drafts has changed."""
        for number in range(len(self.parts)):
            self.parts[number] = self._make(self._cuts[number], self._cuts[number + 1])
            self.acceptance.tables[:, self._span(number)] = 0
            self._write(number)

    def _write(self, number: int) -> None:
        """Put a part where it belongs in the tables of all."""
        part, whole, span = self.parts[number], self.acceptance, self._span(number)
        if whole.blank:
            return
        for budget in np.flatnonzero(whole.table_of != NO_TABLE).tolist():
            if whole.prefix or whole.table_of[budget] > 0:
                _put(whole.tables[whole.table_of[budget], span], part, budget)
            if whole.prefix:
                break

    def _span(self, number: int) -> slice:
        return slice(self._offsets[self._cuts[number]], self._offsets[self._cuts[number + 1]])

    def _table(self, budget: int) -> UInt8:
        table = np.zeros((int(self._offsets[-1]), 2), np.uint8)
        for number, part in enumerate(self.parts):
            _put(table[self._span(number)], part, budget)
        return table


def _put(zeros: UInt8, part: Acceptance, budget: int) -> None:
    """Write a part's table over zeros, which take no memory where they stay."""
    if not part.blank:
        part.serve([budget])
        zeros[:] = part.tables[part.table_of[budget]]
