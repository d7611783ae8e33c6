"""Clusters whose placement moves, holds and cancels rollouts, against the plain reference cluster, bit for bit."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.budgets.policy import by_live
from simulator.engine.clock import Clock
from simulator.engine.cluster import Cluster, Outcome
from simulator.engine.deployment import Deployment
from simulator.scheduling.placement import Cancel, Event, Place, View
from tests.engine.test_serving import PROFILE, WORK, cost, serving_of, workload_of
from tests.reference import cluster as reference
from tests.reference.serving import Request, Settings
from tests.reference.test_serving_invariants import scenarios

PULL_S = 2**-5
Told = tuple[float, str, tuple[int, ...], int]


class Rule:
    """Decides by what it is told and sees, and by nothing else: stays, moves, holds, cancels. Both sides share one each."""

    def __init__(self, seed: int, replicas: int, ahead: bool) -> None:
        self.seed, self.replicas, self.ahead, self.pulls = seed, replicas, ahead, seed % 2 == 0
        self.told: list[Told] = []
        self.held: list[int] = []
        self.known: list[int] = []

    def decide(
        self, kind: str, rollouts: Sequence[int], replica: int, time_s: float, seen: Sequence[Sequence[int]]
    ) -> Any:
        """(what, rollout, replica, stay, kv) of each decision."""
        self.told.append((time_s, kind, tuple(rollouts), replica))
        if (
            self.ahead
        ):  # a step is scheduled while the one before runs: who is in the batch by then is a matter of definition
            seen = [[a + b for a, b in zip(seen[0], seen[1], strict=True)], *seen[2:]]
        rng = random.Random(repr((self.seed, kind, list(rollouts), replica, time_s, [list(one) for one in seen])))
        if kind != "finished":
            self.held += rollouts
        if kind in ("start", "arrival"):
            self.known += rollouts
        rng.shuffle(self.held)
        holds = self.seed % 3 == 0 and kind in ("arrival", "left") and len(self.held) > 1 and rng.random() < 0.3
        keep = int(holds)
        placed, self.held = self.held[keep:], self.held[:keep]
        for rollout in placed:
            where = rng.choice([-1, -1, *range(self.replicas)])
            kv = "pull" if self.pulls and rng.random() < 0.5 else "recompute"
            yield "place", rollout, where, rng.choice([0, 0, 1, 2, 3, 5]), kv
        if not self.ahead and self.seed % 3 and self.known and rng.random() < 0.15:
            chosen = rng.choice(self.known)
            if chosen not in self.held:
                yield "cancel", chosen, 0, 0, ""

    def here(self, event: Event, view: View) -> list[Place | Cancel]:
        """As the engine asks."""
        running, waiting, room, _ = view.loads
        seen = [running.tolist(), waiting.tolist(), room.tolist(), view.emitted_tokens.tolist(), [view.queued]]
        answers = self.decide(event.kind, event.rollouts.tolist(), event.replica, view.time_s, seen)
        return [
            Place(rollout, where, stay, kv) if what == "place" else Cancel(rollout)
            for what, rollout, where, stay, kv in answers
        ]

    def there(self, event: reference.Event, view: reference.View) -> list[reference.Place | reference.Cancel]:
        """As the reference asks."""
        seen = [view.running, view.waiting, view.room, view.emitted, [len(view.queue)]]
        replica = -1 if event.replica is None else event.replica
        answers = self.decide(event.kind, list(event.rollouts), replica, view.time_s, seen)
        return [
            reference.Place(rollout, where, stay, kv) if what == "place" else reference.Cancel(rollout)
            for what, rollout, where, stay, kv in answers
        ]


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Request], Settings, int, list[int] | None, bool, int]:
    """Requests and limits of a replica, and replicas, tokens emitted before, whether they arrive as they say, a seed."""
    requests, limits = draw(scenarios())
    more, _ = draw(scenarios())
    fits = max(max(r.prompt_tokens, 1) + r.output_tokens for r in requests)
    requests += [r for r in more if max(r.prompt_tokens, 1) + r.output_tokens <= fits and not r.keys]
    if draw(st.booleans()):
        requests = [replace(request, turns=()) for request in requests]
    begun = [draw(st.integers(0, r.output_tokens - 1)) for r in requests] if draw(st.booleans()) else None
    if draw(st.booleans()):  # nothing but slots
        requests = [replace(request, turns=(), keys=()) for request in requests]
        limits = Settings(draw(st.integers(1, 4)), enable_prefix_caching=False, budget=limits.budget)
    return requests, limits, draw(st.integers(1, 3)), begun, draw(st.booleans()), draw(st.integers(0, 2**31))


def simulated(
    requests: list[Request], limits: Settings, replicas: int, rule: Rule, begun: list[int] | None, arrivals: bool
) -> tuple[Cluster, Outcome]:
    load = workload_of(requests, arrivals)
    if begun is not None:
        load = replace(load, begun=np.array(begun))
    clock = Clock()
    serving = serving_of(limits)
    where = Deployment(PROFILE, limits.max_num_seqs, replicas, rule.here, serving=serving, pull_s_per_token=PULL_S)
    cluster = Cluster(clock, load, by_live([limits.budget]), where, check=True)
    clock.process(cluster.decode())
    clock.run()
    return cluster, cluster.outcome()


def compare(outcome: Outcome, expected: reference.ClusterResult) -> None:
    ended = outcome.rollouts
    for log, steps in zip(outcome.logs, expected.log, strict=True):
        assert log["start_s"].tolist() == [step.start_s for step in steps]
        assert log["duration_s"].tolist() == [step.dt_s for step in steps]
        for name in WORK:
            assert log[name].tolist() == [getattr(step.work, name) for step in steps], name
        assert log["emitted_tokens"].tolist() == [step.emitted_tokens for step in steps]
        assert log["preempted"].tolist() == [step.preempted for step in steps]
    called = {"preempted": "preemptions", "cached": "hit_tokens"}
    for name in ("admitted_s", "first_token_s", "finished_s"):
        np.testing.assert_array_equal(ended[name], getattr(expected, name), name)
    began = ~np.isnan(ended["admitted_s"])
    np.testing.assert_array_equal(ended["queued_s"][began], np.array(expected.queued_s)[began])
    for name in ("preempted", "cached", "recomputed", "steps", "drafted", "accepted", "replica"):
        assert ended[name].tolist() == getattr(expected, called.get(name, name)), name
    finished = ~np.isnan(ended["finished_s"])
    emitted = np.where(finished, ended["end"], ended["position"]) - ended["start"]
    assert emitted.tolist() == expected.emitted


def is_plain(limits: Settings, requests: list[Request], arrivals: bool) -> bool:
    paged = limits.num_gpu_blocks is not None or limits.enable_prefix_caching
    return not (
        paged or limits.async_scheduling or limits.max_num_batched_tokens or arrivals or any(r.turns for r in requests)
    )


@settings(max_examples=1500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(clusters())
def test_moves_are_those_of_the_reference(
    drawn: tuple[list[Request], Settings, int, list[int] | None, bool, int],
) -> None:
    requests, limits, replicas, begun, arrivals, seed = drawn
    rules = [Rule(seed, replicas, limits.async_scheduling) for _ in range(2)]
    expected = reference.simulate(
        requests, limits, cost, replicas, rules[1].there, PULL_S, begun, arrivals,
        by_number=not is_plain(limits, requests, arrivals),
    )  # fmt: skip
    _, outcome = simulated(requests, limits, replicas, rules[0], begun, arrivals)
    assert rules[0].told == rules[1].told
    compare(outcome, expected)
