"""Drafts split between rollouts of high and of low priority by marginal benefit (Seer's Algorithm 1, arXiv 2511.14617)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.budgets.feedback import Feedback
from simulator.budgets.policy import BudgetPolicy
from simulator.budgets.predictor import predict
from simulator.budgets.price import emitted_per_sequence, step_seconds
from simulator.budgets.rate import AcceptanceRate
from simulator.budgets.trees import chains_only
from simulator.budgets.view import BatchView
from simulator.spec import BUDGET, number, one_of, read, whole

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Settings:
    """`seer:max=K,factor=LAMBDA,high=long|probe,long=TOKENS,interval=STEPS,start=RATE,weight=W`, each with a default.

    max: most drafts of a sequence (gamma_max); factor: lambda >= 1; high: the rollouts of high priority, those predicted
    to be Long or the first of each group; long: length from which a rollout is Long (default: the 90th percentile of the
    history, 1024 without one); interval: decode steps between decisions; start, weight: of the acceptance rate.
    """

    max: int = 8
    factor: float = 2.0
    high: Literal["long", "probe"] = "long"
    long: int | None = None
    interval: int = 20
    start: float = 0.7
    weight: float = 0.15


READERS = {
    "max": BUDGET,
    "factor": number(1, 1e9),
    "high": one_of("long", "probe"),
    "long": whole(0),
    "interval": whole(1),
    "start": number(0, 1),
    "weight": number(0, 1),
}


def split(high: int, low: int, best: int, acceptance: float, most: int, factor: float) -> tuple[int, int]:
    """Return the drafts of each sequence of high and of low priority: Algorithm 1 from line 3 on.

    high, low: sequences; best: the draft length that suits the whole batch; most: gamma_max; factor: lambda.
    """
    beta = [acceptance**i for i in range(most + 2)]
    total = best * (high + low)
    if total < high:
        return 0, 0
    drafts_high, drafts_low, remaining = 1, 0, total - high
    while remaining > 0:
        benefit_high = high * (beta[drafts_high] - beta[drafts_high + 1])
        benefit_low = low * (beta[drafts_low] - beta[drafts_low + 1])
        if benefit_high > factor * benefit_low and drafts_high < most and remaining >= high:
            drafts_high += 1
            remaining -= high
        elif low > 0 and drafts_low < most and remaining >= low:
            drafts_low += 1
            remaining -= low
        else:
            break
    return drafts_high, drafts_low


@dataclass
class _Replica:
    """What is decided for one replica: drafts by priority until the decode step `due`, and what they make for the batch."""

    rate: AcceptanceRate
    drafts: tuple[int, int] = (0, 0)
    due: int = 0
    budgets: Int64 | None = None


class Seer:
    """Two draft lengths, decided every `interval` steps; who gets which is looked at again whenever the batch changes."""

    every = 1

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings, self._context = settings, context
        self._feedback = Feedback()
        self._replicas: dict[int, _Replica] = {}
        prediction = predict(context, None, settings.long)
        self._long_from = prediction.points[prediction.row_of_prompt, 1]  # emitted tokens, by prompt
        self._probes: Bool | None = None

    def remember(self, previous: BudgetPolicy) -> None:
        """Start from the acceptance rates that the RL step before ended with."""
        if isinstance(previous, Seer):
            for number_, replica in previous._replicas.items():
                self._replicas[number_] = _Replica(self._rate(replica.rate.value))

    def __call__(self, view: BatchView) -> Int64:
        """Return the budget of every live sequence."""
        number_ = view.replica
        replica = self._replicas.get(number_)
        if replica is None:
            replica = self._replicas[number_] = _Replica(self._rate(self._settings.start))
        step = self._feedback.last_step(view, number_)
        replica.rate.observe(step)
        due = view.steps >= replica.due
        budgets = replica.budgets
        if due or budgets is None or step.joined or budgets.size != view.live:
            high = self._high(view)
            if due:
                replica.drafts = self._decide(view, int(np.count_nonzero(high)), replica.rate.end_interval())
                replica.due = view.steps + self._settings.interval
            budgets = replica.budgets = np.where(high, *replica.drafts)
        return budgets

    def _decide(self, view: BatchView, high: int, acceptance: float) -> tuple[int, int]:
        """Algorithm 1: the draft length that suits the whole batch, and its tokens shared out by priority."""
        most, live = self._settings.max, view.live
        emitted = emitted_per_sequence(acceptance, most)
        context_tokens = int(view.context_tokens.sum())
        seconds = step_seconds(self._context, live, context_tokens, live * emitted)
        best = int(np.argmin(seconds / emitted))
        return split(high, live - high, best, acceptance, most, self._settings.factor)

    def _high(self, view: BatchView) -> Bool:
        """Which live sequences have high priority."""
        if self._settings.high == "long":
            return np.asarray(view.emitted_tokens >= self._long_from[view.prompt])
        if self._probes is None:
            self._probes = np.zeros(view.requests.prompt.size, np.bool_)
            self._probes[np.unique(view.requests.prompt, return_index=True)[1]] = True
        return self._probes[view.rollout]

    def _rate(self, start: float) -> AcceptanceRate:
        return AcceptanceRate(start, self._settings.weight)


def seer(argument: str, context: Context) -> Seer:
    """The batch's best draft length, its tokens shared out between long rollouts and others by marginal benefit."""
    chains_only("seer", argument, context)
    return Seer(Settings(**read("seer", argument, READERS)), context)
