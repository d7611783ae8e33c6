"""A drafter that is trained beside serving: whole runs against the plain reference, rates, versions and what they change."""

import random
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.drafting.drafter import Drafter
from simulator.training.stage import Rollouts
from tests.engine.test_cluster import PULL_S, Rule, is_plain
from tests.engine.test_serving import cost
from tests.engine.test_swaps import Drafts, other_drafts
from tests.engine.test_system_run import Given, played, runs, same_steps, with_seconds
from tests.reference import system as reference
from tests.reference.online import Trainer
from tests.reference.serving import Request, Settings

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Redrawn:
    """An online trainer each version of which drafts anything else."""

    online: reference.Online
    requests: tuple[Request, ...]
    name = "online"
    per: Any = "online"
    basis = "given"
    gpus = 1

    @property
    def samples_per_s(self) -> float:
        return self.online.batch / self.online.step_s

    @property
    def pool(self) -> int:
        return self.online.pool

    @property
    def batch(self) -> int:
        return self.online.batch

    @property
    def sync(self) -> int:
        return self.online.sync

    @property
    def pause_s(self) -> float:
        return self.online.pause_s

    @property
    def domains(self) -> Int64:
        return np.array(self.online.domains)

    def seconds(self, rollouts: Rollouts) -> npt.ArrayLike:
        return np.full(rollouts.rows.size, 1 / self.samples_per_s)

    def learnt(self, drafter: Drafter, samples: Int64) -> Drafter:
        drafts = self.online.drafts(Counter({i: n for i, n in enumerate(samples.tolist()) if n}))
        return Given(tuple(
            replace(request, accepted=accepted, drafted=drafted)
            for request, (accepted, drafted) in zip(self.requests, drafts, strict=True)
        ))  # fmt: skip


@st.composite
def trainers(draw: st.DrawFn) -> tuple[int, int, float, int, float, int]:
    """Pool, batch, seconds of a trainer step, sync, pause, domains."""
    batch = draw(st.sampled_from([1, 1, 2, 3]))
    return (
        batch + draw(st.integers(0, 3)), batch, draw(st.sampled_from([0.125, 0.5, 2.0])), draw(st.integers(1, 3)),
        draw(st.sampled_from([0.0, 0.0625, 0.5, 4.0])), draw(st.integers(1, 3)),
    )  # fmt: skip


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(runs(), trainers())
def test_runs_with_a_trainer_are_those_of_the_reference(drawn: Any, trained: Any) -> None:
    same_with_a_trainer(drawn, trained)


@pytest.mark.parametrize("seed", range(20))
def test_versions_that_come_while_the_last_steps_of_an_rl_step_end(seed: int) -> None:
    """A replica pauses after the step that was under way when the loop had enough."""
    rng = random.Random(seed)
    requests = [Request(rng.randint(0, 40), rng.randint(1, 6)) for _ in range(8)]
    system = reference.SystemSettings("partial", rollouts=4, batch_s=lambda batch: 0.0, rewards=[0.0] * 8)
    limits = Settings(2, enable_prefix_caching=False, budget=2)
    drawn = (requests, list(range(8)), [0] * 4 + [1] * 4, limits, system, 2, seed, 0.0)
    same_with_a_trainer(drawn, (2, 1, 2**-6, 1, 4.0, 1))


def same_with_a_trainer(drawn: Any, trained: Any) -> None:
    """A run and the reference's, with a trainer beside both."""
    requests, groups, step_of, limits, system, replicas, seed, fixed_s = drawn
    seed += seed % 3 == 0  # nobody is held: the reference tells of steps that end after a phase, too
    pool, batch, step_s, sync, pause_s, domains = trained

    def drafts(learnt: Counter[int]) -> Drafts:
        return other_drafts(random.Random(repr((seed, sorted(learnt.items())))), requests)

    online = reference.Online(pool, batch, step_s, sync, pause_s, [i % domains for i in range(len(requests))], drafts)
    system = with_seconds(system, requests, fixed_s)
    there: list[Trainer] = []
    expected = reference.play(
        requests, groups, step_of, limits, cost, replicas, lambda: Rule(seed, replicas, True, True).there,
        system, PULL_S, not is_plain(limits, requests, False), online, there,
    )  # fmt: skip
    stage = Redrawn(online, tuple(requests))
    run, found = played(requests, groups, step_of, limits, system, replicas, seed, fixed_s, [stage])
    same_steps(run, found, expected)
    assert run.beside is not None
    run.clock.run()  # the trainer has samples left
    run.beside.advance(1e12)
    here, (other,) = run.beside.trainer, there
    assert (here.trained, here.dropped, here.collected) == (other.learnt.total(), other.lost, other.came)
    assert here.versions == len(other.versions)
    ends_s = [end_s for _, end_s in here.spans][sync - 1 :: sync]
    np.testing.assert_allclose(ends_s, [at_s for at_s, _, _ in other.versions], rtol=1e-9)
