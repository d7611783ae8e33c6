"""What a drafter would propose at every position of every rollout, and how much of it would be accepted."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.compiled import entry
from simulator.limits import LARGEST_BUDGET
from simulator.records import Array, Layout, as_int
from traces.errors import InputError

UInt8 = npt.NDArray[np.uint8]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

NO_TABLE = -1


class Draft:
    """What compiled code reads of a table at a position."""

    accepted: int
    drafted: int


DRAFT: Layout[Draft] = np.dtype([(name, np.uint8) for name in Draft.__annotations__])  # type: ignore[assignment]


@dataclass
class Acceptance:
    """Drafted and accepted tokens by position, for a set of n rollouts with `positions` tokens in all.

    offsets: int64[n + 1], rollout i owns positions offsets[i] to offsets[i + 1]; tables: uint8[t, positions, 2], tokens
    accepted and tokens drafted when a decode step begins at a position; table_of: int64[256], the table that serves a
    budget (`accepted(k) = min(k, table)`), NO_TABLE for budgets not asked for yet.

    Where drafts of a smaller budget are prefixes of those of a larger one (`longest` matches), one table serves all
    budgets. Where the draft itself depends on the budget (`scored` matches), `serve` computes a table per budget; `least` names
    the least budget with the same table, where several have one. checked: whether its tables are put together of checked ones;
    blank: whether nothing is drafted anywhere: then one entry stands for all positions, and no table takes memory.
    """

    offsets: Int64
    compute: Callable[[int], UInt8] | None
    prefix: bool
    least: Callable[[int], int] = int
    checked: bool = False
    blank: bool = False
    tables: UInt8 = field(init=False)
    table_of: Int64 = field(init=False)

    def __post_init__(self) -> None:
        """Start with the table that serves every budget, or with none."""
        self.table_of = np.full(LARGEST_BUDGET + 1, NO_TABLE, np.int64)
        if self.blank:
            self.tables = np.broadcast_to(np.zeros(2, np.uint8), (1, int(self.offsets[-1]), 2))
            self.table_of[:] = 0
        elif self.prefix:
            self.tables = self._table(LARGEST_BUDGET)[None]
            self.table_of[:] = 0
            self.release()
        else:
            self.tables = np.zeros((1, int(self.offsets[-1]), 2), np.uint8)
            self.table_of[0] = 0

    def serves(self, budgets: "Int64 | int") -> bool:
        """Whether there is a table for each of these budgets."""
        return bool(np.min(self.table_of[budgets]) != NO_TABLE)

    def serve(self, budgets: Iterable[int]) -> None:
        """Make sure that there is a table for each budget in [0, 255]."""
        asked = {k: self.least(k) for k in sorted({int(k) for k in budgets}) if self.table_of[k] == NO_TABLE}
        missing = sorted(k for k in set(asked.values()) if self.table_of[k] == NO_TABLE)
        if missing:
            self.table_of[missing] = len(self.tables) + np.arange(len(missing))
            before, self.tables = (
                self.tables,
                np.empty((len(self.tables) + len(missing), *self.tables.shape[1:]), np.uint8),
            )
            self.tables[: len(before)] = before
            for place, k in enumerate(missing, len(before)):
                self.tables[place] = self._table(k)
        for budget, least in asked.items():
            self.table_of[budget] = self.table_of[least]

    def _table(self, budget: int) -> UInt8:
        """The table of a budget; InputError where a drafter made something else."""
        assert self.compute, "released"
        table = self.compute(budget)
        shape = (int(self.offsets[-1]), 2)
        if not (isinstance(table, np.ndarray) and table.dtype == np.uint8 and table.shape == shape):
            kind = f"{table.dtype}{list(table.shape)}" if isinstance(table, np.ndarray) else type(table).__name__
            raise InputError(f"a drafter's table is {kind}: it must be uint8{list(shape)}, accepted and drafted")
        own = table.flags.owndata and table.flags.writeable and table.flags.c_contiguous
        table = table if own else np.array(table, order="C")
        if not self.checked and (position := int(_first_wrong(table.view(DRAFT)[:, 0]))) >= 0:
            raise InputError(
                f"a drafter's table has more accepted than drafted at position {position}: mend the drafter"
            )
        return table

    def exchanged(self, mine: Bool, part: "Acceptance") -> "Acceptance":
        """Return the same with the drafts of some rollouts, bool[n], taken from `part`; one table of each serves all budgets."""
        assert self.prefix
        assert part.prefix
        table, at = self.tables[0].copy(), part.offsets.tolist()
        for number, rollout in enumerate(np.flatnonzero(mine).tolist()):
            table[self.offsets[rollout] : self.offsets[rollout + 1]] = part.tables[0][at[number] : at[number + 1]]
        return Acceptance(self.offsets, lambda budget: table, prefix=True)

    @property
    def laid_out(self) -> "npt.NDArray[Any]":
        """All tables one after another, as compiled code reads them; where nothing is drafted, the one entry."""
        return (np.zeros((1, 2), np.uint8) if self.blank else self.tables.reshape(-1, 2)).view(DRAFT)[:, 0]

    def drafts(self, budget: int) -> Array[Draft]:
        """The table that serves a budget, as compiled code reads it."""
        assert not self.blank
        table: Array[Draft] = self.tables[self.table_of[budget]].view(DRAFT)[:, 0]
        return table

    def release(self) -> None:
        """Let go of what computes further tables: a whole history."""
        self.compute = None


def no_drafts(offsets: Int64) -> Acceptance:
    """The acceptance of rollouts for which nobody drafts."""
    return Acceptance(offsets, None, prefix=True, blank=True)


@entry
def _first_wrong(table: Array[Draft]) -> int:
    """The first position with more accepted than drafted; -1 where there is none."""
    for p in range(table.size):
        if table[p].accepted > table[p].drafted:
            return p
    return -1


@dataclass(frozen=True)
class AcceptanceCounts:
    """Sums over rollouts replayed alone, each decode step with the same budget."""

    rollouts: int
    output_tokens: int
    sequence_steps: int
    drafted_tokens: int
    accepted_tokens: int

    @property
    def mean_acceptance_length(self) -> float:
        """Emitted tokens per sequence per decode step, the bonus token included."""
        return self.output_tokens / self.sequence_steps

    @property
    def draft_acceptance_rate(self) -> float | None:
        """Accepted over drafted tokens; None where nothing was drafted."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else None


@entry
def _count(offsets: Array[int], table: Array[Draft], budget: int, counts: "npt.NDArray[Any]") -> None:
    for i in range(offsets.size - 1):
        p, end = offsets[i], offsets[i + 1]
        while p < end:
            right = min(budget, as_int(table[p].accepted))
            counts[0, i] += 1
            counts[1, i] += min(budget, as_int(table[p].drafted))
            counts[2, i] += right
            p += right + 1


def count_each(acceptance: Acceptance, budget: int) -> Int64:
    """Replay every rollout with a constant budget from its first token on, drafting there too where a table says so.

    Returns int64[3, n]: decode steps, drafted and accepted tokens of each rollout.
    """
    acceptance.serve([budget])
    counts = np.zeros((3, acceptance.offsets.size - 1), np.int64)
    if acceptance.blank:
        counts[0] = np.diff(acceptance.offsets)
        return counts
    _count(acceptance.offsets, acceptance.drafts(budget), budget, counts)
    return counts


def count_at(acceptance: Acceptance, budget: int) -> AcceptanceCounts:
    """Sum `count_each` over the rollouts."""
    steps, drafted, accepted = count_each(acceptance, budget).sum(axis=1)
    rollouts, tokens = acceptance.offsets.size - 1, int(acceptance.offsets[-1])
    return AcceptanceCounts(rollouts, tokens, int(steps), int(drafted), int(accepted))
