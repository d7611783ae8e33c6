"""RL steps against theory: overlap of generation and training, queues for rewards, and the order in which rollouts begin."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from simulator.budgets.context import Context
from simulator.budgets.policy import by_live
from simulator.cost import Affine, Profile
from simulator.cost.operators import row
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.nothing import Nothing
from simulator.engine.clock import Clock
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from simulator.prepared import Preparing, Shared
from simulator.scenario import Scenario
from simulator.scheduling.resolve import resolve_placement
from simulator.system_run import Step, SystemRun
from simulator.training.resolve import resolve_loop, resolve_stage
from simulator.training.stage import Prices, Rollouts
from simulator.training.trainer import Judging
from tests.theory.test_queueing import erlang_wait_s, z_score
from traces.io import from_table

SECOND = Profile("s", "affine", (Affine("a", row(constant=1.0)),), model="m", device="d", source="s", uncertainty="u")
"""A decode step takes a second."""


def played(loop: str, *stages: str, tokens: int = 10, steps: int = 6, prompts: int = 4) -> list[Step]:
    """RL steps of one rollout each of some prompts, all equally long, each on a slot of its own."""
    rollouts = [(step, f"p{prompt}", 0, 1, tokens) for step in range(steps) for prompt in range(prompts)]
    names = ("step", "prompt_id", "sample", "prompt_tokens", "output_tokens")
    trace = from_table(pa.Table.from_pylist([dict(zip(names, one, strict=True)) for one in rollouts]), "made")
    scenario = Scenario(trace="made", profile="s", policies=["none"], drafter={"kind": "none"})  # type: ignore[arg-type]
    prices = Prices(trace, SECOND, None, None, 1, 0)
    preparing = Preparing(scenario, trace, trace.steps, Nothing(), Deployment(SECOND, 64), None, Shared())
    made = [resolve_stage(stage, prices) for stage in stages]
    return list(SystemRun("s", preparing, resolve_loop(loop), made, lambda: None).play())


@pytest.mark.parametrize(("generation", "training"), [(10, 3.0), (10, 10.0), (10, 25.0)])
def test_one_step_async_takes_the_longer_of_generation_and_training(generation: int, training: float) -> None:
    trained_s = [step.trained_s for step in played("one_step_async", f"update:seconds={training}", tokens=generation)]
    assert np.diff(trained_s)[1:].tolist() == [max(generation, training)] * 4
    trained_s = [step.trained_s for step in played("sync", f"update:seconds={training}", tokens=generation)]
    assert np.diff(trained_s).tolist() == [generation + training] * 5


def test_staleness_is_the_lag_once_it_is_reached() -> None:
    assert [step.stale_max for step in played("sync", "update:seconds=1")] == [0] * 6
    assert [step.stale_max for step in played("one_step_async", "update:seconds=20")] == [0] + [1] * 5


def test_weights_are_taken_up_before_the_next_rollouts() -> None:
    steps = played("sync", "update:seconds=5", "sync:seconds=2", tokens=10, steps=3)
    assert [step.start_s for step in steps] == [0.0, 17.0, 34.0]
    assert [step.sync_s for step in steps] == [0.0, 2.0, 2.0]


class Exponential:
    """A stage whose seconds are drawn beforehand."""

    name, per, basis = "reward", "rollout", "drawn"

    def __init__(self, servers: int, seconds: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> None:
        self.servers, self.each_s = servers, seconds

    def seconds(self, rollouts: Rollouts) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        return self.each_s[rollouts.rows]


@pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (3, 0.7), (8, 0.85)])
def test_reward_servers_are_a_queue_of_several_servers(servers: int, load: float) -> None:
    """Poisson arrivals and exponential times: the mean wait is Erlang's, and would be told from that of a tenth more load."""
    rng, count, waits = np.random.default_rng(11), 3000, list[float]()
    numbers = np.arange(count)
    for _ in range(24):
        arrival_s, service_s = np.cumsum(rng.exponential(1 / (load * servers), count)), rng.exponential(1.0, count)
        clock = Clock()
        judging = Judging(clock, [Exponential(servers, service_s)], lambda rows: Rollouts(rows, rows, rows), count)
        judging.judge(numbers, arrival_s)
        clock.run()
        waits.append(float((judging.done_s - arrival_s - service_s)[count // 6 :].mean()))
    assert abs(z_score(waits, erlang_wait_s(servers, load))) <= 3
    assert abs(z_score(waits, erlang_wait_s(servers, 1.1 * load))) > 3


def test_longest_first_is_within_graham_s_bound_of_the_optimum() -> None:
    """List scheduling in LPT order on m machines: at most 4/3 - 1/(3m) of the best partition, found by trying all."""
    rng = np.random.default_rng(3)
    worst = 0.0
    for _ in range(120):
        machines, jobs = int(rng.integers(2, 4)), int(rng.integers(4, 9))
        lengths = rng.integers(1, 40, jobs)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        nothing = Acceptance(offsets, lambda budget, n=int(offsets[-1]): np.zeros((n, 2), np.uint8), prefix=True)  # type: ignore[misc]
        numbers = np.arange(jobs)
        load = Workload(numbers, 0 * numbers, 0 * numbers + 1, lengths, nothing)
        known = Context(jobs, numbers, lengths, SECOND, 1, lambda: None)
        longest = resolve_placement("longest_first", known)
        took_s = simulate(load, by_live([0]), Deployment(SECOND, 1, machines, longest), check=True).makespan_s
        best = min(
            max(sum(int(lengths[i]) for i in range(jobs) if where[i] == m) for m in range(machines))
            for where in itertools.product(range(machines), repeat=jobs)
        )
        assert best <= took_s <= (4 / 3 - 1 / (3 * machines)) * best
        worst = max(worst, took_s / best)
    assert worst > 1.0  # the instances are not all trivial
