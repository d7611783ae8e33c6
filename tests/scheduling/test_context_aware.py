"""Context-aware scheduling against the same rules in plain Python, and against what theory says of list scheduling."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings

from simulator.budgets.context import Context
from simulator.budgets.policy import by_live
from simulator.drafting.acceptance import Acceptance
from simulator.engine.cluster import Outcome, simulate
from simulator.engine.deployment import Deployment
from simulator.engine.serving import Serving
from simulator.engine.workload import Workload
from simulator.scheduling.placement import HELD, Event, Place, View
from simulator.scheduling.resolve import resolve_placement
from tests.engine.test_cluster import PULL_S, clusters, compare, is_plain
from tests.engine.test_serving import PROFILE, cost, serving_of, workload_of
from tests.reference import cluster as reference
from tests.reference.serving import Request, Settings
from tests.theory.test_rl_step import SECOND
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]


class Plain:
    """The rules as they are written, with lists that are looked through from end to end.

    group: of every rollout; stay, longest: tokens, 0 for none; blocks: of a replica, None where there is no limit.
    """

    def __init__(
        self, group: Sequence[int], prompts: Sequence[int], replicas: int, stay: int, starved: int, kv: str, longest: int,
        blocks: int | None, block_size: int, reserve: float,
    ) -> None:  # fmt: skip
        self.group, self.prompts, self.replicas, self.stay, self.starved, self.kv = (
            group, prompts, replicas, stay, starved, kv,
        )  # fmt: skip
        self.longest, self.blocks, self.block_size, self.reserve = longest, blocks, block_size, reserve
        self.probes = {min(i for i in range(len(group)) if group[i] == g) for g in set(group)}
        self.held: list[int] = []  # in the order in which they came to be
        self.lengths: dict[int, list[int]] = {g: [] for g in set(group)}
        self.need: list[dict[int, int]] = [{} for _ in range(replicas)]  # by replica: blocks of each rollout there
        self.last: dict[int, int] = {}
        self.placed = 0

    def __call__(self, event: reference.Event, view: reference.View) -> list[reference.Place]:
        for rollout in event.rollouts:
            for there in self.need:
                there.pop(rollout, None)
            if event.kind == "finished":
                self.lengths[self.group[rollout]].append(view.emitted[rollout])
            else:
                self.held.append(rollout)
        room, decisions = list(view.room), list[reference.Place]()
        while self.held:
            rescues = self.starved > 0 and (self.placed + 1) % self.starved == 0
            rollout = self.held[0] if rescues else min(self.held, key=lambda i: self.key(i, view.emitted[i]))
            replica = self.choose(rollout, view.emitted[rollout], room)
            if replica is None:
                break
            self.held.remove(rollout)
            self.placed += 1
            room[replica] -= 1
            self.need[replica][rollout] = self.blocks_of(rollout, view.emitted[rollout])
            self.last[rollout] = replica
            decisions.append(reference.Place(rollout, replica, self.stay, self.kv))
        return decisions

    def key(self, rollout: int, emitted: int) -> tuple[float, ...]:
        if rollout in self.probes:
            return (0, emitted, rollout)
        return (1, -max(self.lengths[self.group[rollout]], default=math.inf), rollout)

    def blocks_of(self, rollout: int, emitted: int) -> int:
        end = emitted + (self.stay or 1)
        if emitted < self.longest < end:
            end = self.longest
        reserved = max(round(self.reserve * (end - emitted)), 1)
        return math.ceil((self.prompts[rollout] + emitted + reserved) / self.block_size)

    def choose(self, rollout: int, emitted: int, room: list[int]) -> int | None:
        if self.blocks is None:
            left, need = list(room), 1
        else:
            left, need = [self.blocks - sum(there.values()) for there in self.need], self.blocks_of(rollout, emitted)
        able = [
            i
            for i in range(self.replicas)
            if room[i] > 0 and (self.blocks is None or left[i] >= need or not self.need[i])
        ]
        if not able:
            return None
        best = max(able, key=lambda i: (left[i], -i))
        last = self.last.get(rollout)
        return last if last in able and left[best] < left[last] + need else best


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(clusters())
def test_decisions_are_those_of_the_rules(
    drawn: tuple[list[Request], Settings, int, list[int] | None, bool, int],
) -> None:
    requests, limits, replicas, begun, arrivals, seed = drawn
    rng = random.Random(seed)
    if limits.async_scheduling:  # whether who is away for a turn has left by then is a matter of definition
        requests = [replace(request, turns=()) for request in requests]
    load = workload_of(requests, arrivals)
    if not limits.enable_prefix_caching:
        load = replace(load, prompt=np.array([rng.randrange(3) for _ in requests]))
    load = load if begun is None else replace(load, begun=np.array(begun))
    stay, starved, kv, longest = (
        rng.choice([1, 2, 3, 99]),
        rng.choice([0, 1, 2, 3]),
        rng.choice(["pull", "recompute"]),
        rng.choice([0, 3, 6]),
    )
    room, reserve = rng.choice(["kv", "slots"]), rng.choice([0.0, 0.5, 1.0])
    blocks = limits.num_gpu_blocks - 1 if limits.num_gpu_blocks is not None and room == "kv" else None
    prompts = [request.prompt_tokens for request in requests]
    plain = Plain(
        load.prompt.tolist(), prompts, replicas, stay, starved, kv, longest, blocks, limits.block_size, reserve
    )
    expected = reference.simulate(
        requests, limits, cost, replicas, plain, PULL_S, begun, arrivals,
        by_number=not is_plain(limits, requests, arrivals),
    )  # fmt: skip
    known = Context(3, np.zeros(1, np.int64), np.array([longest]), PROFILE, 1, lambda: None)
    spec = f"context:stay={stay},starved={starved},kv={kv},room={room},reserve={reserve}"
    placement = resolve_placement(spec, known if longest else None)
    deployment = Deployment(
        PROFILE, limits.max_num_seqs, replicas, placement, serving=serving_of(limits), pull_s_per_token=PULL_S
    )
    compare(simulate(load, by_live([limits.budget]), deployment, check=True), expected)


# Order ----------------------------------------------------------------------------------------------------------------


class Watched:
    """A placement whose every admission is held against all that are held: none of them comes before it."""

    def __init__(self, spec: str, context: Context | None = None) -> None:
        self.placement: Any = resolve_placement(spec, context)
        self.events, self.admitted = self.placement.events, 0
        self.lengths: dict[int, int] = {}

    def __call__(self, event: Event, view: View) -> list[Place]:
        prompt, emitted = view.requests.prompt, view.emitted_tokens
        if event.kind == "finished":
            for rollout in event.rollouts.tolist():
                group = int(prompt[rollout])
                self.lengths[group] = max(self.lengths.get(group, 0), int(emitted[rollout]))
        waiting = set(np.flatnonzero(view.where == HELD).tolist())
        decisions = list(self.placement(event, view))
        for place in decisions:
            assert self.key(place.rollout, view) == min(self.key(i, view) for i in waiting)
            waiting.remove(place.rollout)
            self.admitted += 1
        return decisions

    def key(self, rollout: int, view: View) -> tuple[float, ...]:
        prompt = view.requests.prompt
        if rollout == int(np.flatnonzero(prompt == prompt[rollout])[0]):
            return (0, int(view.emitted_tokens[rollout]), rollout)
        return (1, -self.lengths.get(int(prompt[rollout]), math.inf), rollout)


def made(prompt: Int64, lengths: Int64) -> Workload:
    """Rollouts of these prompts and lengths, a prompt token each, without drafts."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    nothing = Acceptance(offsets, lambda budget: np.zeros((int(offsets[-1]), 2), np.uint8), prefix=True)
    return Workload(prompt, np.arange(prompt.size), np.ones(prompt.size, np.int64), lengths, nothing)


def took(load: Workload, slots: int, replicas: int, placement: Any) -> Outcome:
    return simulate(
        load, by_live([0]), Deployment(SECOND, slots, replicas, placement, pull_s_per_token=0.0), check=True
    )


def in_groups(rng: np.random.Generator, groups: int, size: int, spread: float, own: float) -> Workload:
    """Groups whose lengths hang together."""
    of_group = rng.lognormal(3.5, spread, groups)
    lengths = np.maximum(np.rint(np.repeat(of_group, size) * rng.lognormal(0, own, groups * size)), 1).astype(np.int64)
    return made(np.repeat(np.arange(groups), size), lengths)


@pytest.mark.parametrize("seed", range(40))
def test_no_held_rollout_comes_before_one_that_is_admitted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    load = in_groups(rng, int(rng.integers(1, 9)), int(rng.integers(1, 6)), 0.9, 0.3)
    watched = Watched(f"context:stay={rng.integers(1, 60)},kv=pull,starved=0")
    took(load, int(rng.integers(1, 5)), int(rng.integers(1, 4)), watched)
    assert watched.admitted >= len(load)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_the_starved_are_served(every: int) -> None:
    """One of so many placements is of the one that has been held longest, so none of them is held through more."""
    rng = np.random.default_rng(every)
    load = in_groups(rng, 6, 5, 0.9, 0.3)
    placement: Any = resolve_placement(f"context:stay=7,starved={every}")
    held: dict[int, int] = {}
    nth = 0

    def spy(event: Event, view: View) -> Any:
        nonlocal nth
        if event.kind != "finished":
            for rollout in event.rollouts.tolist():
                held[rollout] = len(held)
        decisions = list(placement(event, view))
        for place in decisions:
            nth += 1
            if nth % every == 0:
                assert place.rollout == next(iter(held))
            del held[place.rollout]
        return decisions

    took(load, 2, 2, spy)
    assert nth > len(load)


@pytest.mark.parametrize("seed", range(5))
def test_without_siblings_and_stays_it_is_one_queue_to_the_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    load = made(np.arange(40), rng.integers(1, 60, 40))
    off, plain = (
        simulate(load, by_live([0]), Deployment(PROFILE, 3, 4, placement, pull_s_per_token=0.0), check=True)
        for placement in ("context:stay=999999,starved=0", "shared")
    )
    assert off.rollouts.tobytes() == plain.rollouts.tobytes()
    assert all((a[:] == b[:]).all() for a, b in zip(off.logs, plain.logs, strict=True))


def test_it_is_close_to_lpt_with_known_lengths_and_never_below_the_bound() -> None:
    """On slots whose tokens take a second whatever else runs: total work over slots, or the longest, bounds every order."""
    context, known, blind = list[float](), list[float](), list[float]()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        load = in_groups(rng, 24, 8, 1.0, 0.15)
        slots, lengths = 8, load.output_tokens
        bound = max(int(lengths.sum()) / (2 * slots), int(lengths.max()))
        longest = Context(len(load), np.arange(len(load)), lengths, SECOND, 1, lambda: None)
        oracle = replace(load, prompt=np.arange(len(load)))
        for found, work, placement in (
            (context, load, "context:stay=20,kv=pull,starved=0"),
            (known, oracle, resolve_placement("longest_first", longest)),
            (blind, load, "shared"),
        ):
            seconds = took(work, slots, 2, placement).makespan_s
            assert seconds >= bound
            found.append(seconds / bound)
    print(f"over the bound: LPT {np.mean(known):.3f}, context {np.mean(context):.3f}, queue order {np.mean(blind):.3f}")
    assert np.mean(known) < np.mean(context) < np.mean(blind)
    assert np.mean(context) - np.mean(known) < 0.5 * (np.mean(blind) - np.mean(known))


def test_stays_shorten_the_tail_where_groups_hang_together_and_kv_is_short() -> None:
    """Against groups that stay together where they began: more so the more siblings are alike; and what is admitted fits."""
    ratios: dict[str, list[float]] = {"together": [], "apart": []}
    preempted = np.zeros(2)
    for seed in range(10):
        load = in_groups(np.random.default_rng(seed), 16, 8, 0.9, 0.15)
        mixed = made(load.prompt, np.random.default_rng(seed).permutation(load.output_tokens))
        blocks = 1 + max(int(load.output_tokens.sum()) // 64, int(load.output_tokens.max()) // 16 + 2)
        for name, one in (("together", load), ("apart", mixed)):
            whole, divided = (
                simulate(one, by_live([0]), Deployment(
                    PROFILE, 64, 2, placement, serving=Serving(num_gpu_blocks=blocks), pull_s_per_token=2**-16
                ), check=True)
                for placement in ("static", "context:stay=32,kv=pull")
            )  # fmt: skip
            ratios[name].append(divided.makespan_s / whole.makespan_s)
            preempted += [whole.rollouts["preempted"].sum(), divided.rollouts["preempted"].sum()]
    assert preempted[1] == 0 < preempted[0]
    assert np.mean(ratios["together"]) < min(1, np.mean(ratios["apart"]))


# Settings -------------------------------------------------------------------------------------------------------------


def test_a_stay_may_be_a_share_of_the_longest_of_the_history() -> None:
    prompt, numbers = np.arange(3), np.array([10, 80, 40])
    known = Context(3, prompt, numbers, SECOND, 1, lambda: None)
    seen: list[int] = []
    load = made(np.arange(3), np.array([9, 30, 50]))
    for context, spec in ((known, "context:stay=0.125"), (None, "context:stay=0.125"), (known, "context")):
        placement: Any = resolve_placement(spec, context)

        def spy(event: Event, view: View, placement: Any = placement) -> Any:
            decisions = list(placement(event, view))
            seen.extend(place.stay_tokens for place in decisions)
            return decisions

        took(load, 4, 1, spy)
    assert seen == [10] * (1 + 3 + 5) + [8192] * 6


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("stay=0", "has stay=0: give whole tokens from 1 to 999999999, or a share between 0 and 1"),
        ("stay=2.5", "has stay=2.5: give whole tokens"),
        ("stay=nan", "has stay=nan: give whole tokens"),
        ("stay=1e3", "has stay=1e3: give whole tokens"),
        ("stay=-0.1", "has stay=-0.1: give whole tokens"),
        ("kv=push", "has kv=push: use recompute or pull"),
        ("room=all", "has room=all: use kv or slots"),
        ("reserve=2", "has reserve=2: give a number from 0 to 1"),
        ("starved=-1", "has starved=-1: give a whole number from 0"),
        ("probe=1", "has setting 'probe=1': use stay="),
        ("stay=8,stay=9", "sets stay twice"),
    ],
)
def test_settings_that_mean_nothing_are_refused(argument: str, told: str) -> None:
    with pytest.raises(InputError, match=f"^placement 'context:{argument}' {told}"):
        resolve_placement(f"context:{argument}")
