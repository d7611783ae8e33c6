"""An epsilon-greedy choice among arms by their medians, as compiled code makes it before every decode step."""

import numpy as np

from simulator.compiled import compiled, entry
from simulator.records import FLOAT, INT, Array, array_field, layout

BLOCK = 1024
"""Decode steps that random numbers are drawn for at once."""
NOTHING = -1


class Chooser:
    """One replica's arms, those of one bucket after those of another, and what it chose for the steps under way."""

    epsilon: float
    window: int  # rewards remembered of each arm
    chosen: int  # arm; NOTHING if no reward is due
    live: int  # sequences that it was chosen for
    time_s: float  # when
    block: int  # of decode steps, that there are draws for
    strategies: Array[int]  # budgets to choose among
    bounds: Array[int]  # smallest batch of each bucket
    given: Array[int]  # rewards of each arm so far
    rewards: Array[float]  # the last of them, `window` an arm, the oldest replaced
    ordered: Array[float]  # the same, ascending
    draws: Array[float]  # two of each step of the block


CHOOSER = layout(Chooser)
strategies_of, bounds_of = array_field("strategies", INT), array_field("bounds", INT)
given_of, rewards_of, ordered_of = (
    array_field("given", INT),
    array_field("rewards", FLOAT),
    array_field("ordered", FLOAT),
)
draws_of = array_field("draws", FLOAT)


@compiled
def choose(chooser: Chooser, live: int, emitted: int, sequences: int, joined: int, steps: int, time_s: float) -> int:
    """Reward what was chosen last, and choose a budget for `live` sequences; there are draws for the step.

    emitted: tokens since then of the `sequences` that are still live and emitted any; joined: sequences that are new.
    """
    if chooser.chosen != NOTHING and sequences > 0:
        learn(chooser, chooser.chosen, emitted / sequences * chooser.live / (time_s - chooser.time_s))
    bounds, strategies, draws = bounds_of(chooser), strategies_of(chooser), draws_of(chooser)
    bucket = bounds.size - 1
    while bounds[bucket] > live:
        bucket -= 1
    first, at = bucket * strategies.size, 2 * (steps % BLOCK)
    which = best(chooser, first)
    if draws[at] < chooser.epsilon:
        which = int(draws[at + 1] * strategies.size)
    # a step that prefills says little about drafting: SGLang runs prefills in steps of their own
    chooser.chosen = NOTHING if joined > 0 else first + which
    chooser.live, chooser.time_s = live, time_s
    return strategies[which]


@compiled
def best(chooser: Chooser, first: int) -> int:
    """The arm of a bucket with the highest median, the first of several; one never tried comes before all that were."""
    found, most = 0, -np.inf
    for which in range(strategies_of(chooser).size):
        value = median(chooser, first + which)
        if value > most:
            found, most = which, value
    return found


@compiled
def median(chooser: Chooser, arm: int) -> float:
    """Of the rewards that are remembered; infinite where there are none."""
    count = min(given_of(chooser)[arm], chooser.window)
    if count == 0:
        return np.inf
    ordered, begin = ordered_of(chooser), arm * chooser.window
    return (ordered[begin + count // 2] + ordered[begin + count - count // 2 - 1]) / 2


@compiled
def learn(chooser: Chooser, arm: int, reward: float) -> None:
    """Remember a reward, in place of the oldest where the window is full."""
    given, rewards, ordered = given_of(chooser), rewards_of(chooser), ordered_of(chooser)
    begin, count = arm * chooser.window, min(given[arm], chooser.window)
    at = begin + given[arm] % chooser.window
    if count == chooser.window:
        gap = begin
        while gap < begin + count - 1 and ordered[gap] != rewards[at]:
            gap += 1
        count -= 1
        for i in range(gap, begin + count):
            ordered[i] = ordered[i + 1]
    place = begin + count
    while place > begin and ordered[place - 1] > reward:
        ordered[place] = ordered[place - 1]
        place -= 1
    ordered[place] = rewards[at] = reward
    given[arm] += 1


@entry
def chosen_by(
    choosers: Array[Chooser], live: int, emitted: int, sequences: int, joined: int, steps: int, time_s: float
) -> int:
    """`choose`, from Python."""
    return choose(choosers[0], live, emitted, sequences, joined, steps, time_s)
