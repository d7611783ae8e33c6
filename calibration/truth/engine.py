"""A small serving engine around a real decoder: continuous batching in which the recorded tokens decide what is accepted."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from calibration.model.batch import Batch, batch_of
from calibration.model.runner import Runner
from simulator.budgets.policy import TablePolicy
from simulator.drafting.layout import Prompts

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class Drafting(Protocol):
    """What drafts for a live batch (`simulator.drafting.online.OnlineSuffix`)."""

    def begin(self, rollouts: Int64, prompts: Prompts) -> None:
        """Begin with rollouts."""

    def learn(self, rollouts: Int64, tokens: Int32, starts: Int64) -> None:
        """Note what rollouts emitted."""

    def propose(self, rollouts: Int64, most: Int64) -> tuple[Int32, Int64]:
        """Return drafts of at most `most` tokens each, and how many."""

    def forget(self, rollouts: Int64) -> None:
        """Forget rollouts that completed."""


class StepTime(NamedTuple):
    """One decode step: what it did, as the simulator's log counts it, and the seconds that it took; `draft_s`: the drafter's."""

    start_s: float
    duration_s: float
    draft_s: float
    live: int
    query_tokens: int
    kv_tokens: int
    prefill_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    emitted_tokens: int
    longest_context: int
    pairs: int
    prefill_seqs: int
    prefill_pairs: int


@dataclass(frozen=True, eq=False)
class Rollouts:
    """The n recorded rollouts that are decoded again, in queue order.

    tokens, starts: int32[total], int64[n + 1], the responses; prompts: their tokens; prompt_tokens: int64[n], lengths, more than
    `prompts` holds where a rollout has KV from before; rows: int64[n], rows of the policy's table.
    """

    tokens: Int32
    starts: Int64
    prompts: Prompts
    prompt_tokens: Int64
    rows: Int64

    def __len__(self) -> int:
        """Return how many."""
        return self.rows.size

    @property
    def output_tokens(self) -> Int64:
        """Lengths of the responses, int64[n]."""
        return np.diff(self.starts)


@dataclass(eq=False)
class Engine:
    """Decodes rollouts on a runner, at most `max_num_seqs` at once, until `step` returns None.

    What happens in which step is what the simulator's engine does without limits: the queue is admitted whole while slots are
    free, in the step that prefills a prompt its rollout emits the first token. But drafts end with the rollout: `chosen`
    cuts them for the simulator, too. `vocabulary`: ids
    are taken modulo it, because the decoder's may be smaller than the trace's; that changes nothing but which rows are read.
    """

    runner: Runner
    rollouts: Rollouts
    policy: TablePolicy
    max_num_seqs: int
    drafting: Drafting | None
    vocabulary: int
    live: Int64 = field(default_factory=lambda: np.empty(0, np.int64))
    emitted: Int64 = field(init=False)
    _slot: Int64 = field(init=False)
    _free: list[int] = field(init=False)
    _next: int = 0
    _draft_s: float = 0.0

    def __post_init__(self) -> None:
        """Start with everybody in the queue."""
        n = len(self.rollouts)
        self.emitted = np.zeros(n, np.int64)
        self._slot = np.zeros(n, np.int64)
        self._free = list(range(self.max_num_seqs))[::-1]

    def warm(self, count: int | None = None) -> None:
        """Admit rollouts, `count` or as many as there is room for, with the KV of their prompts there and one token emitted."""
        new = self._admit(count)
        self._begin(new)
        self.emitted[new] = 1
        self._learn(new, np.ones(new.size, np.int64))

    def step(self) -> StepTime | None:
        """Run one decode step; None when everybody is done."""
        start_s = time.perf_counter()
        self._draft_s = 0.0
        decoding = self.live
        new = self._admit()
        if not self.live.size:
            return None
        done = self.rollouts
        left = done.output_tokens[decoding] - self.emitted[decoding]
        drafts, counts = self._drafts(decoding, left)
        contexts, prompts = done.prompt_tokens[decoding] + self.emitted[decoding], done.prompt_tokens[new]
        batch = self._batch(decoding, new, contexts, drafts, counts)
        self.runner.run(batch)
        right = self._right(decoding, drafts, counts)
        emit = np.minimum(right + 1, left)
        self.emitted[decoding] += emit
        self.emitted[new] = 1
        self._begin(new)
        self._learn(self.live, np.concatenate([emit, np.ones(new.size, np.int64)]))
        prefill_pairs = int((prompts * (prompts + 1) // 2).sum())
        did = (
            self.live.size, batch.tokens.size, int(contexts.sum() + prompts.sum()), int(prompts.sum()), int(counts.sum()),
            int(right.sum()), int(emit.sum()) + new.size, int(contexts.max(initial=0)),
            int((contexts * (counts + 1)).sum()) + prefill_pairs, new.size, prefill_pairs,
        )  # fmt: skip
        self._retire()
        return StepTime(start_s, time.perf_counter() - start_s, self._draft_s, *did)

    def _admit(self, count: int | None = None) -> Int64:
        """Give free slots to the head of the queue, to `count` at most; those that came in."""
        room = min(len(self._free), len(self.rollouts) - self._next)
        count = room if count is None else min(count, room)
        new = np.arange(self._next, self._next + count)
        self._next += count
        for rollout in new.tolist():
            self._slot[rollout] = self._free.pop()
        self.live = np.concatenate([self.live, new])
        return new

    def _begin(self, new: Int64) -> None:
        if self.drafting is not None and new.size:
            started_s = time.perf_counter()
            self.drafting.begin(new, self.rollouts.prompts)
            self._draft_s += time.perf_counter() - started_s

    def _learn(self, rollouts: Int64, counts: Int64) -> None:
        """Tell the drafter what each rollout emitted last."""
        if self.drafting is None or not rollouts.size:
            return
        first = self.rollouts.starts[rollouts] + self.emitted[rollouts] - counts
        starts = np.concatenate([[0], np.cumsum(counts)])
        places = np.arange(starts[-1]) + np.repeat(first - starts[:-1], counts)
        tokens, started_s = self.rollouts.tokens[places], time.perf_counter()
        self.drafting.learn(rollouts, tokens, starts)
        self._draft_s += time.perf_counter() - started_s

    def _drafts(self, decoding: Int64, left: Int64) -> tuple[Int32, Int64]:
        """Drafts of the sequences that decode, by the budgets of the policy."""
        none = np.zeros((decoding.size, 0), np.int32), np.zeros(decoding.size, np.int64)
        if self.drafting is None or not decoding.size:
            return none
        table, rows = self.policy, self.rollouts.rows[decoding]
        stage = (table.boundaries[rows] <= self.emitted[decoding, None]).sum(1)
        budgets = table.budgets[rows, stage, min(self.live.size, table.budgets.shape[2] - 1)]
        most = np.minimum(budgets, left)
        if not most.any():
            return none
        started_s = time.perf_counter()
        proposed = self.drafting.propose(decoding, most)
        self._draft_s += time.perf_counter() - started_s
        return proposed

    def _batch(self, decoding: Int64, new: Int64, contexts: Int64, drafts: Int32, counts: Int64) -> Batch:
        """The step's tokens: the last one emitted and the drafts of each that decodes, then the prompts."""
        done, widths = self.rollouts, counts + 1
        starts = np.concatenate([[0], np.cumsum(widths)])
        tokens = np.zeros(int(starts[-1] + done.prompt_tokens[new].sum()), np.int64)
        tokens[starts[:-1]] = done.tokens[done.starts[decoding] + self.emitted[decoding] - 1]
        inside = np.arange(drafts.shape[1]) < counts[:, None]
        tokens[(starts[:-1, None] + 1 + np.arange(drafts.shape[1]))[inside]] = drafts[inside]
        at = int(starts[-1])
        for rollout in new.tolist():
            prompt = done.prompts.tokens[done.prompts.starts[rollout] : done.prompts.ends[rollout]]
            tokens[at : at + prompt.size] = prompt
            at += int(done.prompt_tokens[rollout])
        tokens %= self.vocabulary
        live = np.concatenate([decoding, new])
        before = np.concatenate([contexts - 1, np.zeros(new.size, np.int64)])
        return batch_of(
            before, np.concatenate([widths, done.prompt_tokens[new]]), self._slot[live], tokens, decoding.size
        )

    def _right(self, decoding: Int64, drafts: Int32, counts: Int64) -> Int64:
        """How many drafts of each sequence equal what was recorded, before the first that does not."""
        place = np.arange(drafts.shape[1])
        inside = place < counts[:, None]
        at = (self.rollouts.starts[decoding] + self.emitted[decoding])[:, None] + place
        actual = self.rollouts.tokens[np.minimum(at, self.rollouts.tokens.size - 1)]
        right: Int64 = np.cumprod(inside & (drafts == actual), axis=1).sum(1)
        return right

    def _retire(self) -> None:
        finished = self.emitted[self.live] >= self.rollouts.output_tokens[self.live]
        gone = self.live[finished]
        if gone.size:
            self._free += self._slot[gone].tolist()
            self.live = self.live[~finished]
            if self.drafting is not None:
                self.drafting.forget(gone)
