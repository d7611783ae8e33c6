"""Which budgets an engine can be told: one number, or one for each batch size. All else decides in code that runs inside it."""

from dataclasses import dataclass

import numpy as np

from simulator.budgets.context import Context
from simulator.budgets.policy import TablePolicy
from simulator.budgets.resolve import resolve_policy

BY_BATCH = ("none", "fixed", "unlimited", "threshold", "schedule")
"""Policies that need to know nothing but the batch size."""


@dataclass(frozen=True)
class Budgets:
    """ranges: (first, last, K) by live sequences, from 1 to the slots of a replica, each K another than those beside it."""

    ranges: tuple[tuple[int, int, int], ...]

    @property
    def most(self) -> int:
        """The largest K."""
        return max(k for _, _, k in self.ranges)

    @property
    def varies(self) -> bool:
        """Whether the batch size decides."""
        return len(self.ranges) > 1

    @property
    def spec(self) -> str:
        """The policy's name that says the same as an engine takes it."""
        if not self.varies:
            return f"fixed:{self.most}" if self.most else "none"
        return "schedule:" + ",".join(f"{first}-{last}={k}" for first, last, k in self.ranges)

    def cut(self, most: int) -> "Budgets":
        """The same, no K above `most`."""
        return _ranges([min(k, most) for first, last, k in self.ranges for _ in range(first, last + 1)])


def budgets_of(policy: str, max_num_seqs: int) -> Budgets | None:
    """The budgets by batch size that a policy's name stands for on so many slots, None where more than that decides."""
    if policy.partition(":")[0] not in BY_BATCH:
        return None
    empty = np.empty(0, np.int64)
    table = resolve_policy(policy, Context(0, empty, empty, None, max_num_seqs, lambda: None))  # type: ignore[arg-type]
    assert isinstance(table, TablePolicy), "all of these are"
    row = table.budgets[0, 0]
    return _ranges(row[np.minimum(np.arange(1, max_num_seqs + 1), row.size - 1)].tolist())


def constant(k: int, max_num_seqs: int) -> Budgets:
    """The same K at every batch size."""
    return Budgets(((1, max_num_seqs, k),))


def _ranges(budgets: list[int]) -> Budgets:
    """From the K of each batch size, 1 being the first."""
    starts = [at for at, k in enumerate(budgets) if at == 0 or k != budgets[at - 1]]
    ends = [*starts[1:], len(budgets)]
    return Budgets(tuple((first + 1, last, budgets[first]) for first, last in zip(starts, ends, strict=True)))
