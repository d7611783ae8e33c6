"""Clusters whose placement moves, holds and cancels rollouts, against the plain reference cluster, bit for bit."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import simpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.budgets.policy import BudgetPolicy, by_live
from simulator.engine.clock import OTHERS, Clock
from simulator.engine.cluster import Cluster, Outcome, simulate
from simulator.engine.deployment import Deployment
from simulator.scheduling.placement import Cancel, Event, Place, View
from tests.engine.test_serving import PROFILE, WORK, cost, policy_of, serving_of, workload_of
from tests.reference import cluster as reference
from tests.reference.serving import Request, Settings
from tests.reference.test_serving_invariants import scenarios

PULL_S = 2**-5
Told = tuple[float, str, tuple[int, ...], int]


class Rule:
    """Decides by what it is told and sees, and by nothing else: stays, moves, holds, cancels. Both sides share one each."""

    def __init__(self, seed: int, replicas: int, ahead: bool, turns: bool) -> None:
        self.seed, self.replicas, self.ahead, self.turns, self.pulls = seed, replicas, ahead, turns, seed % 2 == 0
        self.until_s = np.inf
        self.told: list[Told] = []
        self.held: list[int] = []
        self.known: list[int] = []

    def decide(
        self, kind: str, rollouts: Sequence[int], replica: int, time_s: float, seen: Sequence[Sequence[int]]
    ) -> Any:
        """(what, rollout, replica, stay, kv) of each decision."""
        if time_s > self.until_s:  # the reference goes on telling what steps under way finish
            return
        self.told.append((time_s, kind, tuple(rollouts), replica))
        if (
            self.ahead
        ):  # a step is scheduled while the one before runs: who is in the batch by then is a matter of definition
            seen = seen[3:] if self.turns else [[a + b for a, b in zip(seen[0], seen[1], strict=True)], *seen[2:]]
        rng = random.Random(repr((self.seed, kind, list(rollouts), replica, [list(one) for one in seen])))
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
    requests: list[Request], limits: Settings, replicas: int, rule: Rule, begun: list[int] | None, arrivals: bool,
    ranks: int = 1, policy: BudgetPolicy | None = None,
) -> tuple[Cluster, Outcome]:  # fmt: skip
    load = workload_of(requests, arrivals)
    if begun is not None:
        load = replace(load, begun=np.array(begun))
    clock = Clock()
    serving = serving_of(limits)
    where = Deployment(
        PROFILE,
        limits.max_num_seqs,
        replicas,
        rule.here,
        serving=serving,
        pull_s_per_token=PULL_S,
        data_parallel_size=ranks,
    )
    cluster = Cluster(clock, load, policy or policy_of(limits), where, check=True)
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
        paged
        or limits.async_scheduling
        or limits.max_num_batched_tokens
        or limits.max_model_len
        or arrivals
        or any(r.turns for r in requests)
    )


@settings(max_examples=1500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(clusters())
def test_moves_are_those_of_the_reference(
    drawn: tuple[list[Request], Settings, int, list[int] | None, bool, int],
) -> None:
    requests, limits, replicas, begun, arrivals, seed = drawn
    turns = any(request.turns for request in requests)
    rules = [Rule(seed, replicas, limits.async_scheduling, turns) for _ in range(2)]
    expected = reference.simulate(
        requests, limits, cost, replicas, rules[1].there, PULL_S, begun, arrivals,
        by_number=not is_plain(limits, requests, arrivals),
    )  # fmt: skip
    _, outcome = simulated(requests, limits, replicas, rules[0], begun, arrivals)
    assert rules[0].told == rules[1].told
    compare(outcome, expected)


@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    clusters(),
    st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.75, 4.0]), min_size=1, max_size=3),
    st.sampled_from([0.75, 1.5, 3.0]),
)
def test_what_is_submitted_late_and_stopped_is_as_in_the_reference(
    drawn: tuple[list[Request], Settings, int, list[int] | None, bool, int], later_s: list[float], stop_s: float
) -> None:
    late_and_stopped(drawn, later_s, stop_s)


def late_and_stopped(
    drawn: tuple[list[Request], Settings, int, list[int] | None, bool, int],
    later_s: list[float],
    stop_s: float,
    ranks: int = 1,
) -> None:
    """Some rollouts are submitted at times of their own, and at some time everything is stopped with the tokens that it has."""
    requests, limits, replicas, begun, _, seed = drawn
    replicas *= ranks
    limits = replace(limits, async_scheduling=False)
    rules = [Rule(seed - seed % 3, replicas, False, False) for _ in range(2)]
    rules[1].until_s = stop_s
    late = {at_s: list(range(1 + i, len(requests), 5)) for i, at_s in enumerate(sorted(set(later_s))) if at_s < stop_s}
    first = [i for i in range(len(requests)) if not any(i in rollouts for rollouts in late.values())]

    env = simpy.Environment(0.0)
    by_number = not is_plain(limits, requests, False)
    there = reference.Cluster(env, requests, limits, cost, replicas, rules[1].there, PULL_S, begun, by_number, ranks)
    there.start(first)
    for at_s, rollouts in late.items():
        env.process(there.submission(rollouts, at_s))
    quiet = []

    def stopping(env: simpy.Environment) -> Any:
        yield env.timeout(stop_s)
        yield there.stop()
        quiet.append(env.now)

    env.process(stopping(env))
    env.run()

    load = workload_of(requests, arrivals=False)
    load = load if begun is None else replace(load, begun=np.array(begun))
    clock = Clock()
    serving = serving_of(limits)
    where = Deployment(
        PROFILE,
        limits.max_num_seqs,
        replicas,
        rules[0].here,
        serving=serving,
        pull_s_per_token=PULL_S,
        data_parallel_size=ranks,
    )
    here = Cluster(clock, load, policy_of(limits), where, True, lambda finished: None, np.array(first, np.int64))

    def others() -> Any:
        for at_s, rollouts in late.items():
            yield clock.at(at_s, OTHERS)
            here.submit(np.array(rollouts, np.int64))
        yield clock.at(stop_s, OTHERS)
        here.stop()

    clock.process(here.decode())
    clock.process(others())
    clock.run()
    assert rules[0].told == rules[1].told
    compare(here.outcome(), there.result())
    assert here.quiet_s == quiet[0]


def test_the_next_phase_carries_on_where_the_last_was_stopped() -> None:
    """Stopped again and again, with nothing but the tokens kept, every rollout ends with the tokens that it has."""
    requests = [Request(3, 4 + 5 * i) for i in range(6)]
    begun, emitted = np.zeros(6, np.int64), np.zeros(6, np.int64)
    lengths = np.array([request.output_tokens for request in requests])
    for _ in range(40):
        mine = np.flatnonzero(begun < lengths)
        if not mine.size:
            break
        load = replace(workload_of([requests[i] for i in mine], arrivals=False), begun=begun[mine])
        clock = Clock()
        cluster = Cluster(
            clock, load, by_live([0]), Deployment(PROFILE, 2, 2, "divided:stay=3"), True, lambda finished: None
        )

        def stopping(cluster: Cluster = cluster, clock: Clock = clock) -> Any:
            yield clock.at(1.0, OTHERS)
            cluster.stop()

        clock.process(cluster.decode())
        clock.process(stopping())
        clock.run()
        ended = cluster.ledger.rollouts
        after = np.where(np.isnan(ended["finished_s"]), ended["position"], ended["end"]) - ended["start"]
        emitted[mine] += after - begun[mine]
        assert sum(log["emitted_tokens"].sum() for log in cluster.outcome().logs) == (after - begun[mine]).sum()
        begun[mine] = after
    assert (emitted == lengths).all()


def test_a_placement_is_told_only_of_what_it_asks_for() -> None:
    told: list[str] = []

    class Quiet:
        events = frozenset({"start", "left"})
        name = "quiet"

        def __call__(self, event: Event, view: View) -> list[Place]:
            told.append(event.kind)
            return [Place(event.rollouts, stay_tokens=2)]

    simulate(
        workload_of([Request(1, 5)] * 3, arrivals=False), by_live([0]), Deployment(PROFILE, 3, 2, Quiet()), check=True
    )
    assert set(told) == {"start", "left"}


@pytest.mark.parametrize("seed", range(3))
def test_replicas_that_go_ahead_and_together_agree(seed: int) -> None:
    """The common queue, served ahead of the clock and in step with it."""
    rng = np.random.default_rng(seed)
    load = workload_of([Request(2, int(n)) for n in rng.integers(1, 60, 40)], arrivals=False)

    def shared(event: Event, view: View) -> list[Place]:
        return [Place(event.rollouts)] if event.kind == "start" else []

    ahead, together = (
        simulate(load, by_live([0]), Deployment(PROFILE, 3, 4, where), check=True) for where in ("shared", shared)
    )
    assert ahead.rollouts["finished_s"].tolist() == together.rollouts["finished_s"].tolist()
    assert ahead.rollouts["replica"].tolist() == together.rollouts["replica"].tolist()


@pytest.mark.parametrize("seed", range(6))
def test_who_is_told_of_groups_alone_sees_what_who_is_told_of_each_rollout_does(seed: int) -> None:
    """Rollouts of 8 groups, stopped when half of the groups are whole; somebody else looks at times that tell nothing."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(8), 12))
    requests = [Request(2, int(n)) for n in rng.integers(1, 60, group.size)]
    looks_s = np.sort(rng.uniform(0, 40, 3)).tolist()

    def played(by_group: bool) -> tuple[Outcome, list[set[int]], int]:
        clock, missing, told, seen, calls = Clock(), np.bincount(group), set[int](), list[set[int]](), itertools.count()

        def listener(finished: list[int]) -> None:
            next(calls)
            whole = (missing == 0).sum()
            told.update(finished)
            np.subtract.at(missing, group[finished], 1)
            if (missing == 0).sum() > whole:
                seen.append(set(told))
            if (missing == 0).sum() >= 4:
                cluster.stop()

        def looking() -> Any:
            for at_s in looks_s:
                yield clock.at(at_s, OTHERS)
                seen.append(set(told))

        where, load = Deployment(PROFILE, 3, 4, "shared"), workload_of(requests, arrivals=False)
        groups = (group, np.bincount(group)) if by_group else None
        cluster = Cluster(clock, load, by_live([0]), where, True, listener, groups=groups)
        clock.process(cluster.decode())
        clock.process(looking())
        clock.run()
        return cluster.outcome(), seen, next(calls)

    (each, seen, calls), (by_group, seen_by_group, calls_by_group) = played(False), played(True)
    assert each.rollouts.tobytes() == by_group.rollouts.tobytes()
    assert [log[:].tobytes() for log in each.logs] == [log[:].tobytes() for log in by_group.logs]
    assert seen == seen_by_group
    assert calls_by_group <= len(seen) < calls


def test_pulled_rollouts_that_land_together_join_in_the_order_sent() -> None:
    left: list[list[int]] = []

    class Twice:
        """Two rollouts leave replica 0 together, and are sent to replica 1 the later one first."""

        def here(self, event: Event, view: View) -> list[Place]:
            if event.kind == "start":
                return [Place(event.rollouts, 0, 1)]
            if event.kind != "left":
                return []
            left.append(event.rollouts.tolist())
            return [Place(rollout, 1, 1, "pull") for rollout in event.rollouts.tolist()[:: -1 if len(left) == 1 else 1]]

    requests = [Request(3, 4), Request(3, 4)]
    simulated(requests, Settings(2, enable_prefix_caching=False), 2, Twice(), None, False)  # type: ignore[arg-type]
    assert left == [[0, 1], [1, 0], [1, 0]]
