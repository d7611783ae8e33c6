"""How long judging takes after the batch is there: list scheduling on so many servers."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cost.model import Profile
from simulator.engine.clock import Clock
from simulator.testing import SEED, example_cost, example_trace
from simulator.training.resolve import resolve_stage
from simulator.training.rewards import Rewards
from simulator.training.stage import Prices, Rollouts
from simulator.training.trainer import Judging
from traces.trace import Trace

TRACE = example_trace()
COUNT = len(TRACE)


def stage(argument: str) -> Rewards:
    cost: Any = example_cost()
    assert isinstance(cost, Profile)
    found = resolve_stage(f"reward:{argument},when=batch", Prices(TRACE, cost, None, None, 1, SEED))
    assert isinstance(found, Rewards)
    return found


def rollouts_of(trace: Trace, numbers: np.ndarray[Any, Any]) -> Rollouts:
    return Rollouts(
        numbers, trace.prompt_tokens[numbers].astype(np.int64), trace.output_tokens[numbers].astype(np.int64)
    )


def makespan_s(judge: Rewards) -> float:
    """All of the trace's rollouts come in at 0."""
    clock = Clock()
    judging = Judging(clock, [judge], lambda numbers: rollouts_of(TRACE, numbers), COUNT)
    judging.judge(np.arange(COUNT), np.zeros(COUNT))
    clock.run()
    return float(judging.done_s.max())


@pytest.mark.parametrize("servers", [1, 2, 7, 12, 44, 45, 99])
def test_equal_jobs_go_in_rounds(servers: int) -> None:
    """n jobs of s seconds on c servers: ceil(n / c) rounds, exactly."""
    assert makespan_s(stage(f"seconds=0.5,servers={servers}")) == math.ceil(COUNT / servers) * 0.5


def jobs_s(judge: Rewards) -> np.ndarray[Any, Any]:
    """Seconds that each rollout keeps its server: its tries and, where it is held, the waits after those that failed."""
    everyone = rollouts_of(TRACE, np.arange(COUNT))
    failed = judge.failures(everyone)
    tries = np.minimum(failed + 1, judge.tries)
    waits_s = [sum(judge.backoff_s * judge.growth**i for i in range(f)) for f in failed]
    return tries * judge.seconds(everyone) + np.array(waits_s)


ARGUMENTS = [
    "s_per_token=0.01",
    "s_per_token=0.01,fail=0.4,hold=yes",
    "seconds=2,fail=0.6,hold=yes,growth=1,backoff_last=yes",
]


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("servers", [1, 2, 5, 12, 45])
def test_list_scheduling_keeps_to_its_bounds(argument: str, servers: int) -> None:
    """max(longest, sum / c) <= makespan <= sum / c + (1 - 1 / c) longest (Graham 1966); one server: the sum."""
    judge = stage(f"{argument},servers={servers}")
    each_s = jobs_s(judge)
    found_s, tiny_s = makespan_s(judge), 1e-9
    least_s = max(each_s.max(), each_s.sum() / servers)
    assert least_s - tiny_s <= found_s <= each_s.sum() / servers + (1 - 1 / servers) * each_s.max() + tiny_s
    if servers in (1, COUNT):
        assert found_s == pytest.approx(least_s, rel=1e-12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 12), st.sampled_from(["no", "yes"]), st.floats(0.05, 0.9))
def test_to_hold_a_server_while_backing_off_costs_no_less_work(servers: int, last: str, fail: float) -> None:
    """With a server for each both take as long as the longest job; where they queue, a held server stands idle."""
    argument = f"seconds=1,fail={fail},backoff=5,growth=1,backoff_last={last}"
    held, free = (stage(f"{argument},servers={servers},hold={hold}") for hold in ("yes", "no"))
    work_s, longest_s = jobs_s(held), float(jobs_s(held).max())
    tries = np.minimum(held.failures(rollouts_of(TRACE, np.arange(COUNT))) + 1, held.tries)
    assert makespan_s(held) >= max(longest_s, work_s.sum() / servers) - 1e-9
    assert makespan_s(free) >= max(longest_s, tries.sum() / servers) - 1e-9
    wide_held, wide_free = (makespan_s(stage(f"{argument},servers={COUNT},hold={hold}")) for hold in ("yes", "no"))
    assert wide_held == wide_free == pytest.approx(longest_s, rel=1e-12)


def test_a_rollout_gives_up_after_its_last_try() -> None:
    """Three tries of 2 s with 5 s after each: 21 s; without the wait after the last, 16 s; the same wait doubled, 21 s."""
    longest_s = {
        settings_: float(jobs_s(stage(f"seconds=2,fail=0.9,{settings_}")).max())
        for settings_ in ("growth=1,backoff_last=yes", "growth=1", "growth=2")
    }
    assert longest_s == {"growth=1,backoff_last=yes": 21.0, "growth=1": 16.0, "growth=2": 21.0}


def test_failures_are_geometric_up_to_the_tries() -> None:
    """P(failed >= i) = fail^i: counts of 45 rollouts under 40 seeds within four standard errors."""
    everyone = rollouts_of(TRACE, np.arange(COUNT))
    cost: Any = example_cost()
    failed = np.concatenate([
        resolve_stage("reward:seconds=1,fail=0.5,backoff_last=yes", Prices(TRACE, cost, None, None, 1, seed)).failures(everyone)  # type: ignore[attr-defined]
        for seed in range(40)
    ])  # fmt: skip
    for i in range(1, 4):
        error = math.sqrt(0.5**i * (1 - 0.5**i) / failed.size)
        assert abs((failed >= i).mean() - 0.5**i) < 4 * error
    assert failed.max() == 3


def test_a_judge_reads_prompt_response_and_reference() -> None:
    table = TRACE.table.append_column("reference_tokens", [[100 + i for i in range(COUNT)]])
    trace = Trace(table, "made", "")
    cost: Any = example_cost()
    made = Prices(trace, cost, None, None, 1, SEED)
    numbers = np.array([3, 7])
    judge = resolve_stage("reward:seconds=1,s_per_token=0.5,reference=reference_tokens", made)
    expected = 1 + 0.5 * (trace.prompt_tokens[numbers] + trace.output_tokens[numbers] + 100 + numbers)
    assert np.array_equal(np.asarray(judge.seconds(rollouts_of(trace, numbers))), expected)
