"""The suffix drafter: continue as earlier rollouts, or this one so far, continued (arXiv 2511.13841; 2411.04975)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.cost.draft_cost import FREE, DraftCost
from simulator.drafting.acceptance import Acceptance, AcceptanceCounts, count_at
from simulator.drafting.automaton import block_size
from simulator.drafting.drafter import Source, offsets_of
from simulator.drafting.history import Forest, build_forest
from simulator.drafting.layout import THREADS, each_part, prompts_of
from simulator.drafting.live import SiblingIndex
from simulator.drafting.longest import accept_longest
from simulator.drafting.memory import address
from simulator.drafting.replay import NODE, REPLAY
from simulator.drafting.scored import accept_scored
from simulator.drafting.standing import STANDING
from simulator.drafting.tree import accept_tree
from simulator.limits import LARGEST_BUDGET, SUFFIX, Match, Scope, Shape, Siblings
from simulator.records import Pointing, records
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
        newest = np.unique(trace.step[rows])[-self.newest :] if self.newest else np.empty(0, np.int32)
        weights = np.where(np.isin(trace.step[rows], newest), self.newest_weight, 1).astype(np.int64)
        starts, ends = trace.offsets[rows], trace.offsets[rows + 1]
        return build_forest(trace.tokens, starts, ends, groups, n_groups, self.depth, weights, threads)

    def accept(self, trace: Trace, rows: Int64, past: Int64, seed: int = 0) -> Acceptance:
        """Draft at every position of the rollouts in `rows` from the frozen history in `past` and their own output."""
        return self.accept_from(trace, rows, self.learn(trace, past))

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
        drafted, accepted = int(replay.drafted.sum()), int(replay.accepted.sum())
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
            self.at = np.full(rows.size, -1, np.int64)
        self.prompts = prompts_of(trace, rows, drafter.prompt)
        self.accepted, self.drafted = np.zeros(self.offsets[-1], np.uint8), np.zeros(self.offsets[-1], np.uint8)
        self.scores = np.empty(0)

    @property
    def table(self) -> UInt8:
        """What was accepted and drafted, uint8[positions, 2]."""
        return np.stack([self.accepted, self.drafted], axis=1)

    def run(self, budget: int = LARGEST_BUDGET, everywhere: bool = True, scores: bool = False) -> int:
        """Draft with a budget, at every position or where decode steps begin; returns the decode steps of scored drafts."""
        kernel = accept_longest if self.drafter.match == "longest" else accept_scored
        if self.drafter.shape == "tree":
            kernel = accept_tree
        if scores:
            self.scores = np.zeros(self.offsets[-1])

        def run_part(part: Int64) -> int:
            share = self._share(part, budget, everywhere)  # lives as long as the kernel reads what it points at
            return kernel(share.record)

        return each_part(self.offsets, run_part, self.threads)

    def _share(self, part: Int64, budget: int, everywhere: bool) -> Pointing:
        """What one thread replays."""
        d, rows, prompts = self.drafter, self.rows[part], self.prompts
        starts, ends = self.trace.offsets[rows], self.trace.offsets[rows + 1]
        first, last = prompts.starts[part], prompts.ends[part]
        standing = Pointing(STANDING)
        if d.own:
            longest = int((ends - starts + last - first).max())
            standing.point(own=np.empty(block_size(longest, 1), np.int32))
        share = Pointing(
            REPLAY, depth=d.depth, factor=d.factor, min_prob=d.min_prob, budget=budget, everywhere=everywhere,
            tokens=address(self.trace.tokens), prompts=address(prompts.tokens),
        )  # fmt: skip
        share.point(
            standing=standing, starts=starts, ends=ends, prompt_starts=first, prompt_ends=last, histories=self.at[part],
            offsets=self.offsets[part], accepted=self.accepted, drafted=self.drafted, scores=self.scores,
            scratch=np.empty(max(2 * d.depth, LARGEST_BUDGET), np.int32), tree=records(NODE, max(budget, 1)),
            other_tree=records(NODE, max(budget, 1)),
        )  # fmt: skip
        return share
