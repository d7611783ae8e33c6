"""Runs whose rollouts begin with what they keep of earlier responses, against the plain reference."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.engine.deployment import Deployment
from simulator.played import Step
from simulator.prepared import Preparing, Shared
from simulator.scenario import Scenario
from simulator.system_run import SystemRun
from simulator.training.resolve import resolve_loop
from simulator.training.stage import Stage
from simulator.transforms.prefixes import Kept
from tests.engine.test_cluster import PULL_S, Rule, is_plain
from tests.engine.test_serving import PROFILE, cost, serving_of
from tests.engine.test_system_run import SECONDS, Given, Judge, Takes
from tests.reference import system as reference
from tests.reference.serving import Request, Settings
from traces.io import from_table

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Told:
    """Keeps what it is told to, by row of the trace."""

    previous: Int64
    prefix: Int64
    total: Int64

    def kept(self, trace: Any, rows: Int64, seed: int) -> Kept:
        return Kept(self.previous[rows], self.prefix[rows], self.total[rows])

    def verification(self, prices: Any, log_probs: str) -> Any:
        raise AssertionError("it is given")


class Drawn(NamedTuple):
    """recorded: rollouts as the trace has them; written: as they are in the run; previous: the response verified, or -1."""

    recorded: list[Request]
    written: list[Request]
    previous: list[int]
    groups: list[int]
    step_of: list[int]
    limits: Settings
    system: reference.SystemSettings
    replicas: int
    seed: int
    fixed_s: float
    token_s: float


def request(draw: st.DrawFn, prompt_tokens: int) -> Request:
    tokens = draw(st.integers(1, 12))
    drafted = [draw(st.integers(0, 3)) for _ in range(tokens if draw(st.booleans()) else 0)]
    return Request(
        prompt_tokens,
        tokens,
        accepted=[draw(st.integers(0, min(d, tokens - p))) for p, d in enumerate(drafted)],
        drafted=drafted,
    )


def written(recorded: Request, total: int) -> Request:
    """The same drafts at the same places, as far as the rollout goes; none beyond what was recorded."""
    places = range(total)
    drafted = [recorded.drafted[p] if p < len(recorded.drafted) else 0 for p in places]
    accepted = [min(recorded.accepted[p], total - p) if p < len(recorded.accepted) else 0 for p in places]
    return Request(recorded.prompt_tokens, total, accepted=accepted, drafted=drafted)


@st.composite
def runs(draw: st.DrawFn) -> Drawn:
    recorded, groups, step_of, previous, kept, total = [], [], [], [], [], []
    for step in range(draw(st.integers(1, 4))):
        earlier = [i for i, at in enumerate(step_of) if at == step - 1]
        for _ in range(draw(st.integers(1, 3))):
            group = groups[-1] + 1 if groups else 0
            prompt_tokens = draw(st.integers(0, 5))
            for _ in range(draw(st.integers(1, 3))):
                recorded.append(request(draw, prompt_tokens))
                groups.append(group)
                step_of.append(step)
                before = draw(st.sampled_from([-1, *earlier]))
                prefix = draw(st.integers(0, recorded[before].output_tokens)) if before >= 0 else 0
                whole = prefix > 0 and draw(st.booleans())
                length = (
                    prefix if whole else prefix + draw(st.integers(1, 9)) if before >= 0 else recorded[-1].output_tokens
                )
                previous.append(before)
                kept.append(prefix)
                total.append(length)
    limits = Settings(
        draw(st.integers(1, 4)), draw(st.none() | st.just(8)), enable_prefix_caching=False, budget=draw(st.integers(0, 2)),
    )  # fmt: skip
    count = len(recorded)
    system = reference.SystemSettings(
        loop="sync", reward_s=[draw(SECONDS) for _ in range(count)] if draw(st.booleans()) else None,
        servers=draw(st.integers(1, 3)), after_batch=draw(st.booleans()), batch_s=lambda batch: 0.0, sync_s=draw(SECONDS),
        kept=kept,
    )  # fmt: skip
    mine = [written(one, tokens) for one, tokens in zip(recorded, total, strict=True)]
    return Drawn(
        recorded, mine, previous, groups, step_of, limits, system, draw(st.integers(1, 3)), draw(st.integers(0, 2**31)),
        draw(SECONDS), draw(st.sampled_from([0.0, 2**-5])),
    )  # fmt: skip


def played(drawn: Drawn) -> tuple[SystemRun, list[Step]]:
    groups, system, limits = drawn.groups, drawn.system, drawn.limits
    trace = from_table(pa.table({
        "step": pa.array(drawn.step_of, pa.int32()), "prompt_id": [f"g{group}" for group in groups],
        "sample": pa.array([groups[: i + 1].count(group) - 1 for i, group in enumerate(groups)], pa.int32()),
        "prompt_tokens": pa.array([r.prompt_tokens for r in drawn.recorded], pa.int32()),
        "output_tokens": pa.array([r.output_tokens for r in drawn.recorded], pa.int32()),
    }), "made")  # fmt: skip
    stages: list[Stage] = [Takes("update", "batch", drawn.fixed_s, 2**-6), Takes("sync", "sync", system.sync_s, 0.0)]
    if system.reward_s is not None:
        each_s = np.array(system.reward_s)
        stages.append(
            Judge(each_s, np.zeros(each_s.size, np.int64), system.servers, 0.0, after_batch=system.after_batch)
        )
    deployment = Deployment(
        PROFILE, limits.max_num_seqs, drawn.replicas, serving=serving_of(limits), pull_s_per_token=PULL_S
    )
    scenario = Scenario(trace="made", profile="p", policies=[f"fixed:{limits.budget}"], drafter={"kind": "none"})  # type: ignore[arg-type]
    told = Told(np.array(drawn.previous), np.array(system.kept), np.array([r.output_tokens for r in drawn.written]))
    preparing = Preparing(scenario, trace, trace.steps, Given(tuple(drawn.recorded)), deployment, None, Shared(), told)
    preparing.placed = lambda phase: replace(deployment, placement=Rule(drawn.seed, drawn.replicas, True, True).here)  # type: ignore[method-assign]
    verification = Takes("verify", "batch", 0.0, drawn.token_s)
    run = SystemRun("s", preparing, resolve_loop("sync"), stages, lambda: None, verification)
    return run, list(run.play())


def verify_s(drawn: Drawn, order: list[int]) -> float:
    before = [drawn.recorded[drawn.previous[i]] for i in order if drawn.previous[i] >= 0]
    return drawn.token_s * sum(r.prompt_tokens + r.output_tokens for r in before)


def batch_s(drawn: Drawn, batch: list[int]) -> float:
    return drawn.fixed_s + 2**-6 * sum(drawn.written[i].prompt_tokens + drawn.written[i].output_tokens for i in batch)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(runs())
def test_verified_runs_are_those_of_the_reference(drawn: Drawn) -> None:
    system = replace(
        drawn.system, batch_s=lambda batch: batch_s(drawn, batch), verify_s=lambda order: verify_s(drawn, order)
    )
    expected = reference.play(
        drawn.written, drawn.groups, drawn.step_of, drawn.limits, cost, drawn.replicas,
        lambda: Rule(drawn.seed, drawn.replicas, True, True).there, system, PULL_S,
        by_number=not is_plain(drawn.limits, drawn.written, False),
    )  # fmt: skip
    run, found = played(drawn)
    assert len(found) == len(expected)
    begin = 0
    for step, other in zip(found, expected, strict=True):
        for name in ("start_s", "end_s", "rewarded_s", "trained_s", "train_s", "sync_s", "verify_s"):
            assert getattr(step, name) == pytest.approx(getattr(other, name), rel=1e-9, abs=1e-12), name
        assert run.batches[step.number].tolist() == other.trained
        assert step.recomputed_tokens == other.recomputed
        assert step.stale_mean == pytest.approx(other.stale_mean, rel=1e-9, abs=1e-12)
        assert step.stale_max == other.stale_max
        episode = step.episode
        numbers = range(begin, begin + episode.output_tokens.size)
        begin = numbers.stop
        assert episode.output_tokens.tolist() == [drawn.written[i].output_tokens for i in numbers]
        assert episode.generated_tokens.tolist() == [other.emitted.get(i, 0) for i in numbers]
        assert sum(log["emitted_tokens"].sum() for log in episode.outcome.logs) == sum(other.emitted.values())
        ends_s = step.start_s + episode.outcome.rollouts["finished_s"]
        assert ends_s.tolist() == pytest.approx([other.finished_s[i] for i in numbers], rel=1e-9, abs=1e-12)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(runs())
def test_where_nothing_is_kept_generation_is_as_without(drawn: Drawn) -> None:
    """To the bit, verified or not."""
    nothing = replace(drawn.system, kept=[0] * len(drawn.recorded))
    _, verified = played(drawn._replace(system=nothing, written=drawn.recorded))
    _, never = played(drawn._replace(system=nothing, written=drawn.recorded, previous=[-1] * len(drawn.recorded)))
    for step, other in zip(verified, never, strict=True):
        assert step.episode.outcome.rollouts.tobytes() == other.episode.outcome.rollouts.tobytes()
        for log, other_log in zip(step.episode.outcome.logs, other.episode.outcome.logs, strict=True):
            assert log[:].tobytes() == other_log[:].tobytes()
        assert step.stale_max == 0
