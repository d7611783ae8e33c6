"""A draft length per sequence that follows what its drafts come to (DiffuSpec's controller, arXiv 2510.02358)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.budgets.following import FOLLOWED, FOLLOWER, UNSEEN, follow_all
from simulator.budgets.trees import chains_only
from simulator.budgets.view import DRAFTED, POSITION, BatchView
from simulator.records import Pointing, records
from simulator.spec import BUDGET, number, one_of, read, refuse

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Settings:
    """`adaptive:low=K,high=K,rho=W,delta=K,compare=last|average`, each with a default.

    low, high: shortest and longest draft; rho: weight of the last draft in the moving averages; delta: tokens more after a draft
    accepted whole; compare: the last draft with what was accepted of it, or the moving averages of both.
    """

    low: int = 20
    high: int = 30
    rho: float = 0.5
    delta: int = 10
    compare: Literal["last", "average"] = "last"


READERS = {"low": BUDGET, "high": BUDGET, "rho": number(0, 1), "delta": BUDGET, "compare": one_of("last", "average")}


class Adaptive:
    """Lengths that follow their rollouts, one object for all replicas; a step without a draft changes nothing.

    After a draft of g tokens of which a were accepted: average = (1 - rho) average + rho g, beginning with 0, and length =
    floor(average), delta more if a >= g, within low and high; at first it is high. A simulated engine finds them by the
    `following.Follower` itself; asking gives the same.
    """

    every, each = 1, True

    def __init__(self, settings: Settings) -> None:
        self.budgets: Int64 = np.array([settings.high])  # the first of all; others may never be chosen
        self._follower = Pointing(
            FOLLOWER, low=settings.low, high=settings.high, delta=settings.delta, rho=settings.rho,
            average=settings.compare == "average",
        )  # fmt: skip

    def __call__(self, view: BatchView) -> Int64:
        """Return the draft length of every live sequence."""
        lengths = np.empty(view.live, np.int64)
        follower = self.chooser(view.replica, view.requests.prompt.size)
        follow_all(follower.record, view.rollout, view.seen[POSITION], view.seen[DRAFTED], lengths)
        return lengths

    def chooser(self, replica: int, rollouts: int) -> Pointing:
        """What finds the lengths, a `following.Follower`: the same for every replica, since rollouts may move."""
        if self._follower["followed_size"] < rollouts:
            followed = records(FOLLOWED, rollouts)
            followed["position"], followed["length"] = UNSEEN, self.budgets[0]
            self._follower.point(followed=followed)
        return self._follower


def adaptive(argument: str, context: Context) -> Adaptive:
    """A draft length per sequence: a moving average of its drafts, and more after one accepted whole."""
    chains_only("adaptive", argument, context)
    settings = Settings(**read("adaptive", argument, READERS))
    if settings.low > settings.high:
        refuse("adaptive", argument, f"has low={settings.low} above high={settings.high}: give low <= high")
    return Adaptive(settings)
