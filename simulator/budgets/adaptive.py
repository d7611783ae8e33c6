"""A draft length per sequence that follows what its drafts come to (DiffuSpec's controller, arXiv 2510.02358)."""

from dataclasses import dataclass
from typing import Literal

from simulator.budgets.context import Context
from simulator.budgets.following import Follows
from simulator.budgets.trees import chains_only
from simulator.spec import BUDGET, number, one_of, read, refuse


@dataclass(frozen=True)
class Settings:
    """`adaptive:low=K,high=K,rho=W,delta=K,compare=last|average`, each with a default.

    low, high: shortest and longest draft; rho: weight of the last draft in the moving averages; delta: tokens more after a draft
    accepted whole; compare: the last draft with what was accepted of it, or the moving averages of both.

    After a draft of g tokens of which a were accepted: average = (1 - rho) average + rho g, beginning with 0, and length =
    floor(average), delta more if a >= g, within low and high; at first it is high. A step without a draft changes nothing.
    """

    low: int = 20
    high: int = 30
    rho: float = 0.5
    delta: int = 10
    compare: Literal["last", "average"] = "last"


READERS = {"low": BUDGET, "high": BUDGET, "rho": number(0, 1), "delta": BUDGET, "compare": one_of("last", "average")}


def adaptive(argument: str, context: Context) -> Follows:
    """A draft length per sequence: a moving average of its drafts, and more after one accepted whole."""
    chains_only("adaptive", argument, context)
    settings = Settings(**read("adaptive", argument, READERS))
    if settings.low > settings.high:
        refuse("adaptive", argument, f"has low={settings.low} above high={settings.high}: give low <= high")
    return Follows(
        settings.high, low=settings.low, high=settings.high, delta=settings.delta, rho=settings.rho,
        average=settings.compare == "average",
    )  # fmt: skip
