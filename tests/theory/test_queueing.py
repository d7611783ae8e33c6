"""Where the engine reduces to a classic queue, waits are those that queueing theory says, within what the sample allows.

A constant cost per step, one token a rollout and one slot make M/D/1; geometric lengths in steps that are short against them
and c slots make M/M/c. Each test compares the mean wait over independent replications with the formula by a z-score: |z| <= 3
leaves a sound engine out once in 370 runs of another seed, and the seeds are fixed. As controls, waits of a queue that is 10 %
busier must be told apart.
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from simulator.budgets.policy import by_live
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from tests.theory.queues import UNIT, lengths_only

REPLICATIONS, CUSTOMERS, WARM_UP = 30, 4000, 400


def waits(rng: np.random.Generator, rate: float, lengths: np.ndarray, step_s: float, slots: int) -> float:
    """Mean seconds from arrival to admission after the warm-up, one replica, Poisson arrivals."""
    arrival_s = np.cumsum(rng.exponential(1 / rate, lengths.size))
    load = replace(lengths_only(lengths), arrival_s=arrival_s)
    ended = simulate(load, by_live([0]), Deployment(UNIT.scaled(step_s), slots)).rollouts
    return float((ended["admitted_s"] - arrival_s)[WARM_UP:].mean())


def z_score(means: list[float], expected: float) -> float:
    return (float(np.mean(means)) - expected) / (float(np.std(means, ddof=1)) / math.sqrt(len(means)))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_slot_and_one_token_is_m_d_1(load: float) -> None:
    """Pollaczek-Khinchine: mean wait = load D / (2 (1 - load)), with D = 1 s."""
    rng = np.random.default_rng(11)
    lengths = np.ones(CUSTOMERS, np.int64)
    means = [waits(rng, load, lengths, 1.0, 1) for _ in range(REPLICATIONS)]
    assert abs(z_score(means, load / (2 * (1 - load)))) <= 3
    assert abs(z_score(means, 1.1 * load / (2 * (1 - 1.1 * load)))) > 3


@pytest.mark.parametrize(("slots", "load"), [(2, 0.7), (4, 0.7), (8, 0.8)])
def test_slots_and_geometric_lengths_are_m_m_c(slots: int, load: float) -> None:
    """Erlang C: mean wait = C(c, a) / (c mu - lambda), with mu = 1 per second; the queue is looked at between steps of 2 ms."""
    rng = np.random.default_rng(12)
    step_s = 2e-3
    means = [waits(rng, load * slots, rng.geometric(step_s, CUSTOMERS), step_s, slots) for _ in range(REPLICATIONS)]
    # an arrival waits half a step on average for the engine to look, unless it is idle
    assert abs(z_score(means, erlang_wait_s(slots, load) + step_s / 2)) <= 3
    assert abs(z_score(means, erlang_wait_s(slots, 1.1 * load))) > 3


def erlang_wait_s(slots: int, load: float) -> float:
    offered = slots * load
    waiting = offered**slots / math.factorial(slots) / (1 - load)
    probability = waiting / (sum(offered**k / math.factorial(k) for k in range(slots)) + waiting)
    return probability / (slots - offered)
