"""Goodput: the draft length that is expected to emit most tokens per second (SmartSpec/TurboSpec, arXiv 2406.14066)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.budgets.price import emitted_per_sequence, step_seconds
from simulator.budgets.sharing import Shares
from simulator.records import Pointing
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


class Goodput(Shares):
    """One draft length for the whole batch: argmax over k of emitted(k) / seconds(k), decided every `interval` steps."""

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings.interval, settings.start, settings.weight)
        self._settings, self._context = settings, context
        self._drafts = np.arange(settings.max + 1)
        self._means = np.zeros(self._drafts.size)  # of trees, accepted tokens

    def _decide(self, sharer: Pointing, acceptance: float) -> tuple[int, int]:
        live = int(sharer["live"])
        emitted = live * self._emitted(acceptance)
        seconds = step_seconds(self._context, live, int(sharer["context_tokens"]), emitted, self._drafts)
        best = np.argmax(emitted / seconds)
        sharer["mean"] = self._means[best]
        return (int(self._drafts[best]),) * 2

    def _emitted(self, acceptance: float) -> Float64:
        """Expected tokens of a sequence by what it drafts."""
        return emitted_per_sequence(acceptance, self._settings.max)


class TreeGoodput(Goodput):
    """One tree strategy for the whole batch, or none: the same argmax over strategies; a budget is their tokens to verify.

    emitted(s) = 1 + r m_s, at most one more than its longest path: m_s is the strategy's measured mean, and r what the
    replica's trees got accepted lately as a share of theirs, the same for all strategies.
    """

    trees = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        shapes = context.strategies
        self._drafts = np.array([0, *(one.verify for one in shapes)])
        self._means = np.array([0.0, *(one.curve.mean_accepted(one.curve.positions) for one in shapes)])
        self._longest = np.array([0, *(one.curve.positions for one in shapes)])

    def _emitted(self, acceptance: float) -> Float64:
        return np.asarray(1 + np.minimum(acceptance * self._means, self._longest))


def goodput(argument: str, context: Context) -> Goodput:
    """The draft length or tree strategy with the highest expected goodput, re-decided every 20 decode steps."""
    given = read("goodput", argument, READERS)
    if not context.strategies:
        return Goodput(Settings(**given), context)
    if unused := [name for name in ("max", "start") if name in given]:
        what = f"sets {unused[0]}, and the drafter drafts trees, of which all are weighed by their measured acceptance"
        refuse("goodput", argument, f"{what}: leave it out")
    return TreeGoodput(Settings(**given, start=1.0), context)
