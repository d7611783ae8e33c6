"""Another version of the drafter in the middle of rollouts, and the pause before it, against the plain reference, bit for bit."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import simpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.budgets.policy import by_live
from simulator.engine.clock import OTHERS, Clock
from simulator.engine.cluster import Cluster
from simulator.engine.deployment import Deployment
from tests.engine.test_cluster import PULL_S, Rule, clusters, compare, is_plain
from tests.engine.test_serving import PROFILE, cost, serving_of, workload_of
from tests.engine.workloads import Hidden, assert_equal
from tests.reference import cluster as reference
from tests.reference.cluster import Turn
from tests.reference.serving import Request, Settings

Drafts = list[tuple[list[int], list[int]]]
Drawn = tuple[list[Request], Settings, int, list[int] | None, bool, int]
SWAPS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, 1.75, 4.0]), st.sampled_from([0.0, 0.125, 0.5, 3.0])),
    min_size=1, max_size=4,
)  # fmt: skip


def other_drafts(rng: random.Random, requests: list[Request]) -> Drafts:
    """Drafts of another version for every rollout."""
    found = []
    for request in requests:
        tokens = request.output_tokens
        drafted = [rng.randint(0, 3) for _ in range(tokens)]
        found.append(([rng.randint(0, min(d, tokens - p)) for p, d in enumerate(drafted)], drafted))
    return found


def there_with_swaps(
    drawn: Drawn, rule: Rule, swaps: list[tuple[float, float, Drafts]], ranks: int
) -> reference.ClusterResult:
    requests, limits, replicas, begun, arrivals, _ = drawn
    env = simpy.Environment(0.0)
    by_number = not is_plain(limits, requests, arrivals)
    there = reference.Cluster(env, requests, limits, cost, replicas, rule.there, PULL_S, begun, by_number, ranks)
    there.start([] if arrivals else range(len(requests)))
    for at_s in sorted({request.arrival_s for request in requests}) if arrivals else []:
        env.process(there.submission([i for i, r in enumerate(requests) if r.arrival_s == at_s], at_s))

    def swapping() -> Any:
        for at_s, pause_s, drafts in swaps:
            yield Turn(env, there.ranks.stop, at_s - env.now)
            there.swap(drafts, pause_s)

    env.process(swapping())
    env.run()
    return there.result()


def here_with_swaps(
    drawn: Drawn, rule: Rule, swaps: list[tuple[float, float, Drafts]], ranks: int, policy: Any = None
) -> Any:
    requests, limits, replicas, begun, arrivals, _ = drawn
    load = workload_of(requests, arrivals)
    load = load if begun is None else replace(load, begun=np.array(begun))
    clock = Clock()
    where = Deployment(
        PROFILE, limits.max_num_seqs, replicas, rule.here, serving=serving_of(limits), pull_s_per_token=PULL_S,
        data_parallel_size=ranks,
    )  # fmt: skip
    here = Cluster(clock, load, policy or by_live([limits.budget]), where, True, lambda finished: None)

    def swapping() -> Any:
        for at_s, pause_s, drafts in swaps:
            yield clock.at(at_s, OTHERS)
            version = workload_of([
                replace(request, accepted=accepted, drafted=drafted)
                for request, (accepted, drafted) in zip(requests, drafts, strict=True)
            ])  # fmt: skip
            here.swap(version.acceptance, pause_s)

    clock.process(here.decode())
    clock.process(swapping())
    clock.run()
    return here.outcome()


@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(clusters(), SWAPS, st.sampled_from([1, 1, 1, 2]))
def test_swaps_are_those_of_the_reference(drawn: Drawn, swaps: list[tuple[float, float]], ranks: int) -> None:
    requests, limits, replicas, begun, arrivals, seed = drawn
    limits = replace(limits, async_scheduling=False)
    drawn = (requests, limits, replicas * ranks, begun, arrivals, seed)
    turns = any(request.turns for request in requests)
    rng = random.Random(seed)
    versions = [(at_s, pause_s, other_drafts(rng, requests)) for at_s, pause_s in sorted(swaps)]
    rules = [Rule(seed, replicas * ranks, False, turns) for _ in range(2)]
    expected = there_with_swaps(drawn, rules[1], versions, ranks)
    outcome = here_with_swaps(drawn, rules[0], versions, ranks)
    assert rules[0].told == rules[1].told
    if is_plain(limits, requests, arrivals):  # when the engine first looked is booked when a rollout is placed
        outcome.rollouts["queued_s"] = expected.queued_s
    compare(outcome, expected)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(clusters(), SWAPS, st.sampled_from([0, 1, 3]))
def test_a_policy_that_is_asked_is_asked_in_time(drawn: Drawn, swaps: list[tuple[float, float]], every: int) -> None:
    """Budgets that a policy answers do what the same ones in a table do, whatever pauses there are."""
    requests, limits, replicas, begun, arrivals, seed = drawn
    requests = [replace(request, turns=()) for request in requests]
    drawn = (requests, replace(limits, async_scheduling=False), replicas, begun, arrivals, seed)
    rng = random.Random(seed)
    versions = [(at_s, pause_s, other_drafts(rng, requests)) for at_s, pause_s in sorted(swaps)]
    asked = Hidden(lambda view: np.full(view.live, limits.budget), every)
    outcomes = [
        here_with_swaps(drawn, Rule(seed, replicas, True, True), versions, 1, policy) for policy in (None, asked)
    ]
    assert_equal(*outcomes)


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(clusters(), SWAPS)
def test_nothing_is_lost_under_async_scheduling(drawn: Drawn, swaps: list[tuple[float, float]]) -> None:
    """What was scheduled ahead of a pause is scheduled anew after it; no step begins within one."""
    requests, limits, replicas, begun, arrivals, seed = drawn
    drawn = (requests, replace(limits, async_scheduling=True), replicas, begun, arrivals, seed)
    rng = random.Random(seed)
    versions = [(at_s, pause_s, other_drafts(rng, requests)) for at_s, pause_s in sorted(swaps)]
    outcome = here_with_swaps(drawn, Rule(seed, replicas, True, True), versions, 1)
    assert not np.isnan(outcome.rollouts["finished_s"]).any()
    at_s, pause_s, _ = versions[-1]
    for log in outcome.logs:
        after = log["start_s"] >= at_s
        assert (log["start_s"][after] >= at_s + pause_s).all()
