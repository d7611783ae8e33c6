"""The reference system against runs small enough for paper, against theory, and against its own accounts.

The cases are also run on systems broken on purpose: each of those must fail one.
"""

import heapq
import inspect
import itertools
import random
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import simpy
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.reference.cluster import ANY, Event, Place, Placement, View
from tests.reference.serving import Request, Settings, Step, Work
from tests.reference.system import LOOPS, Process, RewardStage, RLStep, System, SystemSettings, play
from tests.reference.test_cluster import Script, anywhere, everywhere, fails, patient, unit

Times = tuple[float, float, float, float, float]


def run(
    lengths: Sequence[int],
    groups: Sequence[int],
    step_of: Sequence[int],
    system: SystemSettings,
    placement: Callable[[], Placement] = lambda: everywhere,
    slots: int = 8,
    replicas: int = 1,
    cost: Callable[[Work], float] = unit,
    prompts: Sequence[int] | None = None,
) -> list[RLStep]:
    """Every step takes a second, and nothing is in the way, but where a case says otherwise."""
    prompts = [1] * len(lengths) if prompts is None else prompts
    requests = [Request(prompt, length) for prompt, length in zip(prompts, lengths, strict=True)]
    return play(requests, groups, step_of, Settings(slots), patient(cost), replicas, placement, system)


def lasts(seconds: float) -> Callable[[list[int]], float]:
    return lambda _: seconds


def times(step: RLStep) -> Times:
    """Start, end, quiet, rewarded, trained."""
    return step.start_s, step.end_s, step.quiet_s, step.rewarded_s, step.trained_s


def rows(log: list[list[Step]]) -> list[list[tuple[float, tuple[int, ...]]]]:
    """By replica, when its steps start and with whom."""
    return [[(step.start_s, tuple(share.rollout for share in step.shares)) for step in steps] for steps in log]


def backwards(event: Event, _: View) -> list[Place]:
    return [] if event.kind == "finished" else anywhere(*reversed(event.rollouts))


def slow_and_fast(work: Work) -> float:
    """Steps with a long prompt in them take 1.5 s."""
    return 1.5 if work.kv_tokens > 50 else 1.0


def first_alone(event: Event, _: View) -> list[Place]:
    """The first on replica 0, all others on replica 1."""
    return [] if event.kind == "finished" else [Place(i, min(i, 1)) for i in event.rollouts]


# By hand --------------------------------------------------------------------------------------------------------------


def sync_does_one_after_the_other() -> None:
    # 3 s of generation, 0 + 1 s of training, 0.5 s of sync; 4 s, 2 + 3 s. Positions are within the RL step.
    system = SystemSettings("sync", batch_s=lambda batch: float(sum(batch)), sync_s=0.5)
    first, second = run([2, 3, 1, 4], [0, 0, 1, 1], [0, 0, 1, 1], system)
    assert times(first) == (0.0, 3.0, 3.0, 3.0, 4.0)
    assert times(second) == (4.5, 8.5, 8.5, 8.5, 13.5)
    assert (first.train_s, first.sync_s, second.train_s, second.sync_s) == (1.0, 0.0, 5.0, 0.5)
    assert (first.finished, first.finished_s, first.emitted) == ([0, 1], {0: 2.0, 1: 3.0}, {0: 2, 1: 3})
    assert (second.finished, second.finished_s, second.emitted) == ([2, 3], {2: 5.5, 3: 8.5}, {2: 1, 3: 4})
    assert (first.trained, second.trained) == ([0, 1], [2, 3])
    assert rows(second.log) == [[(4.5, (0, 1)), (5.5, (1,)), (6.5, (1,)), (7.5, (1,))]]
    assert (first.order, second.order) == ([0, 1], [2, 3])
    for step in (first, second):
        assert (step.carried, step.carried_tokens, step.recomputed) == (0, 0, 0)
        assert (step.stale_mean, step.stale_max) == (0.0, 0)


def sync_waits_for_the_rewards() -> None:
    # One server, 2 s each: 0 at 1 to 3, 1 at 3 to 5; trained to 6, and only then the next RL step.
    system = SystemSettings("sync", batch_s=lasts(1.0), reward_s=[2.0, 2.0, 4.0])
    first, second = run([1, 2, 1], [0, 0, 1], [0, 0, 1], system)
    assert times(first) == (0.0, 2.0, 2.0, 5.0, 6.0)
    assert times(second) == (6.0, 7.0, 7.0, 11.0, 12.0)


def one_step_async_is_a_step_ahead() -> None:
    # A quick trainer: RL step 2 starts when 1 is done, at 8, with the version of 6, after a sync. A slow one: with
    # that of 10.
    quick = run([4] * 4, range(4), range(4), SystemSettings("one_step_async", batch_s=lasts(2.0), sync_s=0.5))
    assert [times(step) for step in quick] == [
        (0.0, 4.0, 4.0, 4.0, 6.0),
        (4.0, 8.0, 8.0, 8.0, 10.0),
        (8.5, 12.5, 12.5, 12.5, 14.5),
        (13.0, 17.0, 17.0, 17.0, 19.0),
    ]
    slow = run([4] * 4, range(4), range(4), SystemSettings("one_step_async", batch_s=lasts(6.0), sync_s=0.5))
    assert [(step.start_s, step.end_s, step.trained_s) for step in slow] == [
        (0.0, 4.0, 10.0),
        (4.0, 8.0, 16.0),
        (10.5, 14.5, 22.0),
        (16.5, 20.5, 28.0),
    ]
    for steps in (quick, slow):
        assert [step.sync_s for step in steps] == [0.0, 0.0, 0.5, 0.5]
        assert [(step.stale_mean, step.stale_max) for step in steps] == [(0.0, 0), (1.0, 1), (1.0, 1), (1.0, 1)]
        assert [step.order for step in steps] == [[0], [1], [2], [3]]


def a_sync_is_of_the_version_that_there_is_when_it_starts() -> None:
    # Synced from 8 to 10 with the version of 5; that of 9 comes too late.
    system = SystemSettings("one_step_async", batch_s=lasts(1.0), sync_s=2.0)
    steps = run([4] * 3, range(3), range(3), system)
    assert [(step.start_s, step.end_s, step.trained_s) for step in steps] == [
        (0.0, 4.0, 5.0),
        (4.0, 8.0, 9.0),
        (10.0, 14.0, 15.0),
    ]
    assert [step.stale_max for step in steps] == [0, 1, 1]


def an_update_at_the_instant_that_a_phase_ends_is_in_time() -> None:
    # Update 0, from 4 to 8, ends with phase 1: phase 2 starts at once. Updates that take no time: always the newest.
    steps = run([4] * 3, range(3), range(3), SystemSettings("one_step_async", batch_s=lasts(4.0)))
    assert [step.start_s for step in steps] == [0.0, 4.0, 8.0]
    assert [step.stale_max for step in steps] == [0, 1, 1]
    steps = run([4] * 3, range(3), range(3), SystemSettings("one_step_async", batch_s=lasts(0.0)))
    assert [step.start_s for step in steps] == [0.0, 4.0, 8.0]
    assert [step.stale_max for step in steps] == [0, 0, 0]
    # Update 0 from 4 to 14, and 1 takes none: phase 2, which waits for 0, has both.
    system = SystemSettings("one_step_async", batch_s=lambda batch: 10.0 if batch == [0] else 0.0)
    steps = run([4] * 3, range(3), range(3), system)
    assert [step.start_s for step in steps] == [0.0, 4.0, 14.0]
    assert [step.stale_max for step in steps] == [0, 1, 0]


def partial_carries_what_is_not_finished() -> None:
    # 3 in flight. 2 is done at 2, 3 takes its place, 0 is done at 3: enough. 1 has 3 tokens, 3 has one.
    system = SystemSettings("partial", batch_s=lasts(2.0), sync_s=0.5, rollouts=3)
    first, second = run([3, 6, 2, 2], range(4), [0, 0, 1, 1], system)
    assert times(first) == (0.0, 3.0, 3.0, 3.0, 5.0)
    assert rows(first.log) == [[(0.0, (0, 1, 2)), (1.0, (0, 1, 2)), (2.0, (0, 1, 3))]]
    assert (first.finished, first.trained, first.emitted) == ([2, 0], [0, 2], {0: 3, 1: 3, 2: 2, 3: 1})
    assert (first.carried, first.carried_tokens, first.recomputed) == (0, 0, 0)
    assert times(second) == (5.5, 8.5, 8.5, 8.5, 10.5)
    assert (second.order, second.carried, second.carried_tokens) == ([1, 3], 2, 3 + 1)
    assert second.recomputed == (1 + 3) + (1 + 1)
    assert (second.finished, second.trained, second.emitted) == ([3, 1], [1, 3], {1: 3, 3: 1})
    assert second.finished_s == {3: 6.5, 1: 8.5}
    assert (second.stale_mean, second.stale_max) == (4 / 8, 1)


def no_more_are_in_flight_than_asked_for() -> None:
    # 0, 2, 3 and 4 take turns beside 1; that is enough at 4. Streaming goes on while it trains, with 5.
    for loop in ("partial", "streaming"):
        system = SystemSettings(loop, batch_s=lasts(1.0), rollouts=2, lag=1)
        first, second = run([1, 9, 1, 1, 1, 2], range(6), [0, 0, 0, 0, 1, 1], system)
        shares = [(0, 1), (1, 2), (1, 3), (1, 4)] + [(1, 5)] * (loop == "streaming")
        assert rows(first.log) == [[(float(at), pair) for at, pair in enumerate(shares)]]
        assert (first.trained, second.trained) == ([0, 2, 3, 4], [1, 5])
        assert (second.order, second.carried) == ([1, 5], 1 if loop == "partial" else 2)


def what_a_step_under_way_finishes_is_for_later_batches() -> None:
    # 1 is done at 2, which is enough; 0 is done at 3, when its step ends. The update is from 3 on. Phase 1 has its
    # batch from the start; 2 has 2 tokens, and goes on in phase 2. Rewards: of 1 at 2, of 0 at 3 (4 s each).
    for reward_s in (None, [4.0] * 3):
        system = SystemSettings("partial", batch_s=lasts(2.0), sync_s=0.5, rollouts=3, reward_s=reward_s, servers=3)
        steps = run([2, 2, 9], range(3), range(3), system, lambda: first_alone, 8, 2, slow_and_fast, [60, 1, 1])
        wait = 0.0 if reward_s is None else 3.0  # 1 has its reward at 6, not at 3
        after = 0.0 if reward_s is None else 4.0
        assert [times(step) for step in steps] == [
            (0.0, 2.0, 3.0, 6.0 if reward_s else 2.0, 5.0 + wait),
            (5.5 + wait, 5.5 + wait, 5.5 + wait, 7.0 if reward_s else 3.0, 7.5 + wait),
            (8.0 + wait, 15.0 + wait, 15.0 + wait, 15.0 + wait + after, 17.0 + wait + after),
        ]
        assert [step.trained for step in steps] == [[1], [0], [2]]
        assert [step.finished_s for step in steps] == [{1: 2.0, 0: 3.0}, {}, {2: 15.0 + wait}]
        assert [step.emitted for step in steps] == [{0: 2, 1: 2, 2: 2}, {}, {2: 7}]
        assert [(step.carried, step.carried_tokens) for step in steps] == [(0, 0), (1, 2), (1, 2)]
        assert [step.order for step in steps] == [[0, 1, 2], [], [2]]
        assert [step.recomputed for step in steps] == [0, 0, 3]
        assert [len(step.log) for step in steps] == [2, 2, 2]
        assert [step.stale_max for step in steps] == [0, 1, 2]
        assert steps[2].stale_mean == 2 * 2 / 9


def the_carried_with_tokens_come_first() -> None:
    # Two slots, placed from the back: 2 and 1 run, 0 waits. Then 1, which has 2 tokens, 0, which has none, and 3.
    system = SystemSettings("partial", batch_s=lasts(1.0), rollouts=3)
    steps = run([5, 9, 2, 1], range(4), range(4), system, lambda: backwards, slots=2)
    assert steps[0].trained == [2]
    assert (steps[1].order, steps[1].carried, steps[1].carried_tokens) == ([1, 0, 3], 2, 2)
    assert rows(steps[1].log) == [[(3.0, (1, 2))]]
    assert (steps[2].order, steps[2].carried, steps[2].carried_tokens) == ([0, 1], 2, 3)


def groups_that_are_whole_at_one_instant_go_by_number() -> None:
    # 1 and 0 end at 2, 1 on replica 0.
    def crossed(event: Event, _: View) -> list[Place]:
        return [] if event.kind == "finished" else [Place(i, 1 - i) for i in event.rollouts]

    system = SystemSettings("partial", batch_s=lasts(1.0), rollouts=2)
    steps = run([2, 2], range(2), range(2), system, lambda: crossed, replicas=2)
    assert (steps[0].finished, steps[0].trained, steps[1].trained) == ([1, 0], [0], [1])
    # A group is whole with its last: 1 and 2 at 3, before 0 and 3 at 4.
    steps = run([2, 1, 3, 4], [0, 1, 1, 0], [0] * 4, SystemSettings("sync", batch_s=lasts(1.0)))
    assert steps[0].trained == [0, 1, 2, 3]
    system = SystemSettings("partial", batch_s=lasts(1.0), rollouts=4)
    steps = run([1, 4, 3, 3], [0, 0, 1, 1], [0, 0, 1, 1], system)
    assert [step.trained for step in steps] == [[2, 3], [0, 1]]
    assert [step.end_s for step in steps] == [3.0, 5.0]


def all_that_finish_at_an_instant_make_one_submission() -> None:
    # Both replicas end at 1: 2 and 3 are told of at once, after both. At 2 that is enough, and nothing more is told.
    first = Script(
        (0.0, "start", [0, 1], None, [Place(0, 0), Place(1, 1)]),
        (1.0, "finished", [0], 0, []),
        (1.0, "finished", [1], 1, []),
        (1.0, "arrival", [2, 3], None, [Place(2, 0), Place(3, 1)]),
        (2.0, "finished", [2], 0, []),
        (2.0, "finished", [3], 1, []),
    )
    second = Script((3.0, "start", [0], None, [Place(0, 1)]), (4.0, "finished", [0], 1, []))
    scripts = iter([first, second])
    system = SystemSettings("partial", batch_s=lasts(1.0), rollouts=2)
    steps = run([1] * 5, range(5), [0, 0, 0, 0, 1], system, lambda: next(scripts), replicas=2)
    assert not first.lines
    assert not second.lines
    assert [step.start_s for step in steps] == [0.0, 3.0]
    assert len(first.views[0].where) == 5  # all that is left of the stream
    # In RL steps of their own the cluster has those of the RL step alone.
    script = Script((0.0, "start", [0], None, anywhere(0)), (1.0, "finished", [0], 0, []))
    other = Script((2.0, "start", [0, 1], None, anywhere(0, 1)), (3.0, "finished", [0, 1], 0, []))
    scripts = iter([script, other])
    run([1] * 3, range(3), [0, 1, 1], SystemSettings("sync", batch_s=lasts(1.0)), lambda: next(scripts))
    assert ([len(s.views[0].where) for s in (script, other)], other.lines) == ([1, 2], [])


def groups_go_in_order_of_completion() -> None:
    # 1 is done at 2, which is enough; then 2 at 3 and 0 at 3.5, each on a replica of its own.
    def apart(event: Event, _: View) -> list[Place]:
        return [] if event.kind == "finished" else [Place(i, i) for i in event.rollouts]

    def three_speeds(work: Work) -> float:
        return 1.75 if work.kv_tokens > 80 else 1.5 if work.kv_tokens > 50 else 1.0

    system = SystemSettings("partial", batch_s=lasts(1.0), rollouts=3)
    steps = run([2, 2, 2], range(3), range(3), system, lambda: apart, 8, 3, three_speeds, [90, 1, 60])
    assert [step.trained for step in steps] == [[1], [2], [0]]


def refill_replaces_groups_that_teach_nothing() -> None:
    # 0 and 1 start; 0 is dropped at 2: 2 starts; it is dropped at 3: 3 starts; 1 is whole at 4, 3 at 6: enough.
    # Then only 4 is left, of 2: the run ends.
    groups = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    lengths = [1, 2, 4, 3, 1, 1, 3, 1, 2, 2]
    rewards = [1, 1, 0, 1, 0, 0, 1, 0, 0, 1]
    step_of = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    system = SystemSettings("refill", batch_s=lasts(1.0), rewards=rewards)
    (step,) = run(lengths, groups, step_of, system)
    assert times(step) == (0.0, 6.0, 6.0, 6.0, 7.0)
    assert rows(step.log) == [
        [
            (0.0, (0, 1, 2, 3)),
            (1.0, (1, 2, 3)),
            (2.0, (2, 3, 4, 5)),
            (3.0, (2, 6, 7)),
            (4.0, (6,)),
            (5.0, (6,)),
        ]
    ]
    assert step.trained == [2, 3, 6, 7]
    assert sorted(step.finished) == list(range(8))
    # With RL steps of one group, 1 is trained first, then 3, then 4, and there is none for the last two.
    steps = run(lengths, groups, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], system)
    assert [step.trained for step in steps] == [[2, 3], [6, 7], [8, 9]]
    assert [step.order for step in steps] == [list(range(10)), list(range(4, 10)), [8, 9]]
    assert [(step.start_s, step.end_s) for step in steps] == [(0.0, 6.0), (7.0, 11.0), (12.0, 14.0)]
    # None is dropped: as many as are needed, and no more.
    system = SystemSettings("refill", batch_s=lasts(1.0), rewards=[0, 1] * 5)
    steps = run(lengths, groups, step_of, system)
    assert [step.trained for step in steps] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def refill_judges_when_the_rewards_are_there() -> None:
    # One server, 1 s each: 0 to 2, 1 to 3: dropped. At 3 group 1 starts, whole at 4; rewards at 5 and 6: kept. The
    # trainer starts at 6. Nothing is left for RL step 1.
    system = SystemSettings("refill", batch_s=lasts(1.0), rewards=[1, 1, 1, 0], reward_s=[1.0] * 4)
    (step,) = run([1, 2, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], system)
    assert times(step) == (0.0, 6.0, 6.0, 6.0, 7.0)
    assert rows(step.log) == [[(0.0, (0, 1)), (1.0, (1,)), (3.0, (2, 3))]]
    assert step.trained == [2, 3]
    # Groups of one are never kept.
    system = SystemSettings("refill", batch_s=lasts(1.0), rewards=[1, 0])
    assert run([1, 1], [0, 1], [0, 1], system) == []


def streaming_is_interrupted_by_updates() -> None:
    # Lag 1, so 0 and 1 at first. 0 is done at 2 and trained to 5, 1 at 4: phase 1 from 5.5 on, with 2. Trained 1 at
    # 8: stops 2, whose step ends at 8.5, with 3 tokens. Phase 2 from 9 on with 2 and 3, done at 10 and 11. Then there
    # is nothing left.
    system = SystemSettings("streaming", batch_s=lasts(3.0), sync_s=0.5, rollouts=2, lag=1)
    steps = run([2, 4, 4, 2], range(4), range(4), system)
    assert [times(step) for step in steps] == [
        (0.0, 5.0, 5.0, 2.0, 5.0),
        (5.5, 8.0, 8.5, 4.0, 8.0),
        (9.0, 13.0, 13.0, 10.0, 13.0),
        (13.5, 13.5, 13.5, 11.0, 16.0),
    ]
    assert [step.emitted for step in steps] == [{0: 2, 1: 4}, {2: 3}, {2: 1, 3: 2}, {}]
    assert [step.finished for step in steps] == [[0, 1], [], [2, 3], []]
    assert [(step.carried, step.carried_tokens, step.recomputed) for step in steps] == [
        (0, 0, 0),
        (0, 0, 0),
        (1, 3, 4),
        (0, 0, 0),
    ]
    assert [step.trained for step in steps] == [[0], [1], [2], [3]]
    assert [(step.stale_mean, step.stale_max) for step in steps] == [(0.0, 0), (1.0, 1), (3 / 4, 1), (1.0, 1)]
    assert [step.sync_s for step in steps] == [0.0, 0.5, 0.5, 0.5]


def streaming_goes_past_phases_that_are_over() -> None:
    # 0, 1 and 2 are done at 1 and trained at 2, 3 and 4; a sync takes 4 s: from 2 to 6, and to 10 with the last. Then 3 goes on.
    system = SystemSettings("streaming", batch_s=lasts(1.0), sync_s=4.0, rollouts=3, lag=3)
    steps = run([1, 1, 1, 6], range(4), range(4), system)
    assert [times(step) for step in steps] == [
        (0.0, 2.0, 2.0, 1.0, 2.0),
        (6.0, 6.0, 6.0, 1.0, 3.0),
        (10.0, 10.0, 10.0, 1.0, 4.0),
        (10.0, 16.0, 16.0, 15.0, 16.0),
    ]
    assert [step.emitted for step in steps] == [{0: 1, 1: 1, 2: 1, 3: 1}, {}, {}, {3: 5}]
    assert [step.carried for step in steps] == [0, 1, 1, 1]
    assert (steps[3].stale_mean, steps[3].stale_max) == (3 / 6, 3)
    # An update that ends as the phase would start is in time to end it.
    system = SystemSettings("streaming", batch_s=lasts(1.0), sync_s=1.0, rollouts=3, lag=3)
    steps = run([1, 1, 1, 6], range(4), range(4), system)
    assert [(step.start_s, step.end_s, step.trained_s) for step in steps] == [
        (0.0, 2.0, 2.0),
        (3.0, 3.0, 3.0),
        (4.0, 4.0, 4.0),
        (5.0, 11.0, 11.0),
    ]


def an_update_at_the_instant_that_a_sync_ends_is_in_time() -> None:
    # 0 is trained from 2 to 3, synced to 7; 1 has its reward at 4, and is trained to 7.
    system = SystemSettings(
        "streaming",
        batch_s=lambda batch: 1.0 if batch == [0] else 3.0,
        sync_s=4.0,
        rollouts=3,
        lag=3,
        reward_s=[1.0, 3.0, 3.0, 1.0],
        servers=3,
    )
    steps = run([1, 1, 1, 6], range(4), range(4), system)
    assert [times(step) for step in steps] == [
        (0.0, 3.0, 3.0, 2.0, 3.0),
        (7.0, 7.0, 7.0, 4.0, 7.0),
        (11.0, 11.0, 11.0, 4.0, 10.0),
        (15.0, 23.0, 23.0, 20.0, 23.0),
    ]
    assert [step.order for step in steps] == [[0, 1, 2, 3], [], [], [3]]


def streaming_trains_in_order_of_completion() -> None:
    # 0 is trained from 1 to 9; 2 is done at 3, 1 at 4.
    system = SystemSettings("streaming", batch_s=lasts(8.0), rollouts=3, lag=2)
    assert [step.trained for step in run([1, 4, 3], range(3), range(3), system)] == [[0], [2], [1]]
    # 0 is done first, its reward is there at 7, that of 1 at 3: update 0 waits for 0. No more is submitted than due.
    system = SystemSettings("streaming", batch_s=lasts(1.0), rollouts=9, lag=1, reward_s=[6.0, 1.0, 1.0], servers=2)
    steps = run([1, 2, 1], range(3), range(3), system)
    assert [step.trained for step in steps] == [[0], [1], [2]]
    assert [(step.end_s, step.rewarded_s, step.trained_s) for step in steps] == [
        (8.0, 7.0, 8.0),
        (9.0, 3.0, 9.0),
        (9.0, 10.0, 11.0),
    ]
    assert [step.finished_s for step in steps] == [{0: 1.0, 1: 2.0}, {2: 9.0}, {}]
    # At 2 update 0 ends and 0 (of 2 tokens) is done: nothing takes its place before the phase is over.
    told: list[tuple[float, str, int]] = []

    def recorded(event: Event, view: View) -> list[Place]:
        told.append((view.time_s, event.kind, len(event.rollouts)))
        return everywhere(event, view)

    system = SystemSettings("streaming", batch_s=lasts(1.0), rollouts=2, lag=2)
    steps = run([2, 1, 2], range(3), range(3), system, lambda: recorded)
    assert [step.trained for step in steps] == [[1], [0], [2]]
    assert told[:3] == [(0.0, "start", 2), (1.0, "finished", 1), (1.0, "arrival", 1)]
    assert told[3:5] == [(2.0, "finished", 1), (2.0, "start", 1)]
    assert (steps[0].end_s, steps[1].carried, steps[1].order) == (2.0, 1, [2])


def streaming_stops_at_an_update_though_something_is_done_then() -> None:
    # One in flight. 0 is done at 1 and trained at 3, when 1 is done: 2 is left to the next phase, which it does not
    # begin as carried.
    system = SystemSettings("streaming", batch_s=lasts(2.0), rollouts=1, lag=2)
    steps = run([1, 2, 2], range(3), range(3), system)
    assert [(step.start_s, step.end_s) for step in steps] == [(0.0, 3.0), (3.0, 5.0), (5.0, 5.0)]
    assert [step.carried for step in steps] == [0, 0, 0]
    assert [step.finished_s for step in steps] == [{0: 1.0, 1: 3.0}, {2: 5.0}, {}]


def mini_batches_are_trained_on_as_their_groups_are_ready() -> None:
    # 0 is whole at 1, 2 and 3 at 2, 1 at 4; 1.5 s each: from 1, from 2.5, from 4, from 5.5.
    told: list[list[int]] = []

    def seconds(batch: list[int]) -> float:
        told.append(batch)
        return 1.5

    (step,) = run([1, 4, 2, 2], range(4), [0] * 4, SystemSettings("sync", batch_s=seconds, minibatch=1))
    assert (step.end_s, step.rewarded_s, step.trained_s, step.train_s) == (4.0, 4.0, 7.0, 6.0)
    assert (told, step.trained) == ([[0], [2], [3], [1]], [0, 1, 2, 3])
    # By three: 0, 2 and 3 from 2 to 3.5, 1 from 4 to 5.5.
    told.clear()
    (step,) = run([1, 4, 2, 2], range(4), [0] * 4, SystemSettings("sync", batch_s=seconds, minibatch=3))
    assert (step.trained_s, step.train_s, told) == (5.5, 3.0, [[0, 2, 3], [1]])
    # Rewards at 6, 5, 3 and 3.
    told.clear()
    rewards = [5.0, 1.0, 1.0, 1.0]
    system = SystemSettings("sync", batch_s=seconds, minibatch=1, reward_s=rewards, servers=4)
    (step,) = run([1, 4, 2, 2], range(4), [0] * 4, system)
    assert (step.rewarded_s, step.trained_s, told) == (6.0, 9.0, [[2], [3], [1], [0]])
    # 1 is told of first, and 0, of another replica, at the same instant.
    told.clear()
    crossed = SystemSettings("sync", batch_s=seconds, minibatch=1, reward_s=[1.0, 2.0], servers=2)
    (step,) = run([2, 1], range(2), [0, 0], crossed, lambda: first_alone, replicas=2)
    assert (step.trained_s, told) == (6.0, [[0], [1]])
    # The reward of 1 is late: RL step 1 is ready, but waits.
    told.clear()
    slow = SystemSettings("one_step_async", batch_s=seconds, minibatch=1, reward_s=[1.0, 20.0, 1.0, 1.0], servers=4)
    first, second = run([1] * 4, range(4), [0, 0, 1, 1], slow)
    assert (first.trained_s, second.trained_s, told) == (22.5, 25.5, [[0], [1], [2], [3]])
    # 1 s from 1, 3 s for 0 and 1: to 7; phase 1 is from 4 to 6, and trained on from 7 on.
    system = SystemSettings("one_step_async", batch_s=lasts(3.0), minibatch=1, sync_s=0.5)
    first, second = run([1, 4, 2, 2], range(4), [0, 0, 1, 1], system)
    assert times(first) == (0.0, 4.0, 4.0, 4.0, 7.0)
    assert times(second) == (4.0, 6.0, 6.0, 6.0, 13.0)
    assert (second.stale_max, second.sync_s) == (1, 0.0)


def partial_draws_prompts_for_each_rl_step() -> None:
    # Two are needed. Of 1 times as many, 0 and 1: at 9. Of 1.5 times: 0, 1 and 2, and 1 and 2 are whole at 1; then all.
    system = SystemSettings("partial", batch_s=lasts(1.0), rollouts=6, prompts=Fraction(1))
    steps = run([9, 1, 1, 1, 1, 1], range(6), [0, 0, 1, 1, 2, 2], system)
    assert [(step.start_s, step.end_s) for step in steps] == [(0.0, 9.0), (10.0, 11.0), (12.0, 13.0)]
    assert [step.trained for step in steps] == [[0, 1], [2, 3], [4, 5]]
    system = replace(system, prompts=Fraction(3, 2))
    steps = run([9, 1, 1, 1, 1, 1], range(6), [0, 0, 1, 1, 2, 2], system)
    assert [(step.start_s, step.end_s) for step in steps] == [(0.0, 1.0), (2.0, 3.0), (4.0, 11.0)]
    assert [step.trained for step in steps] == [[1, 2], [3, 4], [0, 5]]
    assert [step.finished for step in steps] == [[1, 2], [3, 4, 5], [0]]
    # 1.25 times one is two, 1.25 times two is three: 1 at 1, 0 at 10, and at 12 both 2 and 3.
    steps = run([9, 1, 9, 1], range(4), range(4), replace(system, prompts=Fraction(5, 4)))
    assert [sorted(step.emitted) for step in steps] == [[0, 1], [0, 2], [2, 3], []]


def partial_holds_a_share_of_an_rl_step_in_flight() -> None:
    # Half of two, then half of four.
    system = SystemSettings("partial", batch_s=lasts(1.0), share=0.5)
    first, second = run([1, 1, 2, 2, 2, 2], range(6), [0, 0, 1, 1, 1, 1], system)
    assert rows(first.log) == [[(0.0, (0,)), (1.0, (1,))]]
    assert rows(second.log) == [[(3.0, (0, 1)), (4.0, (0, 1)), (5.0, (2, 3)), (6.0, (2, 3))]]


def partial_scores_what_each_phase_put_out() -> None:
    # As above: 3, 3, 2 and 1 tokens at 3, and 4 more by 5. With two slots nothing is known of who has no tokens.
    told: list[list[tuple[int, int]]] = []

    def seconds(outputs: list[tuple[int, int]]) -> float:
        told.append(outputs)
        return float(sum(tokens for _, tokens in outputs))

    system = SystemSettings("partial", batch_s=lasts(2.0), sync_s=0.5, rollouts=3, score_s=seconds)
    first, second = run([3, 6, 2, 2], range(4), [0, 0, 1, 1], system)
    assert (first.train_s, second.train_s) == (2.0 + 9, 2.0 + 8)
    assert told == [[(0, 3), (1, 3), (2, 2), (3, 1)], [(1, 6), (3, 2)]]
    told.clear()
    run([2, 5, 1], range(3), range(3), replace(system, score_s=seconds), slots=2)
    assert told[0] == [(0, 2), (1, 2)]


def ready(
    joins: Sequence[tuple[float, int]],
    seconds: Sequence[float],
    servers: int,
    failures: Sequence[int] | None,
    back: float,
    **more: Any,
) -> dict[int, float]:
    """When rewards are there, of rollouts that finish at the times given."""
    env = simpy.Environment(initial_time=0.0)
    there: dict[int, float] = {}
    system = SystemSettings(
        "sync", batch_s=lasts(0.0), reward_s=seconds, servers=servers, failures=failures, backoff_s=back, **more
    )
    stage = RewardStage(env, system, 1, lambda rollout: there.update({rollout: env.now}))

    def finish(at_s: float, rollout: int) -> Process:
        yield env.timeout(at_s)
        stage.join(rollout)

    for at_s, rollout in joins:
        env.process(finish(at_s, rollout))
    env.run()
    return there


def rewards_are_first_come_first_served() -> None:
    # 1 comes first, though it is told of last. With two servers 2 has its own at 2.
    joins = [(2.0, 2), (1.0, 1), (1.0, 0)]
    assert ready(joins, [2.0, 1.0, 1.0], 1, None, 0.0) == {0: 3.0, 1: 4.0, 2: 5.0}
    assert ready(joins, [2.0, 1.0, 1.0], 2, None, 0.0) == {1: 2.0, 0: 3.0, 2: 3.0}
    # 0 fails at 3 and is back at 4.5, behind 2, that has the server to 5.
    assert ready(joins, [2.0, 1.0, 1.0], 1, [1, 0, 0], 1.5) == {1: 4.0, 2: 5.0, 0: 7.0}
    # Off the server for 1.5 and 3 s: 1 to 3, 4.5 to 6.5, 9.5 to 11.5.
    assert ready([(1.0, 0)], [2.0], 1, [2], 1.5) == {0: 11.5}
    # It comes back at 4, when 2 comes: by number.
    assert ready([(1.0, 0), (3.5, 1), (4.0, 2)], [2.0, 1.0, 1.0], 1, [1, 0, 0], 1.0) == {1: 4.5, 0: 6.5, 2: 7.5}
    # No time at all.
    assert ready([(1.0, 0), (1.0, 1)], [0.0, 0.0], 1, [2, 0], 0.0) == {0: 1.0, 1: 1.0}


def rewards_fail_in_a_run() -> None:
    system = SystemSettings(
        "sync", batch_s=lasts(1.0), reward_s=[2.0, 1.0, 1.0], servers=1, failures=[1, 0, 0], backoff_s=1.5
    )
    (step,) = run([1, 1, 2], [0, 0, 0], [0, 0, 0], system)
    assert times(step) == (0.0, 2.0, 2.0, 7.0, 8.0)


def servers_are_held_or_free_meanwhile() -> None:
    # One server, 2 s a try, 1.5 s of waiting: 0 fails once. Held: 0 has it to 1 + 2 + 1.5 + 2, then 1. Free: 1 goes first.
    joins = [(1.0, 0), (1.0, 1)]
    assert ready(joins, [2.0, 1.0], 1, [1, 0], 1.5, holds=True) == {0: 6.5, 1: 7.5}
    assert ready(joins, [2.0, 1.0], 1, [1, 0], 1.5) == {1: 4.0, 0: 6.5}
    # Three tries of three, 5 s after each, the last as well; with growth 3, 1 + 3 + 9 s.
    assert ready([(1.0, 0)], [2.0], 1, [3], 5.0, growth=1.0, tries=3, holds=True) == {0: 22.0}
    assert ready([(1.0, 0)], [2.0], 1, [3], 5.0, growth=1.0, tries=3) == {0: 22.0}
    assert ready([(1.0, 0)], [2.0], 1, [3], 1.0, growth=3.0, tries=3) == {0: 20.0}
    # One that gives up holds on to the end; one that is off the server lets the next one in at 3.
    joins = [(1.0, 0), (2.0, 1)]
    assert ready(joins, [2.0, 1.0], 1, [1, 0], 4.0, tries=1, holds=True) == {0: 7.0, 1: 8.0}
    assert ready(joins, [2.0, 1.0], 1, [1, 0], 4.0, tries=1) == {1: 4.0, 0: 7.0}


def a_batch_is_judged_when_it_is_whole() -> None:
    # 0 is done at 1, 1 at 2; two servers. As they finish: to 4 and 3. When all have: to 5 and 3.
    system = SystemSettings("sync", batch_s=lasts(1.0), reward_s=[3.0, 1.0], servers=2)
    assert times(*run([1, 2], [0, 1], [0, 0], system)) == (0.0, 2.0, 2.0, 4.0, 5.0)
    system = replace(system, after_batch=True)
    assert times(*run([1, 2], [0, 1], [0, 0], system)) == (0.0, 2.0, 2.0, 5.0, 6.0)
    # Not before the replicas are quiet: 1 makes the batch at 2, 0 ends a step at 3. Then 1 is judged to 7, and 0 with its own.
    system = SystemSettings("partial", batch_s=lasts(2.0), rollouts=3, reward_s=[4.0] * 3, servers=3, after_batch=True)
    steps = run([2, 2, 9], range(3), range(3), system, lambda: first_alone, 8, 2, slow_and_fast, [60, 1, 1])
    assert times(steps[0]) == (0.0, 2.0, 3.0, 7.0, 9.0)
    assert times(steps[1]) == (9.0, 9.0, 9.0, 13.0, 15.0)
    # Streaming has a batch as soon as there is one, at 2 and 4: judged to 5 and 7, the second behind the first's update.
    system = SystemSettings(
        "streaming", batch_s=lasts(3.0), rollouts=2, lag=1, reward_s=[3.0] * 2, servers=2, after_batch=True
    )
    first, second = run([2, 4], range(2), range(2), system)
    assert (first.rewarded_s, first.trained_s, second.rewarded_s, second.trained_s) == (5.0, 8.0, 7.0, 11.0)


def rollouts_go_on_from_what_they_keep() -> None:
    # 1 s of verifying, then 0 has 3 of 5 tokens, 1 all of 2, 2 none of 1: 2 s of generation. What is kept was sampled an RL step
    # before.
    system = SystemSettings(
        "sync", batch_s=lasts(1.0), kept=[3, 2, 0], verify_s=lasts(1.0), reward_s=[2.0] * 3, servers=3
    )
    (step,) = run([5, 2, 1], [0, 1, 2], [0, 0, 0], system)
    assert times(step) == (1.0, 3.0, 3.0, 5.0, 6.0)
    assert (step.verify_s, step.finished, step.finished_s) == (1.0, [1, 2, 0], {1: 1.0, 2: 2.0, 0: 3.0})
    assert (step.order, step.emitted, step.recomputed) == ([0, 2], {0: 2, 2: 1}, 1 + 3)
    assert (step.stale_mean, step.stale_max) == (5 / 8, 1)
    # Nobody has anything left: judged at once.
    (step,) = run([2], [0], [0], replace(system, kept=[2], reward_s=[2.0]))
    assert times(step) == (1.0, 1.0, 1.0, 3.0, 4.0)


CASES = [
    sync_does_one_after_the_other,
    sync_waits_for_the_rewards,
    one_step_async_is_a_step_ahead,
    a_sync_is_of_the_version_that_there_is_when_it_starts,
    an_update_at_the_instant_that_a_phase_ends_is_in_time,
    partial_carries_what_is_not_finished,
    no_more_are_in_flight_than_asked_for,
    what_a_step_under_way_finishes_is_for_later_batches,
    the_carried_with_tokens_come_first,
    groups_that_are_whole_at_one_instant_go_by_number,
    all_that_finish_at_an_instant_make_one_submission,
    groups_go_in_order_of_completion,
    refill_replaces_groups_that_teach_nothing,
    refill_judges_when_the_rewards_are_there,
    streaming_is_interrupted_by_updates,
    streaming_goes_past_phases_that_are_over,
    an_update_at_the_instant_that_a_sync_ends_is_in_time,
    streaming_trains_in_order_of_completion,
    streaming_stops_at_an_update_though_something_is_done_then,
    mini_batches_are_trained_on_as_their_groups_are_ready,
    partial_draws_prompts_for_each_rl_step,
    partial_holds_a_share_of_an_rl_step_in_flight,
    partial_scores_what_each_phase_put_out,
    rewards_are_first_come_first_served,
    rewards_fail_in_a_run,
    servers_are_held_or_free_meanwhile,
    a_batch_is_judged_when_it_is_whole,
    rollouts_go_on_from_what_they_keep,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_by_hand(case: Callable[[], None]) -> None:
    case()


# Broken on purpose ----------------------------------------------------------------------------------------------------

BROKEN = [
    # The loops.
    (System, "behind", "return 1 if", "return 2 if"),
    (System, "behind", "return 1 if", "return 0 if"),
    (System, "in_flight", "self.ready_s if self.judges() else self.finished_s", "{}"),
    (System, "due", "self.version + self.settings.lag", "self.version"),
    (System, "due", "min(ahead, self.steps - 1)", "-1"),
    (
        System,
        "offer",
        "self.at_most(phase.step) - self.in_flight(phase), self.drawn",
        "self.at_most(phase.step), self.drawn",
    ),
    (System, "at_most", "self.end[j] - (self.end[j - 1] if j else 0)", "self.end[j]"),
    (System, "drawn", "i <= last", "True"),
    (System, "drawn", "math.ceil(", "math.floor("),
    (System, "drawn", "self.needed[: phase.step + 1]", "self.needed[phase.step : phase.step + 1]"),
    (System, "offer", "self.settings.rollouts - self.in_flight(phase), self.due", "self.settings.rollouts, self.due"),
    (System, "offer", " - self.open_groups(), 0)", ", 0)"),
    (System, "offer", "self.needed[phase.step] - len(self.complete)", "self.needed[phase.step]"),
    (System, "enough", ">= self.needed[phase.step]\n    if", "> self.needed[phase.step]\n    if"),
    (System, "enough", ">= self.needed[phase.step] or nothing", ">= self.needed[phase.step]"),
    (System, "enough", "self.in_flight(phase) == 0 and self.due(phase) == 0", "len(self.complete) > 0"),
    (System, "enough", "self.version > phase.step", "len(self.complete) > 0"),
    (System, "order", "i < self.end[j]", "True"),
    (System, "order", "started + waiting", "carried"),
    (System, "order", "started + waiting", "waiting + started"),
    # When a phase starts and ends.
    (System, "generate", "yield self.change\n            yield Turn(self.env, self.last)", "yield self.change"),
    (System, "generate", "yield self.env.timeout(sync_s)\n            yield Turn(self.env, self.last)", "pass"),
    (
        System,
        "generate",
        "yield self.env.timeout(sync_s)\n            yield Turn(self.env, self.last)",
        "yield self.env.timeout(sync_s)",
    ),
    (System, "generate", "self.loaded < self.version", "j > 0"),
    (
        System,
        "generate",
        "yield self.env.timeout(sync_s)",
        "yield self.env.timeout(sync_s); self.loaded = self.version",
    ),
    (System, "generate", "if self.enough(phase) or not order:", "if not order:"),
    (System, "generate", "if self.enough(phase) or not order:", "if self.enough(phase):"),
    (System, "generate", "for i in order if i in self.begun}", "for i in order if self.tokens[i] > 0}"),
    (System, "run", "[self.tokens[i] for i in phase.order]", "[0 for i in phase.order]"),
    (
        System,
        "listen",
        "        self.finish(phase, phase.order[position])\n",
        "        self.finish(phase, phase.order[position])\n            self.ask(phase)\n",
    ),
    (System, "ask", "if phase.over.triggered:", "if False:"),
    (System, "generate", "yield self.env.timeout(verify_s)", "pass"),
    (System, "keep", "self.tokens[i] = self.settings.kept[i]", "pass"),
    (System, "keep", "self.finish(phase, i)", "self.finished_s[i] = self.env.now"),
    # What is trained, and when.
    (System, "finish", "if self.settings.reward_s is None:", "if True:"),
    (System, "finish", "not self.judges() and all(", "not self.judges() and any("),
    (System, "rewarded", "self.judged.add(self.group[rollout])", "pass"),
    (System, "rewarded", "> 1:", "> 0:"),
    (System, "reward_arrived", "self.ask(self.phases[-1])", "pass"),
    (System, "form_batch", "(max(self.finished_s[i] for i in self.members[g]), g)", "g"),
    (
        System,
        "form_batch",
        "(max(self.finished_s[i] for i in self.members[g]), g)",
        "min(self.finished_s[i] for i in self.members[g])",
    ),
    (System, "form_batch", "self.complete.sort(", "sorted(self.complete, "),
    (System, "trainable", " or not all(i in self.ready_s for i in self.batches[j])", ""),
    (System, "trainable", "or not math.isnan(self.phases[j].quiet_s)", "or True"),
    (System, "train", "self.ask(self.phases[-1])", "pass"),
    (System, "train_in_parts", "[done : done + size]", "[:size]"),
    (System, "train_in_parts", "train_s + seconds", "seconds"),
    (System, "ready_groups", "(max(self.ready_s[i] for i in self.members[g]), g)", "g"),
    (System, "ready_groups", "(max(self.ready_s[i] for i in self.members[g]), g)", "-g"),
    (System, "ready_groups", "step == j", "step >= j"),
    (System, "ready_groups", "self.ready_s for", "self.finished_s for"),
    (System, "scored_s", " if self.tokens[i] > 0", ""),
    (System, "scored_s", "phase.order[: phase.submitted]", "phase.finished"),
    # Rewards.
    (RewardStage, "serve", "self.queue.sort()", "pass"),
    (RewardStage, "serve", "self.busy < self.settings.servers", "True"),
    (RewardStage, "serve", "yield Turn(self.env, self.rank)", "yield Turn(self.env, -9)"),
    (RewardStage, "attempt", "** (self.failed[rollout] - 1)", "** self.failed[rollout]"),
    (RewardStage, "attempt", "settings.growth **", "2 **"),
    (RewardStage, "attempt", "settings.growth **", "1 **"),
    (RewardStage, "attempt", "if not (fails and settings.holds):\n        self.free()", "pass"),
    (RewardStage, "attempt", "not (fails and settings.holds)", "not fails"),
    (RewardStage, "attempt", "not (fails and settings.holds)", "not settings.holds"),
    (RewardStage, "attempt", "not (fails and settings.holds)", "True"),
    (RewardStage, "attempt", "if fails and settings.holds:\n            self.free()", "pass"),
    (RewardStage, "attempt", "self.failed[rollout] < failures", "self.failed[rollout] <= failures"),
    (RewardStage, "attempt", "self.failed[rollout] != settings.tries", "True"),
    (RewardStage, "attempt", "self.env.process(self.attempt(rollout))", "self.busy -= 1; self.join(rollout)"),
    (System, "finish", "elif not self.settings.after_batch:", "else:"),
    (
        System,
        "generate",
        "and not self.streaming():\n            self.judge(j)",
        "and False:\n            pass",
    ),
    (System, "form_batch", "and self.streaming():\n        self.judge(j)", "and False:\n        pass"),
    (System, "form_batch", "self.settings.after_batch and self.streaming()", "self.settings.after_batch"),
    # What is reported.
    (System, "account", "result.emitted[position] - self.tokens[rollout]", "result.emitted[position]"),
    (System, "account", "sum(result.recomputed)", "max(result.recomputed)"),
    (System, "result", "j - earlier.version", "j - earlier.step"),
    (System, "result", "(self.phases[j].version - 1)", "self.phases[j].version"),
    (System, "result", "max(self.ready_s[i] for i in batch)", "max(self.ready_s.values())"),
    (System, "result", "{i: self.finished_s[i] for i in phase.finished}", "self.finished_s"),
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken[0].__name__}.{broken[1]}")
def test_a_broken_system_fails_by_hand(monkeypatch: pytest.MonkeyPatch, broken: tuple[type, str, str, str]) -> None:
    owner, name, right, wrong = broken
    source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    assert source.count(right) == 1, f"{right!r} is not what is written in {name}"
    scope = dict(vars(inspect.getmodule(owner)))
    exec(source.replace(right, wrong), scope)
    monkeypatch.setattr(owner, name, scope[name])
    assert any(fails(case) for case in CASES)


# Theory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sync_s", [0.0, 0.5])
@pytest.mark.parametrize("train_s", [0.5, 3.0, 3.25, 3.5, 4.0, 9.0])
def test_steps_of_one_step_async_take_the_longer_of_generation_and_training(train_s: float, sync_s: float) -> None:
    system = SystemSettings("one_step_async", batch_s=lasts(train_s), sync_s=sync_s)
    steps = run([3] * 8, range(8), range(8), system)
    apart = [b.trained_s - a.trained_s for a, b in itertools.pairwise(steps)]
    assert apart[3:] == [max(3.0 + sync_s, train_s)] * 4


@pytest.mark.parametrize("sync_s", [0.0, 0.5])
@pytest.mark.parametrize("train_s", [0.5, 3.0, 9.0])
def test_steps_of_sync_take_generation_and_training(train_s: float, sync_s: float) -> None:
    steps = run([3] * 6, range(6), range(6), SystemSettings("sync", batch_s=lasts(train_s), sync_s=sync_s))
    assert [b.trained_s - a.trained_s for a, b in itertools.pairwise(steps)] == [sync_s + 3.0 + train_s] * 5
    assert [step.trained_s for step in steps] == [step.end_s + train_s for step in steps]


def multi_server(
    joins: Sequence[tuple[float, int]], seconds: Sequence[float], servers: int, failures: Sequence[int], back: float
) -> dict[int, float]:
    """When rewards are there: the next in the queue takes the server that is free first."""
    queue = [(at_s, rollout, 0) for at_s, rollout in joins]
    heapq.heapify(queue)
    free_s = [0.0] * servers
    there = {}
    while queue:
        came_s, rollout, tries = heapq.heappop(queue)
        end_s = max(came_s, heapq.heappop(free_s)) + seconds[rollout]
        heapq.heappush(free_s, end_s)
        if tries < failures[rollout]:
            heapq.heappush(queue, (end_s + back * 2**tries, rollout, tries + 1))
        else:
            there[rollout] = end_s
    return there


slowly = examples(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@slowly
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_rewards_are_those_of_a_multi_server_queue(seed: int, servers: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(1, 12)
    joins = [(rng.randint(0, 12) / 2, rollout) for rollout in range(count)]
    rng.shuffle(joins)
    seconds = [rng.choice([0.5, 1.0, 2.75]) for _ in range(count)]
    failures = [rng.choice([0, 0, 1, 2]) for _ in range(count)]
    back = rng.choice([0.25, 0.5, 2.0])
    assert ready(joins, seconds, servers, failures, back) == multi_server(joins, seconds, servers, failures, back)


@slowly
@given(st.integers(0, 2**32))
def test_a_run_of_sync_is_its_phases_and_its_queue_of_rewards(seed: int) -> None:
    rng = random.Random(seed)
    scene = Scene(rng, "sync")
    now_s = 0.0
    for j, step in enumerate(scene.play()):
        assert (step.start_s, step.quiet_s) == (now_s + step.sync_s, step.end_s)
        ends = [(at_s, rollout) for rollout, at_s in step.finished_s.items()]
        rewarded_s = max(at_s for at_s, _ in ends)
        if scene.system.reward_s is not None:
            system = scene.system
            there = multi_server(ends, system.reward_s, system.servers, system.failures, system.backoff_s)
            rewarded_s = max(there.values())
        assert step.rewarded_s == rewarded_s
        now_s = step.trained_s
        assert now_s == rewarded_s + scene.system.batch_s([i for i, s in enumerate(scene.step_of) if s == j])


@slowly
@given(st.integers(0, 2**32))
def test_without_a_lag_and_with_room_streaming_trains_when_sync_does(seed: int) -> None:
    scene = Scene(random.Random(seed), "sync")
    sync = scene.play()
    scene.system = replace(scene.system, loop="streaming", lag=0, rollouts=len(scene.requests))
    streaming = scene.play()
    assert [step.trained_s for step in streaming] == [step.trained_s for step in sync]
    assert [step.finished_s for step in streaming] == [step.finished_s for step in sync]
    assert [step.trained for step in streaming] == [step.trained for step in sync]
    assert all(step.stale_max == 0 for step in streaming)


@slowly
@given(st.integers(0, 2**32))
def test_where_nothing_is_dropped_refill_is_sync(seed: int) -> None:
    scene = Scene(random.Random(seed), "sync", least=2)
    sync = scene.play()
    seen: Counter[int] = Counter()
    rewards = []
    for group in scene.groups:
        rewards.append(float(seen[group] == 0))
        seen[group] += 1
    scene.system = replace(scene.system, loop="refill", rewards=rewards)
    refill = scene.play()
    for a, b in zip(sync, refill, strict=True):
        assert (a.start_s, a.rewarded_s, a.trained_s, a.trained) == (b.start_s, b.rewarded_s, b.trained_s, b.trained)
        assert (a.finished_s, a.emitted) == (b.finished_s, b.emitted)
        assert b.end_s == (a.end_s if scene.system.reward_s is None else a.rewarded_s)


# In general -----------------------------------------------------------------------------------------------------------


def request(rng: random.Random) -> Request:
    """Of one turn, or of two."""
    first, second = rng.choice([1, 2, 3, 8]), rng.choice([0, 0, 1, 4])
    turns = [(first, rng.choice([0.5, 6.0])), (second, 0.0)] if second else []
    return Request(rng.randint(0, 9), first + second, turns=turns)


class Scene:
    """A short stream, and a system that may do anything with it."""

    def __init__(self, rng: random.Random, loop: str, least: int = 1, whole: bool = True) -> None:
        self.groups: list[int] = []
        self.step_of: list[int] = []
        for step in range(rng.randint(1, 4)):
            for _ in range(rng.randint(1, 3)):
                group = self.groups[-1] + 1 if self.groups else 0
                size = rng.randint(least, 3)
                self.groups += [group] * size
                self.step_of += [step] * size
        count = len(self.groups)
        self.requests = [request(rng) for _ in range(count)]
        staged = rng.random() < 0.5
        self.system = SystemSettings(
            loop,
            batch_s=rng.choice([lasts(0.25), lasts(40.0), lambda batch: 1.0 + 0.5 * sum(batch)]),
            rollouts=rng.randint(1, 8),
            lag=rng.randint(0, 3),
            reward_s=[rng.choice([0.5, 1.0, 9.0]) for _ in range(count)] if staged else None,
            servers=rng.randint(1, 3),
            failures=[rng.choice([0, 0, 1, 2]) for _ in range(count)] if staged else None,
            backoff_s=rng.choice([0.25, 4.0]),
            sync_s=rng.choice([0.0, 0.5, 20.0]),
            rewards=[rng.choice([0.0, 0.0, 1.0]) for _ in range(count)],
        )
        if whole:
            pass
        elif loop in ("sync", "one_step_async"):
            self.system = replace(self.system, minibatch=rng.choice([0, 0, 1, 2]))
        elif loop == "partial":
            self.system = replace(
                self.system,
                share=rng.choice([None, 0.4, 1.5]),
                prompts=rng.choice([None, Fraction(1), Fraction(4, 3)]),
                score_s=rng.choice([None, lambda outputs: 0.25 * sum(tokens for _, tokens in outputs)]),
            )
        self.settings = Settings(
            max_num_seqs=rng.randint(1, 4),
            max_num_batched_tokens=rng.choice([None, 4]),
            block_size=4,
            num_gpu_blocks=rng.choice([None, 8, 12]),
            async_scheduling=rng.random() < 0.5,
        )
        self.replicas = rng.randint(1, 3)
        self.by_number = rng.random() < 0.5
        self.moving = rng.random() < 0.3
        self.told: list[list[Event]] = []  # by phase that is not empty

    def placement(self) -> Placement:
        inner = Moving() if self.moving else everywhere
        told: list[Event] = []
        self.told.append(told)

        def recorded(event: Event, view: View) -> Sequence[Place]:
            told.append(event)
            return inner(event, view)

        return recorded

    def play(self) -> list[RLStep]:
        self.told = []
        return play(
            self.requests,
            self.groups,
            self.step_of,
            self.settings,
            lambda work: 0.5 + 0.125 * work.query_tokens,
            self.replicas,
            self.placement,
            self.system,
            0.25,
            self.by_number,
        )


class Moving:
    """Has rollouts move on after every three tokens."""

    def __init__(self) -> None:
        self.moves = 0

    def __call__(self, event: Event, view: View) -> list[Place]:
        self.moves += 1
        kv = "pull" if self.moves % 2 else "recompute"
        return [] if event.kind == "finished" else [Place(i, ANY, 3, kv) for i in event.rollouts]


@examples(max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.sampled_from(LOOPS))
def test_every_token_is_accounted_for(seed: int, loop: str) -> None:
    scene = Scene(random.Random(seed), loop, whole=False)
    steps = scene.play()
    audit_times(scene, steps)
    audit_rollouts(scene, steps)
    audit_batches(scene, steps)


def audit_times(scene: Scene, steps: list[RLStep]) -> None:
    for j, step in enumerate(steps):
        assert step.start_s <= step.end_s <= step.quiet_s
        assert len(step.log) == scene.replicas
        for entry in itertools.chain(*step.log):
            assert step.start_s <= entry.start_s <= step.end_s
            assert entry.start_s + entry.dt_s <= step.quiet_s
        from_s = [step.rewarded_s, steps[j - 1].trained_s if j else 0.0]
        if scene.system.minibatch:
            assert max(from_s[0], from_s[1] + step.train_s) <= step.trained_s <= max(from_s) + step.train_s
            continue
        scored_s = 0.0
        if scene.system.score_s is not None:
            outputs = {i for i in step.emitted if i not in step.finished} | set(step.finished)
            scored_s = scene.system.score_s([(i, sum(a.emitted.get(i, 0) for a in steps[: j + 1])) for i in outputs])
        assert step.train_s >= scene.system.batch_s(step.trained) + scored_s
        assert scene.system.score_s or step.train_s == scene.system.batch_s(step.trained)
        if scene.system.loop != "streaming":
            from_s.append(step.end_s if scene.system.loop == "one_step_async" else step.quiet_s)
        assert step.trained_s == max(from_s) + step.train_s
    for j, (a, b) in enumerate(itertools.pairwise(steps)):
        behind = scene.system.loop == "one_step_async"
        updated_s = a.trained_s if not behind else steps[j - 1].trained_s if j else 0.0
        assert b.start_s == max(a.quiet_s, updated_s) + b.sync_s
        two_updates = scene.system.loop == "streaming" and a.start_s == a.end_s  # the sync before had the second one
        assert b.sync_s == scene.system.sync_s or (behind and j == 0) or (two_updates and b.sync_s == 0.0)


def audit_rollouts(scene: Scene, steps: list[RLStep]) -> None:
    requests, system = scene.requests, scene.system
    finished = [i for step in steps for i in step.finished]
    assert len(set(finished)) == len(finished)
    assert sorted(finished) == list(range(len(requests))) or system.loop == "refill"
    tokens = [0] * len(requests)
    told = iter(scene.told)
    begun: set[int] = set()
    done: set[int] = set()
    for j, step in enumerate(steps):
        carried = begun - done
        assert step.carried == len(carried)
        assert step.carried_tokens == sum(tokens[i] for i in carried)
        if step.order:
            left = [i for i in step.order if i not in carried]
            assert step.order == sorted(carried, key=lambda i: (tokens[i] == 0, i)) + left
            assert left == sorted(left)
        logged: Counter[int] = Counter()
        for entry in itertools.chain(*step.log):
            in_flight = system.rollouts
            if system.share is not None:
                in_flight = max(round(system.share * scene.step_of.count(j)), 1)
            assert len(entry.shares) <= in_flight or system.loop not in ("partial", "streaming")
            for share in entry.shares:
                logged[step.order[share.rollout]] += share.emitted
        assert step.emitted == +logged
        for i, emitted in step.emitted.items():
            tokens[i] += emitted
        done |= set(step.finished)
        assert set(step.finished_s) == set(step.finished)
        assert [i for i in range(len(requests)) if tokens[i] == requests[i].output_tokens] == sorted(done)
        if system.loop in ("sync", "one_step_async"):
            assert step.order == [i for i, at in enumerate(scene.step_of) if at == j] == sorted(step.finished)
        if system.loop == "streaming":
            assert all(scene.step_of[i] <= j + system.lag for i in step.emitted)
        if step.order:
            events = [event for event in next(told) if event.kind in ("start", "arrival")]
            assert [event.kind for event in events] == ["start"] + ["arrival"] * (len(events) - 1)
            assert all(event.rollouts for event in events), "nothing is submitted"
            submitted = [position for event in events for position in event.rollouts]
            assert submitted == list(range(len(submitted))), "in order"
            assert set(step.order[: len(carried)]) == carried
            begun |= {step.order[position] for position in submitted}


def audit_batches(scene: Scene, steps: list[RLStep]) -> None:
    system = scene.system
    trained = [i for step in steps for i in step.trained]
    assert len(set(trained)) == len(trained)
    assert sorted(trained) == list(range(len(scene.requests))) or system.loop == "refill"
    at_s = {i: at_s for step in steps for i, at_s in step.finished_s.items()}
    whole: list[tuple[float, int]] = []
    for j, step in enumerate(steps):
        groups = {scene.groups[i] for i in step.trained}
        assert len(groups) == len({g for g, at in zip(scene.groups, scene.step_of, strict=True) if at == j})
        assert step.trained == [i for i, g in enumerate(scene.groups) if g in groups]
        assert step.rewarded_s >= max(at_s[i] for i in step.trained)
        whole += sorted((max(at_s[i] for i in step.trained if scene.groups[i] == g), g) for g in groups)
        stale = [j - k for k, phase in enumerate(steps) for i in step.trained for _ in range(phase.emitted.get(i, 0))]
        if system.loop == "one_step_async":
            stale = [min(j, 1)] * len(stale)
        assert (step.stale_mean, step.stale_max) == (pytest.approx(sum(stale) / len(stale)), max(stale))
        if system.loop == "refill":
            for g in groups:
                assert len({system.rewards[i] for i in step.trained if scene.groups[i] == g}) == 2
    if system.loop in ("partial", "streaming"):
        assert whole == sorted(whole)
