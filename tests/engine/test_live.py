"""Live siblings: the engine's loop against a lock-step replay in plain Python with dictionaries of counts."""

import random
from collections import deque
from dataclasses import replace

import numpy as np
import pytest

from simulator.budgets.policy import by_live
from simulator.budgets.switch import ALWAYS, Switch
from simulator.drafting.drafter import past_rows
from simulator.drafting.live import SiblingIndex
from simulator.drafting.suffix import Suffix
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from simulator.scheduling.placement import Event, Place, View
from tests.drafting.rollouts import NAMES, Case, sequence
from tests.engine.workloads import affine_pair
from tests.reference.suffix import Counts, draft_longest
from traces.io import from_table
from traces.synthesis import synth
from traces.trace import Trace

UNIT, _ = affine_pair(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def random_case(rng: random.Random) -> Case:
    prompts = rng.randint(1, 3)
    past = [[sequence(rng, rng.randint(1, 25), 3) for _ in range(rng.randint(0, 2))] for _ in range(prompts)]
    now = [[sequence(rng, rng.randint(1, 25), 3) for _ in range(rng.randint(1, 4))] for _ in range(prompts)]
    return Case([[NAMES[rng.randrange(3)] for _ in range(rng.randint(0, 4))] for _ in range(prompts)], past, now)


def workload_of(trace: Trace, drafter: Suffix, live: bool, ahead: bool = False) -> Workload:
    rows = np.flatnonzero(trace.step == 1)
    past = past_rows(trace, 1, drafter.window)
    columns = (column[rows].astype(np.int64) for column in (trace.prompt, trace.sample, trace.prompt_tokens))
    lengths = trace.output_tokens[rows].astype(np.int64)
    siblings = SiblingIndex(drafter, trace, rows, drafter.learn(trace, past), ahead) if live else None
    return Workload(*columns, lengths, drafter.accept(trace, rows, past), siblings)


def lock_step(
    rollouts: list[tuple[int, list[int], list[int]]],
    past: list[list[list[int]]],
    drafter: Suffix,
    budget: int,
    slots: int,
    switch: Switch = ALWAYS,
) -> list[tuple[int, int, int]]:
    """(steps, drafted, accepted) of each (prompt number, prompt, output), decoded together by one replica."""
    calm, on = 0, switch.patience == 0
    together = drafter.scope == "global"
    shared = {group: Counts(drafter.depth) for group in ([-1] if together else range(len(past)))}
    for prompt, group in enumerate(past):
        for output in group:
            if drafter.scope != "request":
                shared[-1 if together else prompt].insert(output)
    own = {i: Counts(drafter.depth) for i in range(len(rollouts))}
    queue, live = deque(range(len(rollouts))), []
    emitted, found = [0] * len(rollouts), [[0, 0, 0] for _ in rollouts]
    while queue or live:
        again = set()
        if live and not on:
            calm = calm + 1 if len(live) <= switch.live else 0
            on = calm == switch.patience
            again = set(live) if on and switch.reprefill else set()
        while queue and len(live) < slots:
            live.append(queue.popleft())
        counts = {}
        for i in live:
            prompt, before, output = rollouts[i]
            draft: list[int] = []
            if emitted[i] == 0:
                for token in before:
                    own[i].append(token)
            elif budget and on and i not in again:
                tables = {"own": own[i]} if drafter.own else {}
                table = shared[-1 if together else prompt]
                settings = {"factor": drafter.factor, "min_prob": drafter.min_prob}
                mine = draft_longest(tables, [*before, *output[: emitted[i]]], **settings, budget=budget)
                theirs = draft_longest({"shared": table}, output[: emitted[i]], **settings, budget=budget)
                longer = matched(own[i], [*before, *output[: emitted[i]]]) >= matched(table, output[: emitted[i]])
                draft = (mine if drafter.own and longer else theirs)[0]
            actual = output[emitted[i] :]
            most = min(len(draft), len(actual))
            right = next((j for j in range(most) if draft[j] != actual[j]), most)
            counts[i] = right
            found[i][0] += 1
            found[i][1] += len(draft)
            found[i][2] += right
        for i in live:
            prompt, _, output = rollouts[i]
            for p in range(emitted[i], min(emitted[i] + counts[i] + 1, len(output))):
                own[i].append(output[p])
                shared[-1 if together else prompt].append_to(output[:p], output[p])
            emitted[i] = min(emitted[i] + counts[i] + 1, len(output))
        live = [i for i in live if emitted[i] < len(rollouts[i][2])]
    return [(steps, drafted, accepted) for steps, drafted, accepted in found]


def matched(table: Counts, context: list[int]) -> int:
    return max(
        (m for m in range(1, min(len(context), table.depth - 1) + 1) if table.best(context[-m:]) is not None), default=0
    )


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("scope", ["problem", "global"])
def test_live_siblings_are_the_lock_step(scope: str, own: bool) -> None:
    assert_is_the_lock_step(scope, own, waits=False)


@pytest.mark.parametrize("scope", ["problem", "global"])
def test_live_siblings_are_learnt_from_before_anybody_drafts(scope: str) -> None:
    assert_is_the_lock_step(scope, True, waits=True)


def assert_is_the_lock_step(scope: str, own: bool, waits: bool) -> None:
    rng = random.Random(f"{scope}{own}")
    shared_something = 0
    for _ in range(120):
        case = random_case(rng)
        drafter = Suffix(scope=scope, own=own, depth=rng.randint(2, 7), factor=rng.choice((0.5, 1.0, 2.0)),
                         min_prob=rng.choice((0.0, 0.1, 0.5)))  # type: ignore[arg-type]  # fmt: skip
        trace = case.trace()
        budget, slots, replicas = rng.choice((0, 1, 3, 255)), rng.randint(1, 4), rng.randint(1, 3)
        rollouts = [(prompt, case.prompts[prompt], output) for prompt, group in enumerate(case.now) for output in group]
        switch = Switch(rng.randint(1, 3), rng.randint(1, 9), rng.random() < 0.5) if waits else ALWAYS
        ended = simulate(
            workload_of(trace, drafter, live=True, ahead=rng.random() < 0.5),
            replace(by_live([budget]), switch=switch),
            Deployment(UNIT, slots, replicas, "static", data_parallel_size=rng.choice((1, replicas))),
            check=True,
        ).rollouts
        expected: list[tuple[int, int, int]] = []
        for part in np.array_split(np.arange(len(rollouts)), replicas):
            expected += lock_step([rollouts[i] for i in part], case.past, drafter, budget, slots, switch)
        assert ended[["steps", "drafted", "accepted"]].tolist() == expected
        frozen = simulate(
            workload_of(trace, drafter, live=False), by_live([budget]), Deployment(UNIT, slots, replicas, "static")
        )
        shared_something += int(ended["accepted"].sum() != frozen.rollouts["accepted"].sum())
    assert waits or shared_something > 10, "live siblings make a difference in these cases"


@pytest.mark.parametrize("match", ["longest", "scored"])
def test_without_siblings_live_drafts_are_the_frozen_ones_but_for_ties(match: str) -> None:
    trace = from_table(synth(prompts=40, samples=1, steps=2, median_tokens=300, max_tokens=900, seed=4), "made")
    drafter = Suffix(match=match, prompt=False)  # type: ignore[arg-type]
    live, frozen = (
        simulate(workload_of(trace, drafter, live), by_live([6]), Deployment(UNIT, 8, 2), check=True).rollouts
        for live in (True, False)
    )
    for field in ("steps", "drafted", "accepted"):
        assert live[field].sum() == pytest.approx(frozen[field].sum(), rel=0.03)


def everywhere(
    parts: list[list[int]], rollouts: list[tuple[int, list[int], list[int]]], drafter: Suffix, past: list[list[list[int]]],
    budget: int, slots: int,
) -> list[tuple[int, int, int]]:  # fmt: skip
    """`lock_step` of replicas, in turn at every step, with one index for all; parts: rollouts of each replica.

    What a rollout emitted is in the index when its replica comes to its next step.
    """
    together = drafter.scope == "global"
    shared = {group: Counts(drafter.depth) for group in ([-1] if together else range(len(past)))}
    for prompt, group in enumerate(past):
        for output in group:
            shared[-1 if together else prompt].insert(output)
    own = {i: Counts(drafter.depth) for i in range(len(rollouts))}
    queues, lives = [deque(part) for part in parts], [list[int]() for _ in parts]
    emitted, learnt, found = [0] * len(rollouts), [0] * len(rollouts), [[0, 0, 0] for _ in rollouts]
    while any(queues) or any(lives):
        for queue, live in zip(queues, lives, strict=True):
            while queue and len(live) < slots:
                live.append(queue.popleft())
            for i in live:
                prompt, before, output = rollouts[i]
                for token in before if emitted[i] == 0 else ():
                    own[i].append(token)
                for p in range(learnt[i], emitted[i]):
                    own[i].append(output[p])
                    shared[-1 if together else prompt].append_to(output[:p], output[p])
                learnt[i] = emitted[i]
            counts = {}
            for i in live:
                prompt, before, output = rollouts[i]
                draft: list[int] = []
                table, settings = (
                    shared[-1 if together else prompt],
                    {"factor": drafter.factor, "min_prob": drafter.min_prob},
                )
                if emitted[i] and budget:
                    context = [*before, *output[: emitted[i]]]
                    longer = matched(own[i], context) >= matched(table, output[: emitted[i]])
                    if drafter.own and longer:
                        draft = draft_longest({"own": own[i]}, context, **settings, budget=budget)[0]
                    else:
                        draft = draft_longest({"shared": table}, output[: emitted[i]], **settings, budget=budget)[0]
                actual = output[emitted[i] :]
                most = min(len(draft), len(actual))
                counts[i] = next((j for j in range(most) if draft[j] != actual[j]), most)
                for j, more in enumerate((1, len(draft), counts[i])):
                    found[i][j] += more
            for i in live:
                emitted[i] = min(emitted[i] + counts[i] + 1, len(rollouts[i][2]))
            live[:] = [i for i in live if emitted[i] < len(rollouts[i][2])]
    return [(steps, drafted, accepted) for steps, drafted, accepted in found]


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("scope", ["problem", "global"])
def test_siblings_everywhere_are_the_lock_step_of_all_replicas(scope: str, own: bool) -> None:
    rng = random.Random(f"{scope}{own}everywhere")
    told_something = 0
    for _ in range(120):
        case = random_case(rng)
        settings = {"scope": scope, "own": own, "depth": rng.randint(2, 7), "factor": rng.choice((0.5, 1.0, 2.0)),
                    "min_prob": rng.choice((0.0, 0.1, 0.5))}  # fmt: skip
        drafter, local = (Suffix(**settings, siblings=siblings) for siblings in ("everywhere", "live"))  # type: ignore[arg-type]
        budget, slots, replicas = rng.choice((0, 1, 3, 255)), rng.randint(1, 4), rng.randint(1, 3)
        rollouts = [(prompt, case.prompts[prompt], output) for prompt, group in enumerate(case.now) for output in group]
        parts = [part.tolist() for part in np.array_split(np.arange(len(rollouts)), replicas)]
        ended, alone = (
            simulate(
                workload_of(case.trace(), one, live=True), by_live([budget]),
                Deployment(UNIT, slots, replicas, "static"), check=True,
            ).rollouts[["steps", "drafted", "accepted"]].tolist()
            for one in (drafter, local)
        )  # fmt: skip
        assert ended == everywhere(parts, rollouts, drafter, case.past, budget, slots)
        told_something += ended != alone
    assert told_something > 10, "what other replicas emitted makes a difference in these cases"


@pytest.mark.parametrize("placement", ["shared", "divided:stay=5", "context:stay=7"])
def test_siblings_everywhere_on_one_replica_are_live_ones(placement: str) -> None:
    """But for the last tokens of those that leave, which the others then do not have, or only later."""
    trace = from_table(synth(prompts=4, samples=4, steps=2, median_tokens=200, max_tokens=400, seed=4), "made")
    accepted = [
        simulate(
            workload_of(trace, Suffix(siblings=siblings), live=True), by_live([6]), Deployment(UNIT, 16, 1, placement)  # type: ignore[arg-type]
        ).rollouts["accepted"].sum()
        for siblings in ("everywhere", "live")
    ]  # fmt: skip
    assert accepted[0] == pytest.approx(accepted[1], rel=0.03)


@pytest.mark.parametrize("match", ["longest", "scored"])
def test_siblings_on_other_replicas_stay_unheard(match: str) -> None:
    """Two samples of the same text: together the second learns from the first, apart neither does."""
    rng = random.Random(9)
    text = [rng.choice(NAMES) + 0 for _ in range(2)] + [rng.randrange(10_000) for _ in range(60)]
    case = Case([[]], [[]], [[text, text]])
    drafter = Suffix(match=match, depth=8)  # type: ignore[arg-type]
    workload = workload_of(case.trace(), drafter, live=True)
    apart = simulate(workload, by_live([4]), Deployment(UNIT, 1, 2, "static")).rollouts["accepted"]
    assert apart.tolist() == [0, 0]
    after = simulate(workload, by_live([4]), Deployment(UNIT, 1, 1, "static")).rollouts["accepted"]
    assert after[0] == 0
    assert after[1] > 40


@pytest.mark.parametrize("match", ["longest", "scored"])
def test_siblings_everywhere_are_heard_on_other_replicas(match: str) -> None:
    """The same text on a replica that is behind: there it is drafted."""
    rng = random.Random(9)
    text = [rng.randrange(10_000) for _ in range(60)]
    case = Case([[]], [[]], [[text, list(range(20_000, 20_045)), text]])
    drafter = Suffix(match=match, depth=8, siblings="everywhere")  # type: ignore[arg-type]
    workload = workload_of(case.trace(), drafter, live=True)

    def second_waits(event: Event, view: View) -> list[Place]:
        return [Place(event.rollouts, np.array([0, 1, 1]))] if event.kind == "start" else []

    accepted = simulate(workload, by_live([4]), Deployment(UNIT, 1, 2, second_waits), check=True).rollouts["accepted"]
    assert accepted[0] == 0
    assert accepted[2] > 30
