"""The order of held rollouts after random actions against a sort, and that they do not pile up."""

import math
import random

import numpy as np
import pytest

from simulator.scheduling.estimates import Held


@pytest.mark.parametrize("seed", range(200))
def test_the_first_is_the_least_of_all_that_are_held(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(1, 30)
    group = [rng.randrange(1 + seed % 5) for _ in range(count)]
    held = Held(np.array(group))
    tokens, longest, order = dict.fromkeys(range(count), 0), dict[int, int](), list[int]()

    def key(rollout: int) -> tuple[float, ...]:
        if rollout == group.index(group[rollout]):
            return (0, tokens[rollout], rollout)
        return (1, -longest.get(group[rollout], math.inf), rollout)

    for rollout in range(count):
        held.hold(rollout, 0)
        order.append(rollout)
    away = list[int]()
    for _ in range(200):
        assert len(held) == len(order)
        if order and rng.random() < 0.6:
            assert held.first() == min(order, key=key)
            assert held.longest_held() == order[0]
            chosen = rng.choice((held.first(), held.longest_held()))
            held.take(chosen)
            order.remove(chosen)
            away.append(chosen)
        elif away:
            rollout = away.pop(rng.randrange(len(away)))
            tokens[rollout] += rng.randint(1, 5)
            if rng.random() < 0.3:
                held.finished(rollout, tokens[rollout])
                longest[group[rollout]] = max(longest.get(group[rollout], 0), tokens[rollout])
            else:
                held.hold(rollout, tokens[rollout])
                order.append(rollout)


def test_a_group_has_an_entry_for_what_changed_and_not_for_each_member() -> None:
    held = Held(np.zeros(5000, np.int64))
    for rollout in range(5000):
        held.hold(rollout, 0)
    assert len(held._by_estimate) == 1
    for nth in range(4000):
        rollout = held.first()
        held.take(rollout)
        held.finished(rollout, min(nth + 1, 10))
    assert len(held) == 1000
    assert len(held._by_estimate) <= 11
