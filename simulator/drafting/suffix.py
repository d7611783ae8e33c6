"""The suffix drafter: continue as earlier rollouts, or this one so far, continued (arXiv 2511.13841; 2411.04975)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.cost.draft_cost import FREE, DraftCost
from simulator.drafting.acceptance import Acceptance, AcceptanceCounts, count_at
from simulator.drafting.ahead import drafted_ahead
from simulator.drafting.drafter import Asked, Source, offsets_of
from simulator.drafting.history import Forest, build_forest
from simulator.drafting.layout import THREADS, each_part
from simulator.drafting.live import SiblingIndex
from simulator.drafting.longest import accept_longest
from simulator.drafting.replay import NO_HISTORY, share_of
from simulator.drafting.scored import accept_scored
from simulator.drafting.tree import accept_tree
from simulator.limits import LARGEST_BUDGET, SUFFIX, Match, Scope, Shape, Siblings
from traces.errors import InputError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Suffix:
    """Suffix-automaton drafter, lossless; learns from earlier RL steps and from the rollout's own prompt and output.

    scope: the past responses that are searched: those to the same problem, all of them, or none (`request`).
    own: also search the rollout's own prompt and output. match: `longest` takes the longest match, `scored` the draft of
    the highest expected number of accepted tokens. shape: `path` drafts one continuation, `tree` (scored only) several at
    once, a query token each. window: RL steps of history. depth: longest string known, in tokens (a context has at most
    depth - 1). factor: drafted tokens per matched token, at most. min_prob: a draft ends where its path probability falls
    below. prompt: whether the prompt is context; without it the context starts empty. siblings: other rollouts of the
    same RL step are known from the `next-step` on, or from the next decode step on, `live` where they run on the same
    replica or `everywhere` (`live.SiblingIndex`). newest, newest_weight: what occurs in the newest so many RL steps counts so
    many times.
    cost: what drafting adds to a decode step.
    """

    scope: Scope = SUFFIX.scope
    own: bool = SUFFIX.own
    match: Match = SUFFIX.match
    shape: Shape = SUFFIX.shape
    window: int = SUFFIX.window
    depth: int = SUFFIX.depth
    factor: float = SUFFIX.factor
    min_prob: float = SUFFIX.min_prob
    prompt: bool = SUFFIX.prompt
    siblings: Siblings = SUFFIX.siblings
    newest: int = SUFFIX.newest
    newest_weight: int = SUFFIX.newest_weight
    cost: DraftCost = FREE

    lossless = True
    needs_tokens = True

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, in words that begin with a setting."""
        if self.shape == "tree" and self.siblings != "next-step":
            raise InputError("shape tree is not drafted with live siblings: change one of the two")
        if self.shape == "tree" and self.match != "scored":
            raise InputError(f"shape tree goes with match scored, not {self.match}: change one of the two")

    @property
    def learns_from(self) -> frozenset[Source]:
        """The history unless the scope is `request`; prompt and own output if `own`; siblings if they are live."""
        own: set[Source] = {"prompt", "own"} if self.own else set()
        past: set[Source] = {"history"} if self.scope != "request" else set()
        beside: set[Source] = {"siblings"} if self.siblings != "next-step" else set()
        return frozenset(own | past | beside)

    def describe(self) -> str:
        """Name it with every setting that a result depends on."""
        own = "+own" if self.own and self.scope != "request" else ""
        tree = " tree" if self.shape == "tree" else ""
        live = {"next-step": "", "live": ", live siblings", "everywhere": ", live siblings everywhere"}[self.siblings]
        newest = f", newest {self.newest} x{self.newest_weight}" if self.newest and self.newest_weight != 1 else ""
        return (
            f"suffix({self.scope}{own}, {self.match}{tree}, window={self.window}, depth={self.depth}, "
            f"factor={self.factor:g}, min_prob={self.min_prob:g}{newest}{live})"
        )

    def learn(self, trace: Trace, rows: Int64, threads: int = THREADS) -> Forest:
        """Build the frozen history from the responses in `rows`, in that order."""
        rows = rows[:0] if self.scope == "request" else rows
        groups = trace.prompt[rows].astype(np.int64) if self.scope == "problem" else np.zeros(rows.size, np.int64)
        n_groups = len(trace.prompt_ids) if self.scope == "problem" else 1
        starts, ends, weights = trace.offsets[rows], trace.offsets[rows + 1], self.weights(trace, rows)
        return build_forest(trace.tokens, starts, ends, groups, n_groups, self.depth, weights, threads)

    def weights(self, trace: Trace, past: Int64) -> Int64:
        """How much an occurrence in each of these past rollouts counts."""
        newest = np.unique(trace.step[past])[-self.newest :] if self.newest else np.empty(0, np.int32)
        return np.where(np.isin(trace.step[past], newest), self.newest_weight, 1).astype(np.int64)

    def accept(self, trace: Trace, rows: Int64, past: Int64, seed: int = 0) -> Acceptance:
        """Draft at every position of the rollouts in `rows` from the frozen history in `past` and their own output."""
        each = self.accept_each(trace, [Asked(rows, past)], seed)
        return self.accept_from(trace, rows, self.learn(trace, past)) if each is None else each[0]

    def accept_each(self, trace: Trace, asked: Sequence[Asked], seed: int) -> list[Acceptance] | None:
        """Do what `accept` does for each who asks, of longest matches problem by problem."""
        if self.scope != "problem" or self.match != "longest":
            return None
        tables = drafted_ahead(self, trace, asked)
        return [
            Acceptance(offsets_of(trace, one.rows), lambda budget, table=table: table, prefix=True)  # type: ignore[misc]
            for one, table in zip(asked, tables, strict=True)
        ]

    def accept_from(self, trace: Trace, rows: Int64, history: Forest, threads: int = THREADS) -> Acceptance:
        """Do what `accept` does from a history that is built already."""

        def table(budget: int) -> UInt8:
            replay = SuffixReplay(self, trace, rows, history, threads)
            replay.run(budget)
            return replay.table

        return Acceptance(offsets_of(trace, rows), table, prefix=self.match == "longest")

    def counted(self, trace: Trace, rows: Int64, past: Int64, budget: int) -> AcceptanceCounts:
        """Do what `count` does from the history in `past`."""
        return self.count(trace, rows, self.learn(trace, past), budget)

    def sibling_index(self, trace: Trace, rows: Int64, past: Int64) -> SiblingIndex | None:
        """Return what drafts with live siblings, where they are asked for."""
        return SiblingIndex(self, trace, rows, self.learn(trace, past)) if self.siblings != "next-step" else None

    def count(
        self, trace: Trace, rows: Int64, history: Forest, budget: int, threads: int = THREADS
    ) -> AcceptanceCounts:
        """Replay `rows` alone with a constant budget, drafting only where a decode step begins."""
        if self.match == "longest":
            return count_at(self.accept_from(trace, rows, history, threads), budget)
        replay = SuffixReplay(self, trace, rows, history, threads)
        steps = replay.run(budget, everywhere=False)
        accepted, drafted = replay.table.sum(axis=0, dtype=np.int64).tolist()
        return AcceptanceCounts(rows.size, int(replay.offsets[-1]), steps, drafted, accepted)


class SuffixReplay:
    """Rollouts laid out for the compiled drafters; threads share them."""

    def __init__(self, drafter: Suffix, trace: Trace, rows: Int64, history: Forest, threads: int = THREADS) -> None:
        self.drafter, self.trace, self.rows, self.history, self.threads = drafter, trace, rows, history, threads
        self.offsets = offsets_of(trace, rows)
        if drafter.scope == "problem":
            self.at = history.at[trace.prompt[rows]]
        elif drafter.scope == "global":
            self.at = np.repeat(history.at, rows.size)
        else:
            self.at = np.full(rows.size, NO_HISTORY)
        self.table: UInt8 = np.zeros((int(self.offsets[-1]), 2), np.uint8)
        """What was accepted and drafted."""
        self.scores = np.empty(0)

    def run(self, budget: int = LARGEST_BUDGET, everywhere: bool = True, scores: bool = False) -> int:
        """Draft with a budget, at every position or where decode steps begin; returns the decode steps of scored drafts."""
        if scores:
            self.scores = np.zeros(self.offsets[-1])

        def run_part(part: Int64) -> int:
            at, offsets = (
                self.at[part],
                self.offsets[part],
            )  # the share lives as long as the kernel reads what it points at
            share = share_of(
                self.drafter, self.trace, self.rows[part], at, offsets, self.table, budget, everywhere, self.scores
            )
            if self.drafter.match == "longest":
                return accept_longest(share.record, 0, part.size)
            return (accept_tree if self.drafter.shape == "tree" else accept_scored)(share.record)

        return each_part(self.offsets, run_part, self.threads)
