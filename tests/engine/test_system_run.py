"""System runs, loops and stages included, against the plain reference: random rollouts, groups, rewards and placements."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.cost.draft_cost import DraftCost
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.drafter import offsets_of
from simulator.engine.deployment import Deployment
from simulator.played import Step
from simulator.prepared import Preparing, Shared
from simulator.scenario import Scenario
from simulator.system_run import SystemRun
from simulator.training.resolve import resolve_loop
from simulator.training.stage import Rollouts, Stage
from tests.engine.test_cluster import PULL_S, Rule, is_plain
from tests.engine.test_serving import PROFILE, cost, serving_of
from tests.reference import system as reference
from tests.reference.serving import Request, Settings
from traces.io import from_table
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Given:
    """A drafter whose drafts are those of the requests."""

    requests: tuple[Request, ...]
    lossless = True
    learns_from: frozenset[Any] = frozenset({"own"})
    window = 0
    needs_tokens = False
    cost = DraftCost()

    def describe(self) -> str:
        return "given"

    def accept(self, trace: Trace, rows: Int64, past: Int64, seed: int) -> Acceptance:
        mine = [self.requests[row] for row in rows.tolist()]
        tables = [np.array([r.accepted, r.drafted]).T if r.drafted else np.zeros((r.output_tokens, 2)) for r in mine]
        table = np.concatenate([np.zeros((0, 2)), *tables]).astype(np.uint8)
        return Acceptance(offsets_of(trace, rows), lambda budget: table, prefix=True)


@dataclass(frozen=True)
class Judge:
    """Reward servers that take the seconds, and fail as often, as they are told."""

    each_s: Int64
    failed: Int64
    servers: int
    backoff_s: float
    tries: int = 99
    growth: float = 2.0
    holds: bool = False
    after_batch: bool = False
    name = "reward"
    per: Any = "rollout"
    basis = "given"

    def seconds(self, rollouts: Rollouts) -> Any:
        return self.each_s[rollouts.rows]

    def failures(self, rollouts: Rollouts) -> Int64:
        return self.failed[rollouts.rows]


@dataclass(frozen=True)
class Takes:
    """A stage of so many seconds, and more for every token."""

    name: str
    per: Any
    fixed_s: float
    token_s: float
    scoring: float = 0.0
    basis = "given"

    def seconds(self, rollouts: Rollouts) -> float:
        return self.fixed_s + self.token_s * rollouts.tokens


SCORED_S = 2**-7
SECONDS = st.sampled_from([0.0, 0.25, 0.5, 2.0, 8.0])


@st.composite
def runs(
    draw: st.DrawFn,
) -> tuple[list[Request], list[int], list[int], Settings, reference.SystemSettings, int, int, float]:
    """Requests, the group and the RL step of each, limits, the system, replicas, a seed, seconds of an update by token."""
    requests, groups, step_of, rewards = [], [], [], []
    for step in range(draw(st.integers(1, 4))):
        for _ in range(draw(st.integers(1, 3))):
            group = groups[-1] + 1 if groups else 0
            prompt_tokens = draw(st.integers(0, 5))
            for _ in range(draw(st.integers(1, 3))):
                tokens = draw(st.integers(1, 12))
                drafted = [draw(st.integers(0, 3)) for _ in range(tokens if draw(st.booleans()) else 0)]
                accepted = [draw(st.integers(0, min(d, tokens - p))) for p, d in enumerate(drafted)]
                requests.append(Request(prompt_tokens, tokens, accepted=accepted, drafted=drafted))
                groups.append(group)
                step_of.append(step)
                rewards.append(float(draw(st.integers(0, 1))))
    limits = Settings(
        draw(st.integers(1, 4)), draw(st.none() | st.just(8)), enable_prefix_caching=False, budget=draw(st.integers(0, 2)),
    )  # fmt: skip
    count, judged = len(requests), draw(st.booleans())
    failures = [draw(st.sampled_from([0, 0, 0, 1, 2])) for _ in range(count)]
    # No two retries at one instant, and all sums exact, so that what ties from zero ties from an RL step's start.
    odd_s = [(failed > 0) * (i + 1) * 612_361 * 2**-30 for i, failed in enumerate(failures)]
    system = reference.SystemSettings(
        loop=draw(st.sampled_from(["sync", "one_step_async", "partial", "refill", "streaming"])),
        rollouts=draw(st.integers(1, 8)), lag=draw(st.integers(0, 2)),
        reward_s=[draw(SECONDS) + odd_s[i] for i in range(count)] if judged else None, servers=draw(st.integers(1, 3)),
        failures=failures if judged else None,
        backoff_s=draw(st.sampled_from([759_250_125, 619_925_131])) * 2**-30, growth=draw(st.sampled_from([1.0, 2.0])),
        tries=max(1, *failures, 1) if draw(st.booleans()) else None, holds=draw(st.booleans()),
        batch_s=lambda batch: 0.0, sync_s=draw(SECONDS),
        rewards=rewards,
    )  # fmt: skip
    if system.loop == "partial":
        share, prompts = (
            draw(st.none() | st.sampled_from([0.1, 0.5, 1.0, 2.0])),
            draw(st.none() | st.sampled_from([1, 1.5, 2])),
        )
        system = replace(
            system,
            share=share,
            prompts=None if prompts is None else Fraction(prompts),
            score_s=draw(st.none() | st.just(_nothing)),
        )
    elif system.loop in ("sync", "one_step_async"):
        system = replace(system, minibatch=draw(st.integers(0, 3)))
    if system.loop != "refill" and not system.minibatch:
        system = replace(system, after_batch=draw(st.booleans()))
    return (
        requests,
        groups,
        step_of,
        limits,
        system,
        draw(st.integers(1, 3)),
        draw(st.integers(0, 2**31)),
        draw(SECONDS),
    )


def _nothing(outputs: list[tuple[int, int]]) -> float:
    return 0.0


def spec_of(system: reference.SystemSettings) -> str:
    if system.loop == "partial":
        flight = f"rollouts={system.rollouts}" if system.share is None else f"share={system.share}"
        prompts = "" if system.prompts is None else f",prompts={float(system.prompts)}"
        return f"partial:{flight}{prompts},log_probs={'batch' if system.score_s is None else 'outputs'}"
    if system.minibatch:
        return f"{system.loop}:minibatch={system.minibatch}"
    return f"streaming:rollouts={system.rollouts},lag={system.lag}" if system.loop == "streaming" else system.loop


def policy_named(limits: Settings) -> str:
    """The budget for all, from when the switch says."""
    if limits.patience == 0:
        return f"fixed:{limits.budget}"
    switch = f"live={limits.switch_live},patience={limits.patience},reprefill={'yes' if limits.reprefill else 'no'}"
    return f"buckets:bounds=1,budgets={limits.budget},{switch}"


def played(
    requests: list[Request], groups: list[int], step_of: list[int], limits: Settings, system: reference.SystemSettings,
    replicas: int, seed: int, fixed_s: float, more: Sequence[Stage] = (),
) -> tuple[SystemRun, list[Step]]:  # fmt: skip
    sample = [groups[: i + 1].count(group) - 1 for i, group in enumerate(groups)]
    trace = from_table(pa.table({
        "step": pa.array(step_of, pa.int32()), "prompt_id": [f"g{group}" for group in groups],
        "sample": pa.array(sample, pa.int32()),
        "prompt_tokens": pa.array([r.prompt_tokens for r in requests], pa.int32()),
        "output_tokens": pa.array([r.output_tokens for r in requests], pa.int32()), "reward": system.rewards,
    }), "made")  # fmt: skip
    stages: list[Stage] = [Takes("update", "batch", fixed_s, 2**-6), Takes("sync", "sync", system.sync_s, 0.0)]
    if system.score_s is not None:
        stages.append(Takes("log_probs", "batch", 0.0, SCORED_S, 1.0))
    if system.reward_s is not None:
        assert system.failures is not None
        stages.append(Judge(
            np.array(system.reward_s), np.array(system.failures), system.servers, system.backoff_s, system.tries or 99,
            system.growth, system.holds, system.after_batch,
        ))  # fmt: skip
    stages += more
    deployment = Deployment(PROFILE, limits.max_num_seqs, replicas, serving=serving_of(limits), pull_s_per_token=PULL_S)
    scenario = Scenario(trace="made", profile="p", policies=[policy_named(limits)], drafter={"kind": "none"})  # type: ignore[arg-type]
    preparing = Preparing(scenario, trace, trace.steps, Given(tuple(requests)), deployment, None, Shared())
    preparing.placed = lambda phase: replace(deployment, placement=Rule(seed, replicas, True, True).here)  # type: ignore[method-assign]
    run = SystemRun("s", preparing, resolve_loop(spec_of(system)), stages, lambda: None)
    return run, list(run.play())


@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(runs())
def test_system_runs_are_those_of_the_reference(drawn: Any) -> None:
    assert_is_the_reference(drawn)


def with_seconds(system: reference.SystemSettings, requests: list[Request], fixed_s: float) -> reference.SystemSettings:
    """The settings with the seconds that the stages of `played` take."""

    def batch_s(batch: list[int]) -> float:
        return fixed_s + 2**-6 * sum(requests[i].prompt_tokens + requests[i].output_tokens for i in batch)

    def score_s(outputs: list[tuple[int, int]]) -> float:
        return SCORED_S * sum(requests[i].prompt_tokens + tokens for i, tokens in outputs)

    return replace(system, batch_s=batch_s, score_s=None if system.score_s is None else score_s)


def assert_is_the_reference(drawn: Any) -> None:
    requests, groups, step_of, limits, system, replicas, seed, fixed_s = drawn
    system = with_seconds(system, requests, fixed_s)
    expected = reference.play(
        requests, groups, step_of, limits, cost, replicas, lambda: Rule(seed, replicas, True, True).there,
        system, PULL_S, by_number=not is_plain(limits, requests, False),
    )  # fmt: skip
    run, found = played(requests, groups, step_of, limits, system, replicas, seed, fixed_s)
    same_steps(run, found, expected)


def same_steps(run: SystemRun, found: list[Step], expected: list[reference.RLStep]) -> None:
    assert len(found) == len(expected)
    for j, (step, other) in enumerate(zip(found, expected, strict=True)):
        for name in ("start_s", "end_s", "rewarded_s", "trained_s", "train_s", "sync_s"):
            assert getattr(step, name) == pytest.approx(getattr(other, name), rel=1e-9, abs=1e-12), (j, name)
        assert run.batches[j].tolist() == other.trained
        assert (step.carried, step.carried_tokens, step.recomputed_tokens) == (
            other.carried, other.carried_tokens, other.recomputed,
        )  # fmt: skip
        assert step.stale_mean == pytest.approx(other.stale_mean, rel=1e-9, abs=1e-12)
        assert step.stale_max == other.stale_max
        emitted = sum(log["emitted_tokens"].sum() for log in step.episode.outcome.logs)
        assert emitted == sum(other.emitted.values())
        assert step.episode.output_tokens.size == len(other.finished)
