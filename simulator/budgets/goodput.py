"""Goodput: the draft length that is expected to emit most tokens per second (SmartSpec/TurboSpec, arXiv 2406.14066)."""

from dataclasses import dataclass

import numpy as np

from simulator.budgets.context import Context
from simulator.budgets.feedback import Feedback
from simulator.budgets.policy import BudgetPolicy
from simulator.budgets.price import emitted_per_sequence, step_seconds
from simulator.budgets.rate import AcceptanceRate
from simulator.budgets.view import BatchView
from simulator.spec import BUDGET, number, read, whole


@dataclass(frozen=True)
class Settings:
    """`goodput:max=K,interval=STEPS,start=RATE,weight=W`, each with a default.

    max: longest draft considered; interval: decode steps between decisions; start: acceptance rate before anything was
    drafted; weight: of an interval's own rate in the moving average.
    """

    max: int = 8
    interval: int = 20
    start: float = 0.7
    weight: float = 0.15


READERS = {"max": BUDGET, "interval": whole(1), "start": number(0, 1), "weight": number(0, 1)}


@dataclass
class _Replica:
    """What is decided for one replica: drafts for all, until the decode step `due`."""

    rate: AcceptanceRate
    drafts: int = 0
    due: int = 0


class Goodput:
    """One draft length for the whole batch: argmax over k of emitted(k) / seconds(k), decided every `interval` steps."""

    every = 1

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings, self._context = settings, context
        self._feedback = Feedback()
        self._replicas: dict[int, _Replica] = {}

    def remember(self, previous: BudgetPolicy) -> None:
        """Start from the acceptance rates that the RL step before ended with."""
        if isinstance(previous, Goodput):
            for number_, replica in previous._replicas.items():
                self._replicas[number_] = _Replica(self._rate(replica.rate.value))

    def __call__(self, view: BatchView) -> int:
        """Return the draft length of every live sequence."""
        number_ = view.replica
        replica = self._replicas.get(number_)
        if replica is None:
            replica = self._replicas[number_] = _Replica(self._rate(self._settings.start))
        replica.rate.observe(self._feedback.last_step(view, number_))
        if view.steps >= replica.due:
            replica.drafts = self._best(view, replica.rate.end_interval())
            replica.due = view.steps + self._settings.interval
        return replica.drafts

    def _best(self, view: BatchView, acceptance: float) -> int:
        live = view.live
        emitted = live * emitted_per_sequence(acceptance, self._settings.max)
        context_tokens = int(view.context_tokens.sum())
        seconds = step_seconds(self._context.cost, self._context.draft_cost, live, context_tokens, emitted)
        return int(np.argmax(emitted / seconds))

    def _rate(self, start: float) -> AcceptanceRate:
        return AcceptanceRate(start, self._settings.weight)


def goodput(argument: str, context: Context) -> Goodput:
    """The draft length with the highest expected goodput, re-decided every 20 decode steps."""
    return Goodput(Settings(**read("goodput", argument, READERS)), context)
