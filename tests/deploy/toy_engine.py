"""A small engine that shows its batch as vLLM's model runner does: rows of tokens that move when one of them leaves."""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]


class Proposes(Protocol):
    def propose(self, sampled: list[list[int]], counts: Int32, rows: Int32) -> list[list[int]]: ...


@dataclass
class Request:
    """`output` is what it emits up to its end, `beyond` what a model would go on with."""

    prompt: list[int]
    output: list[int]
    beyond: list[int]
    emitted: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    draft: list[int] = field(default_factory=list)


class ToyEngine:
    """Decodes requests on `slots` rows; preempted: how likely a row is sent back to the queue in a step."""

    def __init__(
        self, requests: list[Request], slots: int, proposer: Proposes, rng: random.Random, preempted: float = 0.0
    ):
        self.queue, self.rows = deque(requests), list[Request]()
        self.slots, self.proposer, self.rng, self.preempted = slots, proposer, rng, preempted
        self.tokens, self.counts = np.zeros((slots, 200), np.int32), np.zeros(slots, np.int32)

    def run(self) -> None:
        while self.queue or self.rows:
            self.step()

    def step(self) -> None:
        if self.rows and self.rng.random() < self.preempted:
            self.remove(self.rows[self.rng.randrange(len(self.rows))], back=True)
        while self.queue and len(self.rows) < self.slots:
            self.rows.append(self.queue.popleft())
        sampled = [self.verified(one) for one in self.rows]
        self.tokens[:] = -1
        for row, (one, new) in enumerate(zip(self.rows, sampled, strict=True)):
            known = [*one.prompt, *one.output[: one.emitted], *new]
            self.tokens[row, : len(known)], self.counts[row] = known, len(known)
            one.emitted += len(new)
        drafts = self.proposer.propose(sampled, self.counts, self.tokens)
        for one, draft in zip(list(self.rows), drafts, strict=True):
            one.draft = draft
            if one.emitted >= len(one.output):
                self.remove(one)

    def verified(self, one: Request) -> list[int]:
        """What a step emits: of the draft what the model would have emitted, and a token more."""
        coming = (one.output + one.beyond)[one.emitted :]
        right = next((i for i, (a, b) in enumerate(zip(one.draft, coming, strict=False)) if a != b), len(one.draft))
        left = len(one.output) - one.emitted
        one.steps += 1
        one.drafted += len(one.draft)
        one.accepted += min(right, left)
        return coming[: right + 1]

    def remove(self, one: Request, back: bool = False) -> None:
        """Take a request out; the last row moves into the gap, as vLLM condenses its batch."""
        at = self.rows.index(one)
        last = self.rows.pop()
        if last is not one:
            self.rows[at] = last
        if back:
            one.draft = []
            self.queue.appendleft(one)
