"""Replicas at their own pace: against a recursion over replicas and RL steps, and what the alternating order is for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from simulator.drafting.suffix import Suffix
from simulator.engine.deployment import Deployment
from simulator.prepared import Phase, Preparing, Shared
from simulator.replay import run
from simulator.scenario import Scenario, build
from simulator.system_run import Step, SystemRun
from simulator.testing import example_trace
from simulator.training.resolve import resolve_loop, resolve_stage
from simulator.training.stage import Prices
from tests.theory.test_rl_step import SECOND
from traces.errors import InputError
from traces.io import from_table
from traces.trace import Trace

SYNC_S, UPDATE_S = 0.1375, 3.71


def recorded(lengths: Sequence[Sequence[int]]) -> Trace:
    """RL steps of one rollout a prompt, of these lengths, which say the same as far as they go."""
    rows = [
        {
            "step": step, "prompt_id": f"p{prompt:03}", "sample": 0, "prompt_tokens": 1, "output_tokens": tokens,
            "token_ids": [prompt * 1000 + i for i in range(tokens)], "prompt_token_ids": [7],
        }
        for step, row in enumerate(lengths)
        for prompt, tokens in enumerate(row)
    ]  # fmt: skip
    return from_table(pa.Table.from_pylist(rows), "made")


def played(
    trace: Trace, loop: str, placement: str, replicas: int, slots: int, stages: Sequence[str], policy: str = "none"
) -> tuple[SystemRun, list[Step], list[Phase | None]]:
    scenario = Scenario(trace="made", profile="s", policies=[policy], drafter={"kind": "suffix"})  # type: ignore[arg-type]
    prices = Prices(trace, SECOND, None, None, 1, 0)
    preparing = Preparing(
        scenario, trace, trace.steps, Suffix(), Deployment(SECOND, slots, replicas), placement, Shared()
    )
    made = [resolve_stage(stage, prices) for stage in stages]
    run_ = SystemRun("s", preparing, resolve_loop(loop), made, lambda: None)
    steps = list(run_.play())
    return run_, steps, list(run_.phases)


def took_s(lengths: Sequence[int], slots: int) -> float:
    """A queue of rollouts on one replica whose steps take a second each."""
    ends = [0] * slots
    for tokens in lengths:
        first = ends.index(min(ends))
        ends[first] += tokens
    return float(max(ends))


def recursion(
    parts: Sequence[Sequence[Sequence[int]]], slots: int, lag: int, update_s: float, sync_s: float
) -> tuple[list[float], list[float]]:
    """When each RL step begins, and its update is done; parts: lengths by RL step and replica."""
    begun, trained, over_s, loaded = list[float](), list[float](), 0.0, 0
    free = [0.0] * len(parts[0])
    for j, step in enumerate(parts):
        at_s = max(min(free), trained[j - 1 - lag] if j > lag else 0.0)
        version = sum(done_s <= at_s for done_s in trained)
        extra_s, loaded = (sync_s if version > loaded else 0.0), version
        begun.append(at_s + extra_s)
        free = [max(end_s, at_s) + extra_s + took_s(part, slots) for end_s, part in zip(free, step, strict=True)]
        over_s = max(over_s, *(end_s for end_s, part in zip(free, step, strict=True) if part))
        trained.append(max(over_s, trained[-1] if trained else 0.0) + update_s)
    return begun, trained


@pytest.mark.parametrize("seed", range(200))
def test_each_replica_goes_on_when_it_is_through(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, replicas, slots, lag = (int(rng.integers(*low_high)) for low_high in ((2, 7), (1, 5), (1, 4), (0, 3)))
    prompts = int(rng.integers(replicas, 12))
    lengths = rng.integers(1, 40, (steps, prompts)).tolist()
    stages = [f"update:seconds={UPDATE_S}", f"sync:seconds={SYNC_S}"]
    _, found, _ = played(recorded(lengths), f"own_pace:lag={lag}", "static", replicas, slots, stages)
    parts = [[part.tolist() for part in np.array_split(np.array(row), replicas)] for row in lengths]
    begun, trained = recursion(parts, slots, lag, UPDATE_S, SYNC_S)
    np.testing.assert_allclose([step.start_s for step in found], begun, rtol=1e-12)
    np.testing.assert_allclose([step.trained_s for step in found], trained, rtol=1e-12)
    assert max(step.stale_max for step in found) <= lag


@pytest.mark.parametrize("placement", ["static", "shared", "ranked:migrate=0.3", "context:stay=9"])
def test_without_a_lag_it_is_sync_to_the_bit(placement: str) -> None:
    names = ("own_pace:lag=0", "sync")
    stages = ["reward:seconds=0.5,servers=4", "update:seconds=1", "sync:seconds=0.125"]
    systems = [
        {"name": loop, "policy": "fixed:2", "loop": loop, "placement": placement, "stages": stages} for loop in names
    ]
    document: dict[str, Any] = {"trace": "example", "profile": "h100-llama-3.1-8b-published", "systems": systems}
    result = run(build(document | {"engine": {"max_num_seqs": 4, "replicas": 2}}), example_trace())
    for name in ("rollouts", "rl_steps", "steps"):
        rows = result.to_pandas(name).drop(columns=["wall_s"], errors="ignore")
        one, other = (rows[rows["system"] == loop].drop(columns="system").reset_index(drop=True) for loop in names)
        assert one.equals(other)


def test_an_rl_step_is_drafted_from_what_has_finished_by_then() -> None:
    lengths = np.random.default_rng(3).integers(5, 60, (5, 8)).tolist()
    run_, steps, phases = played(recorded(lengths), "own_pace", "static", 4, 1, ["update:seconds=1"], "fixed:4")
    stream, done_s, missing = run_.stream, np.full(len(run_.stream), np.inf), 0
    for step, j in zip(steps, range(5), strict=True):
        numbers = np.arange(stream.ends[j - 1] if j else 0, stream.ends[j])
        done_s[numbers] = step.start_s + step.episode.outcome.rollouts["finished_s"]
    for step, phase, j in zip(steps, phases, range(5), strict=True):
        assert phase is not None
        past, before = phase.past, stream.rows[: stream.ends[j - 1] if j else 0]
        at_s = step.start_s - step.sync_s
        assert np.isin(past, before[done_s[: before.size] <= at_s]).all()
        missing += before.size - past.size
        assert past.size == (done_s[: before.size] <= at_s).sum()
    assert missing > 0, "some were still under way"


def test_short_parts_meet_long_ones_where_the_order_alternates() -> None:
    """Groups as long in every RL step: two RL steps on a replica take as long as on any other, and nobody waits for long."""
    lengths = [[10, 20, 30, 40, 50, 60, 70, 80]] * 8
    seconds = {}
    for loop, order in (("sync", "ascending"), ("own_pace", "ascending"), ("own_pace", "alternate")):
        placement = f"ranked:order={order},split=even,migrate=0"
        seconds[loop, order] = played(recorded(lengths), loop, placement, 4, 1, [])[1][-1].trained_s
    work_s = 8 * sum(lengths[0]) / 4
    assert (
        seconds["own_pace", "alternate"] < seconds["own_pace", "ascending"] <= seconds["sync", "ascending"] == 8 * 150
    )
    assert work_s <= seconds["own_pace", "alternate"] < 1.2 * work_s


@pytest.mark.parametrize("argument", ["lag=-1", "lag=0.5", "pace=2"])
def test_settings_that_mean_nothing_are_refused(argument: str) -> None:
    with pytest.raises(InputError, match=r"^loop 'own_pace:.*(give a whole number from 0 to 1000|use lag=)"):
        resolve_loop(f"own_pace:{argument}")
