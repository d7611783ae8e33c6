"""Lookahead Reasoning against its closed forms (2506.19830): unit steps, free verdicts, slots for all, draft steps that cost c.

A rollout's seconds follow from its verdicts by a recursion over its steps, which the engine meets to the bit; the mean meets the
expectation over verdicts, and that the published speed-ups as rollouts get long.
"""

import math

import numpy as np
import numpy.typing as npt
import pytest

from simulator.budgets.policy import by_live
from simulator.cost import Affine, Profile
from simulator.cost.operators import row
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.reasoning import DrawnSteps
from simulator.engine.deployment import Deployment
from simulator.engine.lookahead_run import Ahead, Lookahead, look_ahead
from simulator.engine.replica import NO_TABLE
from simulator.engine.workload import Workload
from tests.theory.test_queueing import z_score

TOKENS, STEPS, ROLLOUTS = 16, 60, 96
"""Of a step, of a rollout; powers of two and sixteenths, so that sums of seconds are exact."""
GRID = [(a, c, k) for a in (0.0, 0.35, 0.63, 0.9, 1.0) for c in (1 / 16, 1 / 8, 1 / 4, 1 / 2) for k in (2, 3, 5, 7)]

Verdicts = npt.NDArray[np.bool_]


def constant(seconds: float) -> Profile:
    return Profile(
        "c", "affine", (Affine("a", row(constant=seconds)),), model="m", device="d", source="s", uncertainty="u"
    )


def ahead(verdicts: Verdicts, c: float, k: int, waits: bool, drafts: int = 0) -> Ahead:
    """Play one rollout a replica, each step of it as long; verdicts: bool[rollouts, steps]; drafts: right tokens in each step."""
    n, steps = verdicts.shape
    bounds = np.tile(np.arange(steps + 1) * TOKENS, n)
    other = np.full(bounds.size, TOKENS, np.int32)
    told = np.concatenate([verdicts, np.zeros((n, 1), np.bool_)], axis=1).ravel().astype(np.uint8)
    drawn = DrawnSteps(np.arange(n) * (steps + 1), np.full(n, steps), bounds, told, other, other)
    lengths = np.full(n, steps * TOKENS)
    table = np.full((lengths.sum(), 2), drafts, np.uint8)
    acceptance = Acceptance(np.concatenate([[0], np.cumsum(lengths)]), lambda _: table, prefix=True)
    workload = Workload(np.arange(n), np.zeros(n, np.int64), np.ones(n, np.int64), lengths, acceptance)
    policy = by_live(np.array([drafts])) if drafts else NO_TABLE
    target, draft = constant(1 / TOKENS), constant(c / TOKENS)
    return look_ahead(
        workload,
        policy,
        Deployment(target, 64, n, "round_robin"),
        drawn,
        Lookahead(k - 1, waits, draft, None),
        check=True,
    )


def ends(c: float, k: int, steps: int) -> list[float]:
    """When the target ends each of so many steps, all drafts accepted, at most k of them at once: asynchronous."""
    drafted, started, ended = list[float](), list[float](), list[float]()
    for i in range(steps):
        window_s = ended[i - k] if i >= k else 0.0
        started.append(max(drafted[i - 1] if i else 0.0, window_s))
        ended.append(started[i] + 1.0)
        drafted.append(max(drafted[i - 1] if i else 0.0, window_s) + c)
    return ended


def seconds(verdicts: Verdicts, c: float, k: int, waits: bool) -> float:
    """Seconds of one rollout, from its verdicts."""
    at_s, front, steps = 0.0, 0, verdicts.size
    while front < steps:
        accepted = 0
        while front + accepted < steps - 1 and verdicts[front + accepted]:
            accepted += 1
        if waits:
            lanes = min(k, steps - front)
            at_s += 1.0 + (lanes - 1) * c
            front += min(accepted, lanes - 1) + 1
        else:
            at_s += ends(c, k, accepted + 1)[accepted]
            front += accepted + 1
    return at_s


def expected(a: float, c: float, k: int, waits: bool, steps: int) -> float:
    """Mean seconds of a rollout."""
    mean_s, ended = [0.0], ends(c, k, steps)
    for left in range(1, steps + 1):
        if waits:
            lanes = min(k, left)
            after = (
                sum(a**n * (1 - a) * mean_s[left - n - 1] for n in range(lanes - 1))
                + a ** (lanes - 1) * mean_s[left - lanes]
            )
            mean_s.append(1.0 + (lanes - 1) * c + after)
        else:
            rejected = sum(a**n * (1 - a) * (ended[n] + mean_s[left - n - 1]) for n in range(left - 1))
            mean_s.append(rejected + a ** (left - 1) * ended[left - 1])
    return mean_s[steps]


def published(a: float, c: float, k: int, waits: bool) -> float:
    """The paper's speed-up."""
    run = float(k) if a == 1.0 else (1 - a**k) / (1 - a)
    if waits:
        return run / (1 - c + c * k)
    if k >= math.ceil(1 / c):
        return 1 / (c + (1 - c) * (1 - a))
    if a == 1.0:
        return float(k)
    return (1 - a**k) / ((1 - a) + c * (a - a ** (k + 1) - k * (1 - a) * a**k))


@pytest.mark.parametrize("waits", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize(("a", "c", "k"), GRID)
def test_seconds_follow_from_verdicts_and_their_mean_from_acceptance(a: float, c: float, k: int, waits: bool) -> None:
    rng = np.random.default_rng([int(100 * a), int(1 / c), k])
    verdicts = rng.random((ROLLOUTS if c == 1 / 4 else 8, STEPS)) < a
    found = ahead(verdicts, c, k, waits)
    finished_s = found.outcome.rollouts["finished_s"]
    assert finished_s.tolist() == [seconds(one, c, k, waits) for one in verdicts]
    assert found.facts["own_tokens"] + found.facts["accepted_steps"] * TOKENS == verdicts.size * TOKENS
    if c == 1 / 4:
        mean_s = expected(a, c, k, waits, STEPS)
        assert finished_s.mean() == mean_s if a in (0.0, 1.0) else abs(z_score(finished_s, mean_s)) < 4


@pytest.mark.parametrize("waits", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize(("a", "c", "k"), GRID)
def test_the_expectation_becomes_the_published_speed_up(a: float, c: float, k: int, waits: bool) -> None:
    """What is missing at a rollout's end is missing once: its share shrinks as 1 / steps, which every k divides."""
    short, long = (steps / expected(a, c, k, waits, steps) for steps in (210, 420))
    limit = published(a, c, k, waits)
    assert long == pytest.approx(limit, rel=0.02)
    assert abs(long - limit) <= 0.6 * abs(short - limit) + 1e-9


@pytest.mark.parametrize("waits", [True, False], ids=["sync", "async"])
def test_token_drafts_inside_steps_multiply(waits: bool) -> None:
    """h = f(k1) g(k2), f at the c that is left: three right drafts make a step of 16 tokens take 5 decode steps, g = 16 / 5.

    The first token comes with the prompt, and 15 more four by four. A draft that takes a sixteenth is then a fifth of a step.
    """
    verdicts = np.random.default_rng(0).random((32, STEPS)) < 0.63
    both, g = ahead(verdicts, 1 / 16, 4, waits, drafts=3), 16 / 5
    alone_s = np.array([seconds(one, 1 / 5, 4, waits) for one in verdicts])
    np.testing.assert_allclose(both.outcome.rollouts["finished_s"] * g, alone_s, rtol=1e-12)


@pytest.mark.parametrize("waits", [True, False], ids=["sync", "async"])
def test_acceptance_of_none_is_no_faster_and_more_is_never_slower(waits: bool) -> None:
    """One u decides on each draft, so a higher acceptance accepts those and more; deep and cheap drafts never hurt then."""
    levels = np.random.default_rng(1).random((16, STEPS))
    finished_s = [ahead(levels < a, 1 / 8, 5, waits).outcome.rollouts["finished_s"] for a in np.linspace(0, 1, 6)]
    assert (finished_s[0] >= STEPS).all()
    if not waits:
        assert (np.diff(finished_s, axis=0) <= 0).all()
    assert (np.diff([one.mean() for one in finished_s]) < 0).all()
