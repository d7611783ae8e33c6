"""Goodput: the draft length that is expected to emit most tokens per second (SmartSpec/TurboSpec, arXiv 2406.14066)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.budgets.feedback import Feedback
from simulator.budgets.policy import UNLIMITED, BudgetPolicy
from simulator.budgets.price import emitted_per_sequence, step_seconds
from simulator.budgets.rate import AcceptanceRate, MeasuredShare
from simulator.budgets.view import BatchView
from simulator.spec import BUDGET, number, read, refuse, whole

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """`goodput:max=K,interval=STEPS,start=RATE,weight=W`, each with a default.

    max: longest draft considered; interval: decode steps between decisions; start: acceptance rate before anything was
    drafted; weight: of an interval's own rate in the moving average. max and start are for chains.
    """

    max: int = 8
    interval: int = 20
    start: float = 0.7
    weight: float = 0.15


READERS = {"max": BUDGET, "interval": whole(1), "start": number(0, 1), "weight": number(0, 1)}


@dataclass
class _Replica:
    """What is decided for one replica: a budget for all, until the decode step `due`; `meter`: what its drafts get accepted."""

    meter: AcceptanceRate | MeasuredShare
    budget: int = 0
    due: int = 0


class Goodput:
    """One draft length for the whole batch: argmax over k of emitted(k) / seconds(k), decided every `interval` steps."""

    every = 1

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings, self._context = settings, context
        self._feedback = Feedback()
        self._replicas: dict[int, _Replica] = {}
        self._drafts = np.arange(settings.max + 1)

    def remember(self, previous: BudgetPolicy) -> None:
        """Start from what was accepted at the end of the RL step before."""
        if isinstance(previous, type(self)):
            for number_, replica in previous._replicas.items():
                self._replicas[number_] = _Replica(self._meter(replica.meter.value))

    def __call__(self, view: BatchView) -> int:
        """Return the budget of every live sequence."""
        number_ = view.replica
        replica = self._replicas.get(number_)
        if replica is None:
            replica = self._replicas[number_] = _Replica(self._meter(self._settings.start))
        replica.meter.observe(self._feedback.last_step(view, number_), replica.budget)
        if view.steps >= replica.due:
            replica.budget = self._best(view, replica.meter.end_interval())
            replica.due = view.steps + self._settings.interval
        return replica.budget

    def _best(self, view: BatchView, accepted: float) -> int:
        emitted = view.live * self._emitted(accepted)
        context_tokens = int(view.context_tokens.sum())
        seconds = step_seconds(self._context, view.live, context_tokens, emitted, self._drafts)
        return int(self._drafts[np.argmax(emitted / seconds)])

    def _emitted(self, accepted: float) -> Float64:
        """Expected tokens of a sequence by what it drafts."""
        return emitted_per_sequence(accepted, self._settings.max)

    def _meter(self, start: float) -> AcceptanceRate | MeasuredShare:
        return AcceptanceRate(start, self._settings.weight)


class TreeGoodput(Goodput):
    """One tree strategy for the whole batch, or none: the same argmax over strategies; a budget is their tokens to verify.

    emitted(s) = 1 + r m_s, at most one more than its longest path: m_s is the strategy's measured mean, and r what the
    replica's trees got accepted lately as a share of theirs, the same for all strategies.
    """

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        shapes = context.strategies
        self._drafts = np.array([0, *(one.verify for one in shapes)])
        self._means = np.array([0.0, *(one.curve.mean_accepted(one.curve.positions) for one in shapes)])
        self._longest = np.array([0, *(one.curve.positions for one in shapes)])
        self._by_budget = np.zeros(UNLIMITED + 1)
        self._by_budget[self._drafts] = self._means

    def _emitted(self, accepted: float) -> Float64:
        return np.asarray(1 + np.minimum(accepted * self._means, self._longest))

    def _meter(self, start: float) -> AcceptanceRate | MeasuredShare:
        return MeasuredShare(self._by_budget, self._settings.weight, start)


def goodput(argument: str, context: Context) -> Goodput:
    """The draft length or tree strategy with the highest expected goodput, re-decided every 20 decode steps."""
    given = read("goodput", argument, READERS)
    if not context.strategies:
        return Goodput(Settings(**given), context)
    if unused := [name for name in ("max", "start") if name in given]:
        what = f"sets {unused[0]}, and the drafter drafts trees, of which all are weighed by their measured acceptance"
        refuse("goodput", argument, f"{what}: leave it out")
    return TreeGoodput(Settings(**given, start=1.0), context)
