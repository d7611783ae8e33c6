"""An epsilon-greedy bandit over draft lengths, one per bucket of batch sizes (TLT's BEG-MAB, arXiv 2511.16665)."""

from dataclasses import dataclass

import numpy as np

from simulator.budgets.buckets import BOUNDS, check_bounds
from simulator.budgets.choosing import BLOCK, CHOOSER, NOTHING, chosen_by
from simulator.budgets.context import Context
from simulator.budgets.feedback import Feedback
from simulator.budgets.policy import FOR_BATCH, BudgetPolicy
from simulator.budgets.switch import REPREFILL, Switch, switch_from
from simulator.budgets.trees import budgets_of
from simulator.budgets.view import BatchView, Requests
from simulator.records import Pointing
from simulator.spec import BUDGET, number, read, several, whole


@dataclass(frozen=True)
class Settings:
    """`bandit:strategies=K/K/...,bounds=B/B/...,epsilon=P,window=N,live=B,patience=STEPS,reprefill=no|yes,every=STEPS,seed=N`.

    strategies: draft lengths to choose among, or tokens to verify of the drafter's tree strategies, by default all of them;
    bounds: smallest batch of each bucket, from 1 on; epsilon: share of choices that try one at random; window: rewards
    remembered of each; live, patience, reprefill: when drafting begins (`switch.Switch`); every: decode steps between choices.
    """

    strategies: tuple[int, ...] | None = None
    bounds: tuple[int, ...] = (1, 2, 5, 21)
    epsilon: float = 0.1
    window: int = 300
    live: int = 32
    patience: int = 10
    reprefill: str = "no"
    every: int = 1
    seed: int = 0


READERS = {
    "strategies": several(BUDGET, "48/32/16/8"),
    "bounds": BOUNDS,
    "epsilon": number(0, 1),
    "window": whole(1),
    "live": whole(1),
    "patience": whole(0),
    "reprefill": REPREFILL,
    "every": whole(1),
    "seed": whole(0),
}


class Bandit:
    """Each decode step, the strategy with the best median reward in the batch's bucket, or one at random.

    A simulated engine chooses by its `choosing.Chooser`s itself; asking gives the same.
    """

    way = FOR_BATCH

    def __init__(self, settings: Settings, strategies: tuple[int, ...], seed: int, switch: Switch) -> None:
        self._settings, self.budgets = settings, np.array(strategies, np.int64)
        self.every, self.switch = settings.every, switch
        self._seed = seed
        self._feedback = Feedback()
        self._choosers: dict[int, Pointing] = {}
        self._episode = 0

    def remember(self, previous: BudgetPolicy) -> None:
        """Start from the rewards of the RL step before, and draw other random numbers."""
        if isinstance(previous, Bandit):
            self._episode = previous._episode + 1
            for replica, before in previous._choosers.items():
                learnt = {name: before.target(name).copy() for name in ("given", "rewards", "ordered")}
                self.chooser(replica).point(**learnt)

    def __call__(self, view: BatchView) -> int:
        """Return the draft length of every live sequence."""
        chooser, step = self.chooser(view.replica), self._feedback.last_step(view, view.replica)
        if chooser["block"] != view.steps // BLOCK:
            self.supply(view.replica, view.steps)
        return int(
            chosen_by(chooser.record, view.live, step.emitted, step.sequences, step.joined, view.steps, view.time_s)
        )

    def chooser(self, replica: int, requests: Requests | None = None, slots: int = 0) -> Pointing:
        """What chooses for a replica, whatever the requests: one `choosing.Chooser`."""
        if (found := self._choosers.get(replica)) is None:
            settings, arms = self._settings, len(self._settings.bounds) * self.budgets.size
            found = Pointing(CHOOSER, epsilon=settings.epsilon, window=settings.window, chosen=NOTHING, block=NOTHING)
            found.point(
                strategies=self.budgets, bounds=np.array(settings.bounds, np.int64), given=np.zeros(arms, np.int64),
                rewards=np.zeros(arms * settings.window), ordered=np.zeros(arms * settings.window), draws=np.empty(2 * BLOCK),
            )  # fmt: skip
            self._choosers[replica] = found
        return found

    def supply(self, replica: int, steps: int) -> None:
        """Draw random numbers for a block of decode steps of a replica, the same whatever was drawn before."""
        chooser, block = self.chooser(replica), steps // BLOCK
        key = [self._seed, self._settings.seed, self._episode, replica, block]
        chooser.target("draws")[:] = np.random.default_rng(key).random(2 * BLOCK)
        chooser["block"] = block


def bandit(argument: str, context: Context) -> Bandit:
    """The draft length or strategy with the best median reward in the batch's bucket, a random one in a tenth of the steps."""
    settings = Settings(**read("bandit", argument, READERS))
    check_bounds("bandit", argument, settings.bounds)
    switch = switch_from("bandit", argument, settings.live, settings.patience, settings.reprefill)
    strategies = budgets_of("bandit", argument, settings.strategies, context)
    return Bandit(settings, strategies, context.seed, switch)
