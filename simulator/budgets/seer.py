"""Drafts split between rollouts of high and of low priority by marginal benefit (Seer's Algorithm 1, arXiv 2511.14617)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.budgets.following import UNSEEN
from simulator.budgets.predictor import predict
from simulator.budgets.price import emitted_per_sequence, step_seconds
from simulator.budgets.sharing import Shares
from simulator.budgets.trees import chains_only
from simulator.budgets.view import Requests
from simulator.records import Pointing
from simulator.spec import BUDGET, number, one_of, read, whole

Int64 = npt.NDArray[np.int64]


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


class Seer(Shares):
    """Two draft lengths, decided every `interval` steps; who gets which is looked at again whenever the batch changes."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings.interval, settings.start, settings.weight)
        self._settings, self._context = settings, context
        prediction = predict(context, None, settings.long)
        self._long_from = prediction.points[prediction.row_of_prompt, 1]  # emitted tokens, by prompt

    def _decide(self, sharer: Pointing, acceptance: float) -> tuple[int, int]:
        """Algorithm 1: the draft length that suits the whole batch, and its tokens shared out by priority."""
        most, live, high = self._settings.max, int(sharer["live"]), int(sharer["first"])
        emitted = emitted_per_sequence(acceptance, most)
        seconds = step_seconds(self._context, live, int(sharer["context_tokens"]), live * emitted)
        best = int(np.argmin(seconds / emitted))
        return split(high, live - high, best, acceptance, most, self._settings.factor)

    def _priorities(self, requests: Requests) -> Int64:
        if self._settings.high == "long":
            long_from: Int64 = np.minimum(self._long_from[requests.prompt], UNSEEN) + requests.prompt_tokens
            return long_from
        high_from = np.full(requests.prompt.size, UNSEEN)
        high_from[np.unique(requests.prompt, return_index=True)[1]] = 0  # the first of each group
        return high_from


def seer(argument: str, context: Context) -> Seer:
    """The batch's best draft length, its tokens shared out between long rollouts and others by marginal benefit."""
    chains_only("seer", argument, context)
    return Seer(Settings(**read("seer", argument, READERS)), context)
