"""Sequences of views without an engine: batches in which rollouts join, are drafted for at random, and leave."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from simulator.budgets.context import Context
from simulator.budgets.resolve import resolve_policy
from simulator.budgets.view import ORIGIN, POSITION, BatchView, Requests
from simulator.cost import Profile
from simulator.cost.draft_cost import DraftCost
from tests.reference.rules import Rule, Seen


@dataclass(frozen=True, eq=False)
class NumberedView(BatchView):
    """A view that says which replica it is of."""

    replica: int = field(default=0, kw_only=True)


def seen_of(view: BatchView) -> Seen:
    """The reference's form of a view."""
    columns = (view.rollout, view.prompt, view.sample, view.context_tokens, view.emitted_tokens, view.drafted_tokens,
               view.accepted_tokens)  # fmt: skip
    lists = (tuple(column.tolist()) for column in columns)
    return Seen(getattr(view, "replica", 0), view.steps, view.time_s, *lists)


class Script:
    """One replica that decodes a random script: `view`, then `step` with the budgets that a policy gave.

    rollouts: of this replica, in queue order; greedy: chance that a draft is accepted whole.
    """

    def __init__(
        self, rng: random.Random, replica: int, rollouts: Sequence[int], requests: Requests, slots: int, greedy: float
    ) -> None:
        self.rng, self.replica, self.requests, self.slots = rng, replica, requests, slots
        self.greedy, self.lazy = greedy, rng.choice((0.0, 0.3))
        self.queue = list(rollouts)
        self.batch: list[list[int]] = []  # rows of `seen`, by rollout
        self.left: list[int] = []
        self.steps, self.time_s = 0, 0.0
        self.admit()

    def admit(self) -> None:
        while self.queue and len(self.batch) < self.slots:
            rollout = self.queue.pop(0)
            start = 1000 * rollout
            origin = start - int(self.requests.prompt_tokens[rollout])
            self.batch.append([rollout, start, 0, origin, 0, self.steps])
            self.left.append(self.rng.randint(1, 120))

    def view(self) -> BatchView:
        seen = np.array(self.batch, np.int64).T.copy()
        waiting = len(self.queue)
        return NumberedView(self.time_s, self.slots, waiting, self.steps, seen, self.requests, replica=self.replica)

    def step(self, budgets: Sequence[int]) -> None:
        rng = self.rng
        for i, (row, budget) in enumerate(zip(self.batch, budgets, strict=True)):
            prefill = row[POSITION] - row[ORIGIN] == self.requests.prompt_tokens[row[0]]
            drafted = (
                0 if prefill or rng.random() < self.lazy else rng.randint(min(budget, 1), min(budget, self.left[i]))
            )
            accepted = drafted if rng.random() < self.greedy else rng.randint(0, drafted)
            row[1] += accepted + 1
            row[2], row[4] = budget, row[4] + drafted
            self.left[i] -= accepted + 1
        self.steps += 1
        self.time_s += rng.uniform(0.01, 0.02)
        kept = [i for i in range(len(self.batch)) if self.left[i] > 0]
        self.batch, self.left = [self.batch[i] for i in kept], [self.left[i] for i in kept]
        self.admit()


def scripts(seed: int, replicas: int = 2, rollouts: int = 40, greedy: float = 0.4) -> list[Script]:
    """Replicas that share out rollouts of a few prompts."""
    rng = random.Random(seed)
    prompt, sample = np.arange(rollouts) // 4, np.arange(rollouts) % 4
    requests = Requests(prompt, sample, np.array([rng.randint(0, 300) for _ in range(rollouts)]))
    slots = rng.choice((3, 6, 12))
    return [
        Script(random.Random(rng.random()), r, range(r, rollouts, replicas), requests, slots, greedy)
        for r in range(replicas)
    ]


def asked(replicas: list[Script], seed: int) -> Iterator[tuple[Script, BatchView]]:
    """Every decode step of every replica, in random order; the caller steps each script after its view."""
    rng = random.Random(seed)
    while running := [script for script in replicas if script.batch]:
        script = rng.choice(running)
        yield script, script.view()


def assert_follows(spec: str, rule: Rule, context: Context, seed: int, greedy: float = 0.4) -> list[list[int]]:
    """Hold a built-in to a plain rule over whole scripts of two replicas at once; returns its budgets by step."""
    policy = resolve_policy(spec, context)
    answers = []
    for script, view in asked(scripts(seed, greedy=greedy), seed):
        expected = rule(seen_of(view))
        budgets = np.broadcast_to(np.asarray(policy(view)), view.live).tolist()
        assert budgets == expected, (spec, view.steps)
        answers.append(budgets)
        script.step(budgets)
    return answers


def context_with(
    cost: Profile, draft_cost: DraftCost, past: Sequence[tuple[int, int]] = (), n_prompts: int = 10, seed: int = 0
) -> Context:
    """What is known before an RL step of `scripts`; past: (prompt, length) of rollouts, oldest first."""
    prompt, lengths = np.array(past, np.int64).reshape(-1, 2).T
    return Context(n_prompts, prompt, lengths, cost, 12, lambda: None, draft_cost, seed)
