"""An epsilon-greedy bandit over draft lengths, one per bucket of batch sizes (TLT's BEG-MAB, arXiv 2511.16665)."""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from copy import deepcopy
from dataclasses import dataclass, field
from math import inf

import numpy as np
import numpy.typing as npt

from simulator.budgets.buckets import BOUNDS, check_bounds
from simulator.budgets.context import Context
from simulator.budgets.feedback import Feedback, LastStep
from simulator.budgets.policy import BudgetPolicy
from simulator.budgets.switch import REPREFILL, Switch, switch_from
from simulator.budgets.trees import budgets_of
from simulator.budgets.view import BatchView
from simulator.spec import BUDGET, number, read, several, whole

BLOCK = 1024


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


class Arm:
    """The last rewards of one strategy in one bucket, kept in order so that their median is at hand."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self.median = inf  # untried: chosen before all that were

    def reward(self, value: float) -> None:
        """Add a reward, the oldest beyond the window leaving."""
        if len(self._recent) == self._window:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._recent.append(value)
        insort(self._sorted, value)
        half = len(self._sorted) // 2
        self.median = (self._sorted[half] + self._sorted[~half]) / 2


@dataclass
class _Replica:
    """One engine instance: its arms by bucket, and what it chose for the steps under way."""

    arms: list[list[Arm]]
    chosen: Arm | None = None
    live: int = 0
    time_s: float = 0.0
    draws: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    block: int = -1


class Bandit:
    """Each decode step, the strategy with the best median reward in the batch's bucket, or one at random."""

    def __init__(self, settings: Settings, strategies: tuple[int, ...], seed: int, switch: Switch) -> None:
        self._settings, self._strategies = settings, strategies
        self.every, self.switch = settings.every, switch
        self._seed = seed
        self._feedback = Feedback()
        self._replicas: dict[int, _Replica] = {}
        self._episode = 0

    def remember(self, previous: BudgetPolicy) -> None:
        """Start from the rewards of the RL step before, and draw other random numbers."""
        if isinstance(previous, Bandit):
            self._episode = previous._episode + 1
            for replica, before in previous._replicas.items():
                self._replicas[replica] = _Replica(deepcopy(before.arms))

    def __call__(self, view: BatchView) -> int:
        """Return the draft length of every live sequence."""
        number_ = view.replica
        replica = self._replicas.get(number_)
        if replica is None:
            replica = self._replicas[number_] = _Replica(self._arms())
        live, step = view.live, self._feedback.last_step(view, number_)
        if replica.chosen is not None and step.sequences:
            replica.chosen.reward(reward_of(step, replica.live, view.time_s - replica.time_s))
        arms = replica.arms[bisect_right(self._settings.bounds, live) - 1]
        which = self._choose(arms, *self._draw(number_, replica, view.steps))
        # a step that prefills says little about drafting: SGLang runs prefills in steps of their own
        replica.chosen = None if step.joined else arms[which]
        replica.live, replica.time_s = live, view.time_s
        return self._strategies[which]

    def _choose(self, arms: list[Arm], coin: float, pick: float) -> int:
        if coin < self._settings.epsilon:
            return int(pick * len(arms))
        medians = [arm.median for arm in arms]
        return medians.index(max(medians))

    def _draw(self, number_: int, replica: _Replica, steps: int) -> tuple[float, float]:
        """Two random numbers for a decode step of a replica, the same whatever was drawn before."""
        block, row = divmod(steps, BLOCK)
        if block != replica.block:
            key = [self._seed, self._settings.seed, self._episode, number_, block]
            replica.draws, replica.block = np.random.default_rng(key).random((BLOCK, 2)), block
        coin, pick = replica.draws[row].tolist()
        return coin, pick

    def _arms(self) -> list[list[Arm]]:
        return [[Arm(self._settings.window) for _ in self._strategies] for _ in self._settings.bounds]


def reward_of(step: LastStep, live: int, elapsed_s: float) -> float:
    """Tokens per second: mean emitted tokens of the sequences still live, for the batch, over the seconds since the choice."""
    return step.emitted / step.sequences * live / elapsed_s


def bandit(argument: str, context: Context) -> Bandit:
    """The draft length or strategy with the best median reward in the batch's bucket, a random one in a tenth of the steps."""
    settings = Settings(**read("bandit", argument, READERS))
    check_bounds("bandit", argument, settings.bounds)
    switch = switch_from("bandit", argument, settings.live, settings.patience, settings.reprefill)
    strategies = budgets_of("bandit", argument, settings.strategies, context)
    return Bandit(settings, strategies, context.seed, switch)
