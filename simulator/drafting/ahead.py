"""Drafts for several RL steps in one go: what a problem's automaton has learnt for one of them is not learnt again for the next.

Problem by problem an automaton grows in a block that stays in cache, and whoever is to be drafted for from what it has learnt by
then is replayed at once: nothing is compacted, and no forest is kept. Histories that begin alike grow on one trunk; one that
leaves it goes on in a copy, a branch.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.drafting.drafter import Asked, offsets_of
from simulator.drafting.history import branch_off, grow, new_block, start
from simulator.drafting.layout import THREADS, each_part
from simulator.drafting.longest import accept_longest
from simulator.drafting.memory import address
from simulator.drafting.replay import NO_HISTORY, share_of
from traces.trace import Trace

if TYPE_CHECKING:
    from simulator.drafting.suffix import Suffix

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


class Past(NamedTuple):
    """A problem's history: rows of the trace, oldest first, and how much an occurrence in each counts; int64[n]."""

    rows: Int64
    weights: Int64

    @property
    def size(self) -> int:
        """Rollouts in it."""
        return self.rows.size

    def alike(self, other: "Past") -> int:
        """With how many rollouts both begin."""
        n = min(self.size, other.size)
        differ = (self.rows[:n] != other.rows[:n]) | (self.weights[:n] != other.weights[:n])
        return int(differ.argmax()) if differ.any() else n


class Trunk(NamedTuple):
    """A history that others begin like: how far each goes along with it, and whose it is, in the order in which it grows."""

    past: Past
    leaves: list[tuple[int, int]]


def trunks(pasts: Mapping[int, Past]) -> Iterator[Trunk]:
    """Yield trunks for the histories of who asks: the next of them makes the last trunk longer, leaves it, or begins another."""
    trunk, leaves = Past(np.empty(0, np.int64), np.empty(0, np.int64)), list[tuple[int, int]]()
    for number, past in pasts.items():
        shared = past.alike(trunk)
        if shared == trunk.size:
            trunk = past
        elif 2 * shared < past.size:
            yield Trunk(trunk, sorted(leaves))
            trunk, leaves = past, []
        leaves.append((past.alike(trunk), number))
    yield Trunk(trunk, sorted(leaves))


class Lists:
    """Rows of everybody who asks, those of a problem one after another: one's rows keep their order."""

    def __init__(self, trace: Trace, lists: Sequence[Int64], problems: Int64) -> None:
        everybody, rows = np.repeat(np.arange(len(lists)), [one.size for one in lists]), np.concatenate(lists)
        key = np.searchsorted(problems, trace.prompt[rows]) * len(lists) + everybody
        self.order = np.argsort(key, kind="stable")
        self.rows = rows[self.order]
        cuts = np.searchsorted(key[self.order], np.arange(problems.size * len(lists) + 1))
        self._cuts: list[int] = cuts.tolist()
        self._asking = len(lists)
        tokens = np.concatenate([[0], np.cumsum(trace.output_tokens[self.rows], dtype=np.int64)])[cuts]
        self.tokens = np.diff(tokens).reshape(problems.size, -1)
        self.counts = np.diff(cuts).reshape(problems.size, -1)
        """int64[problems, who asks]."""

    def of(self, problem: int, number: int) -> slice:
        """Which of `rows` one asks for of a problem."""
        at = problem * self._asking + number
        return slice(self._cuts[at], self._cuts[at + 1])

    def span(self, first: int, end: int) -> slice:
        """Which are those of several problems."""
        return slice(self._cuts[first * self._asking], self._cuts[end * self._asking])


def drafted_ahead(drafter: "Suffix", trace: Trace, asked: Sequence[Asked], threads: int = THREADS) -> list[UInt8]:
    """The table of each who asks, uint8[positions, 2]: of longest matches in the past rollouts to the same problem."""
    problems = np.unique(np.concatenate([trace.prompt[one.rows] for one in asked]))
    used = [np.isin(trace.prompt[one.past], problems) for one in asked]
    weights = [drafter.weights(trace, one.past)[its] for one, its in zip(asked, used, strict=True)]
    mine = Lists(trace, [one.rows for one in asked], problems)
    past = Lists(trace, [one.past[its] for one, its in zip(asked, used, strict=True)], problems)
    known = Past(past.rows, np.concatenate(weights)[past.order])
    offsets = [offsets_of(trace, one.rows) for one in asked]
    ends = np.cumsum([each[-1] for each in offsets])
    table = np.zeros((int(ends[-1]), 2), np.uint8)
    at = np.concatenate([each[:-1] + end - each[-1] for each, end in zip(offsets, ends, strict=True)])[mine.order]

    def run(part: Int64) -> int:
        room = int(past.tokens[part].max()), int(past.counts[part].max())
        span = mine.span(int(part[0]), int(part[-1]) + 1)
        growing, branch = new_block(*room), new_block(*room)
        histories = np.full(span.stop - span.start, NO_HISTORY)
        share = share_of(drafter, trace, mine.rows[span], histories, at[span], table)
        for problem in part.tolist():
            some = np.flatnonzero(mine.counts[problem]).tolist()
            pasts = {one: Past(*(column[past.of(problem, one)] for column in known)) for one in some}
            for trunk in trunks(pasts):
                start(address(growing), int(trace.output_tokens[trunk.past.rows].sum()), trunk.past.size)
                grown = 0
                for reach, one in trunk.leaves:
                    _grow(trace, trunk.past, slice(grown, reach), drafter.depth, address(growing))
                    grown, its, block = reach, pasts[one], address(growing)
                    if reach < its.size:
                        block = address(branch)
                        branch_off(address(growing), block, int(past.tokens[problem, one]), its.size)
                        _grow(trace, its, slice(reach, its.size), drafter.depth, block)
                    rollouts = mine.of(problem, one)
                    first, end = rollouts.start - span.start, rollouts.stop - span.start
                    histories[first:end] = block // 4 if its.size else NO_HISTORY
                    accept_longest(share.record, first, end)
        return 0

    each_part(np.concatenate([[0], np.cumsum(mine.tokens.sum(axis=1))]), run, threads)
    return np.split(table, ends[:-1])


def drafted_alone(drafter: "Suffix", trace: Trace, rows: Int64, threads: int = THREADS) -> Int32:
    """What is drafted from prompt and own output alone, by position: int32, accepted + 256 drafted + 65536 tokens matched."""
    offsets = offsets_of(trace, rows)
    table, matched = np.zeros((int(offsets[-1]), 2), np.uint8), np.zeros(int(offsets[-1]), np.uint8)

    def run(part: Int64) -> int:
        nothing = np.full(part.size, NO_HISTORY)
        share = share_of(drafter, trace, rows[part], nothing, offsets[part], table, matched=matched)
        return accept_longest(share.record, 0, part.size)

    each_part(offsets, run, threads)
    found: Int32 = matched.astype(np.int32) << 16
    found |= table.view("<u2")[:, 0]
    return found


def _grow(trace: Trace, past: Past, some: slice, depth: int, at: int) -> None:
    """Have the automaton at an address learn some of a history's rollouts."""
    rows = past.rows[some]
    if rows.size:
        grow(trace.tokens, trace.offsets[rows], trace.offsets[rows + 1], past.weights[some], depth, at)
