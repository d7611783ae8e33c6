"""Ranges of how many times as many samples a system makes."""

import numpy as np
import pytest

from simulator.compare.throughput import Throughput, speedup

SEED, RUNS, STEPS = 4, 2000, 6


def system(seconds: list[float] | np.ndarray, samples: float = 10.0, gpus: int = 1, share: float = 1.0, error: float = 0.0,
           profile: str = "p") -> Throughput:  # fmt: skip
    effects = {"profile": [np.array([-error, error])]}
    return Throughput(np.array(seconds), np.full(len(seconds), samples), gpus, share, profile, effects)


def test_ratio_is_of_samples_a_second_and_gpu() -> None:
    assert speedup(system([4.0, 6.0]), system([1.0, 1.0], samples=4, gpus=2))[0] == pytest.approx(1.0)
    assert speedup(system([4.0, 6.0]), system([2.0, 3.0]))[0] == pytest.approx(2.0)


def test_what_both_share_cancels_and_what_is_trained_meanwhile_dilutes_it() -> None:
    base = system([4.0], error=0.2)
    assert speedup(base, system([2.0], error=0.2)) == pytest.approx((2.0, 2.0, 2.0))
    low, high = speedup(base, system([2.0], error=0.2, share=0.5))[1:]
    over = np.exp(0.2) / (1 + 0.5 * (np.exp(0.2) - 1)) - 1
    assert (low / 2, high / 2) == pytest.approx((1 - 0.0998, 1 + over), rel=0.02)
    apart = speedup(base, system([2.0], error=0.2, profile="other"))
    assert apart[1:] == pytest.approx((2 * np.exp(-0.2 * 2**0.5), 2 * np.exp(0.2 * 2**0.5)))


def test_nine_of_ten_ranges_over_rl_steps_hold_the_true_ratio() -> None:
    rng = np.random.default_rng(SEED)
    inside = 0
    for _ in range(RUNS):
        common = rng.lognormal(0, 0.2, STEPS)
        base = system(common * rng.lognormal(0, 0.05, STEPS) * 2)
        own = system(common * rng.lognormal(0, 0.05, STEPS))
        _, low, high = speedup(base, own)
        inside += low < 2 < high
    assert abs(inside / RUNS - 0.9) < 4 * (0.9 * 0.1 / RUNS) ** 0.5 + 0.01  # the ratio of sums is not quite linear


def test_one_rl_step_says_nothing_of_its_spread() -> None:
    assert speedup(system([4.0]), system([2.0])) == pytest.approx((2.0, 2.0, 2.0))
