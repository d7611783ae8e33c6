"""Ranked groups against the same rules in plain Python, and the balance of their parts against trying all."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from simulator.budgets.context import Context
from simulator.budgets.policy import by_live
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.scheduling.placement import Event, View
from simulator.scheduling.ranked import Expected, balanced
from simulator.scheduling.resolve import resolve_placement
from tests.engine.test_cluster import PULL_S, clusters, compare, is_plain
from tests.engine.test_serving import PROFILE, cost, serving_of, workload_of
from tests.reference import cluster as reference
from tests.reference.serving import Request, Settings, Work
from tests.scheduling.test_context_aware import made, took
from tests.theory.test_rl_step import SECOND
from traces.errors import InputError

History = dict[int, list[int]]
"""Lengths of each prompt's rollouts, oldest first."""


class Plain:
    """The rules as they are written."""

    def __init__(
        self, group: Sequence[int], begun: Sequence[int], history: History, slots: int, replicas: int, ascending: bool,
        even: bool, migrate: float, kv: str,
    ) -> None:  # fmt: skip
        self.group, self.begun, self.history, self.slots, self.replicas = group, begun, history, slots, replicas
        self.ascending, self.even, self.migrate, self.kv = ascending, even, migrate, kv

    def __call__(self, event: reference.Event, view: reference.View) -> list[reference.Place]:
        loads = [a + b for a, b in zip(view.running, view.waiting, strict=True)]
        if event.kind == "start":
            return self.start(list(event.rollouts))
        decisions = list[reference.Place]()
        if event.kind == "left" and self.migrate:
            longer = [i for i in range(self.replicas) if (i > event.replica) == self.ascending and i != event.replica]
            for rollout in event.rollouts:
                chosen = min(longer, key=lambda i: (loads[i], i))
                loads[chosen] += 1
                decisions.append(reference.Place(rollout, chosen, 0, self.kv))
        if event.kind == "arrival":
            loads = [4 * waiting + running for waiting, running in zip(view.waiting, view.running, strict=True)]
            for rollout in event.rollouts:
                chosen = min(range(self.replicas), key=lambda i: (loads[i], i))
                loads[chosen] += 4
                decisions.append(reference.Place(rollout, chosen))
        return decisions

    def start(self, rollouts: list[int]) -> list[reference.Place]:
        members: dict[int, list[int]] = {}
        for rollout in rollouts:
            members.setdefault(self.group[rollout], []).append(rollout)
        last = {g: self.history.get(g, [])[-len(members[g]) :] for g in members}
        known = [sum(last[g]) / len(last[g]) for g in members if last[g]]
        self.mean = {g: sum(last[g]) / len(last[g]) if last[g] else max(known, default=0.0) for g in members}
        order = sorted(members, key=lambda g: (self.mean[g], members[g][0]))
        parts = self.evenly(order) if self.even or not known else self.balanced(order, members)
        decisions = list[reference.Place]()
        for rank, groups in enumerate(parts):
            lengths = sorted(length for g in groups for length in last[g])
            most = 0
            if lengths and self.migrate and rank < self.replicas - 1:
                may = [n for n in lengths if sum(length > n for length in lengths) <= self.migrate * len(lengths)]
                most = min(may)
            replica = rank if self.ascending else self.replicas - 1 - rank
            mine = [i for i in rollouts if self.group[i] in groups]
            for rollout in sorted(mine, key=lambda i: -self.mean[self.group[i]]):
                decisions.append(reference.Place(rollout, replica, max(most - self.begun[rollout], 0)))
        return decisions

    def evenly(self, order: list[int]) -> list[list[int]]:
        each, more = divmod(len(order), self.replicas)
        ends = list(itertools.accumulate([each + (i < more) for i in range(self.replicas)], initial=0))
        return [order[a:b] for a, b in itertools.pairwise(ends)]

    def balanced(self, order: list[int], members: dict[int, list[int]]) -> list[list[int]]:
        """The least time by which all parts, filled from the longest groups down, are done."""
        tokens = sum(self.mean[g] * len(members[g]) for g in order)
        half = tokens / sum(len(members[g]) for g in order) / 2

        def seconds(groups: list[int]) -> float:
            count = sum(len(members[g]) for g in groups)
            steps = max(self.mean[groups[-1]], sum(self.mean[g] * len(members[g]) for g in groups) / self.slots)
            live = min(count, self.slots)
            kv = int(live * half)
            longest = kv / live
            return steps * cost(Work(live, live, kv, kv, 0, 0, 0, 0, longest, live))  # type: ignore[arg-type]

        def filled(most_s: float) -> list[list[int]]:
            left, parts = list(order), []
            for _ in range(self.replicas):
                part: list[int] = []
                while left and (not part or seconds([left[-1], *part]) <= most_s * (1 + 1e-12)):
                    part = [left.pop(), *part]
                parts.append(part)
            return [left, *parts[::-1]] if left else parts[::-1]

        spans = [order[a:b] for a in range(len(order)) for b in range(a + 1, len(order) + 1)]
        for most_s in sorted(seconds(span) for span in spans):
            if len(found := filled(most_s)) == self.replicas:
                return found
        raise AssertionError("all in one part is possible")


@settings(
    max_examples=500,
    deadline=None,
    derandomize=True,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
@given(clusters())
def test_decisions_are_those_of_the_rules(
    drawn: tuple[list[Request], Settings, int, list[int] | None, bool, int],
) -> None:
    requests, limits, replicas, begun, arrivals, seed = drawn
    rng = random.Random(seed)
    migrate = rng.choice([0, 0.1, 0.25, 0.5, 1])
    if limits.async_scheduling or migrate == 0:
        requests = [replace(request, turns=()) for request in requests]
    begun = begun if migrate else None
    if limits.async_scheduling:
        arrivals = False  # what has arrived and is not looked at yet is counted at another moment
    load = workload_of(requests, arrivals)
    if not limits.enable_prefix_caching:
        load = replace(load, prompt=np.array([rng.randrange(4) for _ in requests]))
    load = load if begun is None else replace(load, begun=np.array(begun))
    history: History = {
        g: [rng.randint(1, 8) for _ in range(rng.randint(0, 4))]
        for g in set(load.prompt.tolist())
        if rng.random() < 0.8
    }
    rl_step, order, split = rng.randrange(2), rng.choice(["ascending", "descending", "alternate"]), rng.random() < 0.5
    kv = rng.choice(["pull", "recompute"])
    flat = [(g, n) for g, lengths in history.items() for n in lengths]
    context = Context(
        int(load.prompt.max()) + 1, np.array([g for g, _ in flat], np.int64), np.array([n for _, n in flat], np.int64),
        PROFILE, limits.max_num_seqs, lambda: None, rl_step=rl_step,
    )  # fmt: skip
    spec = f"ranked:order={order},split={'even' if split else 'balanced'},migrate={migrate},kv={kv}"
    ascending = order == "ascending" or (order == "alternate" and rl_step == 0)
    started = [0] * len(requests) if begun is None else begun
    plain = Plain(load.prompt.tolist(), started, history, limits.max_num_seqs, replicas, ascending, split, migrate, kv)
    # whoever is placed at one instant queues in that order where replicas go ahead or have slots alone, else by number
    in_order = is_plain(limits, requests, arrivals) or (migrate == 0 and not arrivals)
    expected = reference.simulate(
        requests, limits, cost, replicas, plain, PULL_S, begun, arrivals, by_number=not in_order
    )
    deployment = Deployment(
        PROFILE, limits.max_num_seqs, replicas, resolve_placement(spec, context), serving=serving_of(limits),
        pull_s_per_token=PULL_S,
    )  # fmt: skip
    compare(simulate(load, by_live([limits.budget]), deployment, check=True), expected)


class Seen(View):
    """A view that knows its replicas and slots alone."""

    def __init__(self, replicas: int, slots: int) -> None:
        self.replicas, self.max_num_seqs = replicas, slots


@pytest.mark.parametrize("seed", range(60))
def test_parts_are_as_balanced_as_can_be(seed: int) -> None:
    """No other way to cut the ranked groups has its last part done sooner, unless by what a wave of slots rounds away."""
    rng = np.random.default_rng(seed)
    groups, replicas, slots = int(rng.integers(1, 9)), int(rng.integers(1, 5)), int(rng.integers(2, 40))
    mean, sizes = np.sort(rng.lognormal(4, 0.8, groups)), rng.integers(1, 5, groups)
    context = Context(1, np.zeros(0, np.int64), np.zeros(0, np.int64), PROFILE, slots, lambda: None)
    expected = Expected(mean, sizes, slots, context)

    def last_s(begins: Sequence[int]) -> float:
        cuts = [0, *begins, groups]
        return max(expected.seconds(a, b) for a, b in itertools.pairwise(cuts) if a < b)

    best = min(last_s(sorted(cuts)) for cuts in itertools.product(range(groups + 1), repeat=replicas - 1))
    found = balanced(mean, sizes, Seen(replicas, slots), context)
    assert found == sorted(found)
    assert best <= last_s(found) <= best * (1 + 1e-9)
    assert np.diff([0, *found, groups]).min() >= 0


def test_long_groups_get_more_replicas() -> None:
    mean, sizes = np.geomspace(100, 10_000, 32), np.full(32, 4)
    context = Context(1, np.zeros(0, np.int64), np.zeros(0, np.int64), PROFILE, 256, lambda: None)
    groups = np.diff([0, *balanced(mean, sizes, Seen(4, 256), context), 32])
    assert (np.diff(groups) < 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_without_a_history_it_is_static_to_the_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    load = made(np.arange(40), rng.integers(1, 60, 40))
    off, plain = (
        simulate(load, by_live([0]), Deployment(PROFILE, 3, 4, placement), check=True)
        for placement in ("ranked:order=ascending", "static")
    )
    assert off.rollouts.tobytes() == plain.rollouts.tobytes()
    assert all((a[:] == b[:]).all() for a, b in zip(off.logs, plain.logs, strict=True))


def test_only_overlong_rollouts_move_and_none_twice() -> None:
    """As many as the share promises where history repeats itself, and they end on replicas of longer groups."""
    rng = np.random.default_rng(4)
    prompt = np.repeat(np.arange(40), 5)
    lengths = np.rint(np.repeat(rng.lognormal(4, 0.7, 40), 5) * rng.lognormal(0, 0.2, 200)).astype(np.int64) + 1
    context = Context(40, prompt, lengths, SECOND, 64, lambda: None)
    placement: Any = resolve_placement("ranked:order=ascending,split=even,migrate=0.1", context)
    moved = dict[int, tuple[int, int]]()

    def spy(event: Event, view: View) -> Any:
        decisions = list(placement(event, view))
        for place in decisions if event.kind == "left" else []:
            assert place.rollout not in moved
            moved[place.rollout] = (event.replica, place.replica)
            assert place.replica > event.replica
        return decisions if event.kind != "finished" else []

    ended = took(made(prompt, lengths), 64, 4, spy).rollouts
    assert 0 < len(moved) <= 0.1 * 0.75 * 200  # the replica of the longest groups lets nobody go
    assert all(ended["replica"][rollout] == to for rollout, (_, to) in moved.items())


@pytest.mark.parametrize("split", ["even", "balanced"])
@pytest.mark.parametrize("spread", [0.1, 0.4])
def test_about_the_share_that_it_names_moves_where_lengths_are_drawn_alike(split: str, spread: float) -> None:
    """Published is that 2 to 6 % of samples migrate."""
    moved, shares = list[int](), list[float]()
    for seed in range(10):
        rng = np.random.default_rng(seed)
        prompt, of_prompt = np.repeat(np.arange(64), 8), np.repeat(rng.lognormal(6, 0.8, 64), 8)
        before, now = (np.rint(of_prompt * rng.lognormal(0, spread, 512)).astype(np.int64) + 1 for _ in range(2))
        context = Context(64, prompt, before, PROFILE, 64, lambda: None)
        placement: Any = resolve_placement(f"ranked:split={split}", context)

        def spy(event: Event, view: View, placement: Any = placement) -> Any:
            moved.extend(event.rollouts.tolist() if event.kind == "left" else [])
            return placement(event, view) if event.kind != "finished" else []

        took(made(prompt, now), 64, 8, spy)
        shares.append(len(moved) / 512)
        moved.clear()
    print(f"{split}, spread {spread}: {np.mean(shares):.1%} of the rollouts move")
    assert 0.02 < np.mean(shares) < 0.15


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("order=random", "has order=random: use ascending or descending or alternate"),
        ("split=odd", "has split=odd: use balanced or even"),
        ("migrate=1.5", "has migrate=1.5: give a number from 0 to 1"),
        ("migrate=nan", "has migrate=nan: give a number from 0 to 1"),
        ("kv=move", "has kv=move: use recompute or pull"),
        ("defer=1", "has setting 'defer=1': did you mean order=[?] use order="),
    ],
)
def test_settings_that_mean_nothing_are_refused(argument: str, told: str) -> None:
    with pytest.raises(InputError, match=f"^placement 'ranked:{argument}' {told}"):
        resolve_placement(f"ranked:{argument}")
