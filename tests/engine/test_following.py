"""A policy that follows each rollout in compiled code, against its rule in plain Python, which the engine has to ask."""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.budgets.policy import FOR_BATCH, FOR_EACH, Chooses, Supplies, by_live
from simulator.budgets.resolve import resolve_policy
from simulator.budgets.view import BatchView
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.serving import ANYTHING, Serving
from simulator.scheduling.placement import Event, Place, View
from tests.budgets.scripted import seen_of
from tests.engine.test_cluster import Rule, clusters, is_plain, simulated
from tests.engine.test_ranks import decoded
from tests.engine.test_serving import PROFILE
from tests.engine.workloads import BUDGETS, assert_equal, context_of, random_rollout, workload_of
from tests.reference import rules

FEW = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


class Asked:
    """A rule, and what becomes of it."""

    def __init__(self, rule: rules.Adaptive | rules.Aimd) -> None:
        self.rule = rule
        self.given: set[int] = set()
        self.replicas: dict[int, set[int]] = {}

    def __call__(self, view: BatchView) -> list[int]:
        lengths = self.rule(seen_of(view))
        self.given |= set(lengths)
        for rollout in view.rollout.tolist():
            self.replicas.setdefault(rollout, set()).add(view.replica)
        return lengths


@st.composite
def lengths(draw: st.DrawFn) -> tuple[int, int, float, int, str]:
    """Settings that short drafts reach."""
    low = draw(st.integers(0, 2))
    return (
        low, draw(st.integers(low, 4)), draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])), draw(st.integers(0, 3)),
        draw(st.sampled_from(["last", "average"])),
    )  # fmt: skip


def rule_of(low: int, high: int, rho: float, delta: int, compare: str) -> rules.Adaptive:
    return rules.Adaptive(low, high, rho, delta, average=compare == "average")


def spec_of(low: int, high: int, rho: float, delta: int, compare: str) -> str:
    return f"adaptive:low={low},high={high},rho={rho},delta={delta},compare={compare}"


@settings(max_examples=300, **FEW)
@given(clusters(), lengths(), st.sampled_from([1, 1, 2]))
def test_lengths_are_those_of_the_rule_whatever_a_placement_does(drawn: object, chosen: object, ranks: int) -> None:
    """Stays, moves, pulled KV, cancels; preemptions, turns and arrivals included.

    Where nothing but slots limits a replica, the engine admits before it asks, so that placements see as running who would wait:
    there they see the two as one.
    """
    requests, limits, replicas, begun, arrivals, seed = drawn  # type: ignore[misc]
    alike = limits.async_scheduling or is_plain(limits, requests, arrivals)
    outcomes = []
    for policy in (resolve_policy(spec_of(*chosen), context_of(PROFILE, 4)), Asked(rule_of(*chosen))):  # type: ignore[misc]
        rule = Rule(seed, replicas * ranks, alike, any(request.turns for request in requests))
        outcomes.append(simulated(requests, limits, replicas * ranks, rule, begun, arrivals, ranks, policy)[1])
    assert_equal(*outcomes)


@settings(max_examples=150, **FEW)
@given(clusters(), st.sampled_from([1, 1, 2]))
def test_one_length_for_all_is_a_fixed_budget_whatever_a_placement_does(drawn: object, ranks: int) -> None:
    requests, limits, replicas, begun, arrivals, seed = drawn  # type: ignore[misc]
    k = limits.budget
    outcomes = []
    for policy in (resolve_policy(f"adaptive:low={k},high={k}", context_of(PROFILE, 4)), by_live([k])):
        rule = Rule(seed, replicas * ranks, limits.async_scheduling, any(request.turns for request in requests))
        outcomes.append(simulated(requests, limits, replicas * ranks, rule, begun, arrivals, ranks, policy)[1])
    assert_equal(*outcomes)


@settings(max_examples=200, **FEW)
@given(clusters(), lengths(), st.sampled_from([1, 1, 2]), st.sampled_from(["shared", "static", "least_loaded"]))
def test_lengths_are_those_of_the_rule_under_every_dispatch(
    drawn: object, chosen: object, ranks: int, dispatch: str
) -> None:
    requests, limits, replicas, _, arrivals, _ = drawn  # type: ignore[misc]
    policies = resolve_policy(spec_of(*chosen), context_of(PROFILE, 4)), Asked(rule_of(*chosen))  # type: ignore[misc]
    assert_equal(
        *(decoded(requests, limits, replicas * ranks, ranks, dispatch, arrivals, policy) for policy in policies)
    )


def drawn_rule(rng: random.Random, kind: str) -> tuple[str, rules.Adaptive | rules.Aimd]:
    """A policy's name and its rule; kind: what averages are compared, or a window's variant."""
    if kind in ("add", "double"):
        start, cap = rng.randint(1, 3), rng.choice([4, 32])
        return f"aimd:variant={kind},start={start},cap={cap}", rules.Aimd(kind, start, cap)
    chosen = rng.choice([(1, 9, 0.5, 4, kind), (20, 30, 0.5, 10, kind), (0, 255, 0.7, 3, kind)])
    return spec_of(*chosen), rule_of(*chosen)


@pytest.mark.parametrize("kind", ["last", "average", "add", "double"])
@pytest.mark.parametrize("seed", range(20))
def test_long_rollouts_that_move_and_are_preempted(kind: str, seed: int) -> None:
    """Hundreds of steps each; after every few tokens a rollout may be on another replica."""
    rng = random.Random(seed)
    spec, rule = drawn_rule(rng, kind)
    rollouts = [random_rollout(rng, rng.randint(0, 30), rng.randint(1, 400)) for _ in range(24)]
    limited = Serving(
        num_gpu_blocks=160, block_size=4, enable_prefix_caching=bool(seed % 2), async_scheduling=seed % 3 == 0
    )
    where = Deployment(
        PROFILE, 5, 3, rng.choice(["divided:stay=7", "divided:stay=40"]), serving=rng.choice([ANYTHING, limited])
    )
    asked = Asked(rule)
    outcomes = [
        simulate(workload_of(rollouts, np.arange(24) // 4), policy, where, check=True)
        for policy in (resolve_policy(spec, context_of(PROFILE, 5)), asked)
    ]
    assert_equal(*outcomes)
    assert len(asked.given) > 1, "lengths moved"
    assert max(map(len, asked.replicas.values())) > 1, "some rollouts moved"


@pytest.mark.parametrize("seed", range(10))
def test_drafts_that_depend_on_their_budget_are_made_when_it_is_chosen(seed: int) -> None:
    rng = random.Random(seed)
    rollouts = [random_rollout(rng, rng.randint(0, 9), rng.randint(1, 90), by_budget=True) for _ in range(12)]
    assert set(range(4)) <= set(BUDGETS)
    chosen = (rng.randint(0, 1), rng.randint(2, 3), 0.5, 1, rng.choice(["last", "average"]))
    where = Deployment(PROFILE, 4, 2, rng.choice(["divided:stay=9", "static"]), data_parallel_size=1 + seed % 2)
    asked = Asked(rule_of(*chosen))
    workloads = [workload_of(rollouts) for _ in range(2)]
    policies = resolve_policy(spec_of(*chosen), context_of(PROFILE, 4)), asked
    assert_equal(*(simulate(load, policy, where, check=True) for load, policy in zip(workloads, policies, strict=True)))
    assert [set(np.flatnonzero(load.acceptance.table_of >= 0)) for load in workloads] == [asked.given | {0}] * 2


@pytest.mark.parametrize("compare", ["last", "average"])
def test_a_rollout_that_comes_back_is_known_by_what_it_did_elsewhere(compare: str) -> None:
    """A rollout goes to and fro between two replicas, and finds each as it left it."""
    rollouts = [random_rollout(random.Random(4), 3, 200)]

    def to_and_fro(event: Event, view: View) -> list[Place]:
        return [Place(event.rollouts, 1 - max(event.replica, 0), 9)] if event.kind in ("start", "left") else []

    chosen = (1, 9, 0.5, 4, compare)
    asked = Asked(rule_of(*chosen))
    outcomes = [
        simulate(workload_of(rollouts), policy, Deployment(PROFILE, 1, 2, to_and_fro), check=True)
        for policy in (resolve_policy(spec_of(*chosen), context_of(PROFILE, 1)), asked)
    ]
    assert_equal(*outcomes)
    assert asked.replicas == {0: {0, 1}}


def test_it_chooses_for_each_rollout_and_draws_nothing() -> None:
    adaptive, bandit = (resolve_policy(spec, context_of(PROFILE, 4)) for spec in ("adaptive", "bandit"))
    assert isinstance(adaptive, Chooses)
    assert isinstance(bandit, Chooses)
    assert (adaptive.way, bandit.way) == (FOR_EACH, FOR_BATCH)
    assert (isinstance(adaptive, Supplies), isinstance(bandit, Supplies)) == (False, True)
    assert adaptive.budgets.tolist() == [30]
