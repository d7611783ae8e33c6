"""The reference cluster against cases small enough for paper, against one engine alone, and against its own accounts.

The cases are also run on clusters broken on purpose: each of those must fail one.
"""

import inspect
import itertools
import math
import random
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import simpy
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.reference import cluster as module
from tests.reference import engine as lockstep
from tests.reference import policies, serving
from tests.reference.cluster import (
    ANY,
    CANCELLED,
    FINISHED,
    HELD,
    QUEUED,
    UNKNOWN,
    Cancel,
    Cluster,
    ClusterResult,
    Event,
    Place,
    Ranks,
    Replica,
    View,
    simulate,
)
from tests.reference.serving import Engine, Request, Rollout, Settings, Work
from tests.reference.test_serving_invariants import bounded, lock_step_rollout, scenarios

Decisions = Sequence[Place | Cancel]
NAN = math.nan


def ten(_: Work) -> float:
    return 10.0


def unit(_: Work) -> float:
    return 1.0


def prefill(tokens: int, kv_tokens: int, pairs: int, live: int = 1) -> Work:
    """A step of prompt or resumed tokens alone."""
    return Work(live, tokens, kv_tokens, pairs, tokens, live, kv_tokens, pairs, 0, tokens)


def decode(*contexts: int) -> Work:
    """A step of one query token in each of the contexts."""
    live, kv = len(contexts), sum(contexts)
    return Work(live, live, kv, kv, 0, 0, 0, 0, max(contexts), live)


class Script:
    """A placement that knows what it will be told: (time, kind, rollouts, replica) and what it answers, in order."""

    def __init__(self, *lines: tuple[float, str, Sequence[int], int | None, Decisions]) -> None:
        self.lines = list(lines)
        self.views: list[View] = []

    def __call__(self, event: Event, view: View) -> Decisions:
        assert self.lines, f"{event} is one too many"
        *expected, decisions = self.lines.pop(0)
        assert [view.time_s, event.kind, list(event.rollouts), event.replica] == expected
        self.views.append(view)
        return decisions

    def run(self, requests: Sequence[Request], settings: Settings, cost: serving.Cost, replicas: int, **more: object):
        result = simulate(requests, settings, patient(cost), replicas, self, **more)
        assert not self.lines, f"{self.lines} was not told"
        return result


def patient(cost: serving.Cost) -> serving.Cost:
    """No case takes so many steps."""
    calls = iter(range(100))

    def counted(work: Work) -> float:
        assert next(calls, None) is not None, "no end in sight"
        return cost(work)

    return counted


def anywhere(*rollouts: int) -> list[Place]:
    return [Place(rollout) for rollout in rollouts]


def everywhere(event: Event, _: View) -> list[Place]:
    return [] if event.kind == "finished" else anywhere(*event.rollouts)


def rows(result: ClusterResult) -> list[list[tuple[float, tuple[int, ...]]]]:
    """By replica, when its steps start and with whom."""
    return [[(step.start_s, tuple(share.rollout for share in step.shares)) for step in log] for log in result.log]


def same(left: Sequence[float], right: Sequence[float]) -> bool:
    return len(left) == len(right) and all(a == b or (a != a and b != b) for a, b in zip(left, right, strict=True))


# By hand --------------------------------------------------------------------------------------------------------------


def a_stay_ends_with_its_tokens() -> None:
    # A stay of 2 from 0 tokens: left at 2; one of 1 from 2: left at 3; then to its end. Each time all its tokens again.
    script = Script(
        (0.0, "start", [0], None, [Place(0, 0, 2)]),
        (2.0, "left", [0], 0, [Place(0, 0, 1)]),
        (3.0, "left", [0], 0, [Place(0, 0)]),
        (5.0, "finished", [0], 0, []),
    )
    result = script.run([Request(2, 5)], Settings(1), unit, 1)
    assert [step.work for step in result.log[0]] == [
        prefill(2, 2, 3),
        decode(3),
        prefill(4, 4, 10),
        prefill(5, 5, 15),
        decode(6),
    ]
    assert (result.emitted, result.recomputed, result.finished_s, result.replica) == ([5], [4 + 5], [5.0], [0])
    assert [view.where for view in script.views] == [[HELD], [HELD], [HELD], [FINISHED]]
    assert [view.emitted for view in script.views] == [[0], [2], [3], [5]]
    assert (result.queued_s, result.admitted_s, result.first_token_s, result.steps) == ([0.0], [0.0], [1.0], [5])


def a_stay_cuts_what_a_step_emits_and_is_cut_at_the_end() -> None:
    # 3 drafts are right, but the stay has room for one token; the next stay is longer than what is left.
    drafts = [0, 3, 2, 1, 0]
    script = Script(
        (0.0, "start", [0], None, [Place(0, 0, 2)]),
        (2.0, "left", [0], 0, [Place(0, 0, 99)]),
        (4.0, "finished", [0], 0, []),
    )
    result = script.run([Request(1, 5, accepted=drafts, drafted=drafts)], Settings(1, budget=3), unit, 1)
    assert [step.emitted_tokens for step in result.log[0]] == [1, 1, 1, 2]
    assert [step.work.query_tokens for step in result.log[0]] == [1, 4, 3, 2]
    assert (result.drafted, result.accepted, result.emitted) == ([4], [1 + 1], [5])


def a_stay_frees_its_slot_and_its_kv() -> None:
    # Blocks of 2, 3 of them, one slot. 0 leaves 1 and 2 at 2, is held while 1 has them all, and finds nothing at 5.
    script = Script(
        (0.0, "start", [0, 1], None, [Place(0, 0, 2), Place(1, 0)]),
        (2.0, "left", [0], 0, []),
        (5.0, "finished", [1], 0, [Place(0, 0)]),
        (6.0, "finished", [0], 0, []),
    )
    settings = Settings(1, block_size=2, num_gpu_blocks=4)
    result = script.run([Request(2, 3), Request(3, 3)], settings, unit, 1)
    assert rows(result) == [[(0.0, (0,)), (1.0, (0,)), (2.0, (1,)), (3.0, (1,)), (4.0, (1,)), (5.0, (0,))]]
    assert [step.free_blocks for step in result.log[0]] == [2, 1, 1, 1, 0, 1]
    assert (result.recomputed, result.hit_tokens) == ([4, 0], [0, 0])


def a_turn_that_ends_with_the_stay_is_a_turn() -> None:
    # Turns of 2, 1 and 2 tokens. A stay of 2 ends with the first: back at 5, and no limit from then on.
    request = Request(1, 5, turns=[(2, 3.0), (1, 2.0), (2, 0.0)])
    script = Script((0.0, "start", [0], None, [Place(0, 0, 2)]), (10.0, "finished", [0], 0, []))
    result = script.run([request], Settings(1), unit, 1)
    assert rows(result) == [[(at, (0,)) for at in (0.0, 1.0, 5.0, 8.0, 9.0)]]
    assert result.recomputed == [3 + 4]
    # A stay of 4 goes on after both turns and ends a token later; while away it takes no room.
    script = Script(
        (0.0, "start", [0], None, [Place(0, 0, 4)]),
        (3.0, "arrival", [], None, []),
        (9.0, "left", [0], 0, [Place(0, 1)]),
        (10.0, "finished", [0], 1, []),
    )
    result = script.run([request], Settings(1), unit, 2, submissions=[(3.0, [])])
    away = script.views[1]
    assert (away.running, away.waiting, away.room, away.where, away.emitted) == ([0, 0], [0, 0], [1, 1], [0], [0])
    assert rows(result) == [[(at, (0,)) for at in (0.0, 1.0, 5.0, 8.0)], [(9.0, (0,))]]
    assert (result.replica, result.recomputed) == ([1], [3 + 4 + 5])


def one_that_moves_recomputes_or_pulls() -> None:
    # 3 + 2 tokens, 4 of them in KV: 2 s of transfer. Pulled, it computes the fifth and emits.
    def move(place: Place, joins_s: float, ends_s: float, pull_s_per_token: float = 0.5) -> ClusterResult:
        script = Script(
            (0.0, "start", [0], None, [replace(place, replica=0, stay_tokens=2)]),  # to pull from nowhere is to compute
            (2.0, "left", [0], 0, [place]),
            (ends_s, "finished", [0], place.replica, []),
        )
        result = script.run([Request(3, 4)], Settings(2, block_size=2), unit, 2, pull_s_per_token=pull_s_per_token)
        steps = [step for log in result.log for step in log]
        assert [step.start_s for step in steps] == [0.0, 1.0, joins_s, joins_s + 1.0]
        assert [step.work for step in steps[:2]] == [prefill(3, 3, 6), decode(4)]
        return result

    recompute = move(Place(0, 1), 2.0, 4.0)
    assert [step.work for step in recompute.log[1]] == [prefill(5, 5, 15), decode(6)]
    assert (recompute.recomputed, recompute.hit_tokens, recompute.replica) == ([5], [0], [1])
    pull = move(Place(0, 1, kv="pull"), 4.0, 6.0)
    assert [step.work for step in pull.log[1]] == [prefill(1, 5, 5), decode(6)]
    assert (pull.recomputed, pull.hit_tokens, pull.queued_s, pull.admitted_s) == ([1], [0], [0.0], [0.0])
    # Where it was: two blocks are still there; pulled, they are found, and nothing is transferred.
    back = move(Place(0, 0), 2.0, 4.0)
    assert [step.work for step in back.log[0]][2:] == [prefill(1, 5, 5), decode(6)]
    assert (back.recomputed, back.hit_tokens) == ([1], [4])
    again = move(Place(0, 0, kv="pull"), 2.0, 4.0)
    assert (again.log[0][2].work, again.recomputed, again.hit_tokens) == (prefill(1, 5, 5), [1], [4])


def the_pulled_is_in_transit_and_takes_room() -> None:
    # 0 is on its way to 1 from 1 to 4 (3 tokens in KV, 1 s each): 1 has no room for 3, which goes to 0 when it has.
    script = Script(
        (0.0, "start", [0, 1], None, [Place(0, 0, 1), Place(1, 0)]),
        (1.0, "left", [0], 0, [Place(0, 1, kv="pull")]),
        (2.0, "arrival", [2], None, [Place(2)]),
        (3.5, "arrival", [3], None, [Place(3)]),
        (4.0, "arrival", [], None, []),
        (5.0, "finished", [1], 0, []),
        (5.0, "finished", [0], 1, []),
        (6.0, "finished", [2], 0, []),
        (6.0, "finished", [3], 1, []),
    )
    requests = [Request(3, 2), Request(1, 4), Request(1, 1), Request(1, 1)]
    submissions = [(2.0, [2]), (3.5, [3]), (4.0, [])]
    result = script.run(requests, Settings(1), unit, 2, pull_s_per_token=1.0, submissions=submissions)
    assert [view.where for view in script.views[2:5]] == [
        [1, 0, HELD, UNKNOWN],
        [1, 0, QUEUED, HELD],
        [1, 0, QUEUED, QUEUED],
    ]
    assert [view.waiting for view in script.views[2:5]] == [[0, 0], [0, 0], [0, 1]]
    assert [view.room for view in script.views[2:5]] == [[0, 0], [0, 0], [0, 0]]
    assert [view.queue for view in script.views[2:7]] == [[], [2], [2, 3], [2, 3], [3]]
    assert rows(result) == [
        [(0.0, (0,)), *[(float(at), (1,)) for at in range(1, 5)], (5.0, (2,))],
        [(4.0, (0,)), (5.0, (3,))],
    ]


def a_pulled_rollout_that_is_preempted_recomputes() -> None:
    # Blocks of 2, 4 of them. 1 comes to 1 at 1, 2 of 3 tokens in KV; at 3 rollout 0 needs a third block, 1 goes; at 4 all.
    script = Script(
        (0.0, "start", [0, 1], None, [Place(0, 1), Place(1, 0, 1)]),
        (1.0, "left", [1], 0, [Place(1, 1, kv="pull")]),
        (4.0, "finished", [0], 1, []),
        (5.0, "finished", [1], 1, []),
    )
    settings = Settings(2, block_size=2, num_gpu_blocks=5, enable_prefix_caching=False)
    result = script.run([Request(2, 4), Request(2, 4)], settings, unit, 2)
    assert [(step.victims, step.work.query_tokens) for step in result.log[1]] == [
        ((), 2),
        ((), 2),
        ((), 2),
        ((1,), 1),
        ((), 5),
    ]
    assert (result.preemptions, result.recomputed, result.finished_s) == ([0, 1], [0, 1 + 5], [4.0, 5.0])


def a_pull_from_the_common_queue_starts_once_it_is_assigned() -> None:
    # 0 leaves replica 0 at 1 for the queue; 1 has replica 1 to 2, and 2 gets replica 0. Then 2 tokens, 4 s.
    script = Script(
        (0.0, "start", [0, 1, 2], None, [Place(0, 0, 1), Place(1, 1), Place(2, 0)]),
        (1.0, "left", [0], 0, [Place(0, kv="pull")]),
        (2.0, "finished", [1], 1, []),
        (6.0, "finished", [2], 0, []),
        (7.0, "finished", [0], 1, []),
    )
    requests = [Request(2, 2), Request(1, 2), Request(1, 5)]
    result = script.run(requests, Settings(1), unit, 2, pull_s_per_token=2.0)
    assert [step.start_s for step in result.log[1]] == [0.0, 1.0, 6.0]
    assert (script.views[2].queue, result.recomputed) == ([0], [1, 0, 0])


def carried_rollouts_begin_with_all_their_tokens() -> None:
    script = Script(
        (0.0, "start", [0, 1], None, [Place(0, 0, 2), Place(1, 0, kv="pull")]),
        (2.0, "left", [0], 0, [Place(0, 0)]),
        (2.0, "finished", [1], 0, []),
        (3.0, "finished", [0], 0, []),
    )
    requests = [Request(3, 5), Request(2, 4, turns=[(2, 9.0), (2, 0.0)])]
    result = script.run(requests, Settings(2), unit, 1, start_tokens=[2, 2])
    assert [step.work for step in result.log[0]] == [
        prefill(5 + 4, 5 + 4, 15 + 10, live=2),
        decode(6, 5),
        prefill(7, 7, 28),
    ]
    assert [view.emitted for view in script.views] == [[2, 2], [4, 4], [4, 4], [5, 4]]
    assert (result.emitted, result.recomputed, result.steps) == ([5, 4], [5 + 7, 4], [3, 2])
    # In chunks of 3: its first token in this phase is that of its second step.
    chunked = Script((0.0, "start", [0], None, [Place(0, 0)]), (2.0, "finished", [0], 0, []))
    result = chunked.run([Request(3, 3)], Settings(1, 3), unit, 1, start_tokens=[2])
    assert (result.first_token_s, result.recomputed) == ([2.0], [5])


def the_common_queue_goes_to_the_emptiest() -> None:
    # Two slots each. 0 is placed on 1, so the queue is 1 -> 0, then 2 -> 0 (a tie), 3 -> 1; 4, 5, 6 wait.
    # t 2: replica 0 lost both, takes 4 and 5, though 1 is as empty a moment later. t 2: replica 1 lost 0, takes 6.
    script = Script(
        (0.0, "start", list(range(7)), None, [Place(1), Place(2), Place(0, 1), *anywhere(3, 4, 5, 6)]),
        (2.0, "finished", [1, 2], 0, []),
        (2.0, "finished", [0], 1, []),
        (3.0, "finished", [4, 5], 0, []),
        (3.0, "finished", [3, 6], 1, []),
    )
    requests = [Request(1, tokens) for tokens in (2, 2, 2, 3, 1, 1, 1)]
    result = script.run(requests, Settings(2), unit, 2)
    assert rows(result) == [
        [(0.0, (1, 2)), (1.0, (1, 2)), (2.0, (4, 5))],
        [(0.0, (0, 3)), (1.0, (0, 3)), (2.0, (3, 6))],
    ]
    first, second, third = script.views[:3]
    assert (first.running, first.waiting, first.room, first.queue) == ([0, 0], [0, 0], [2, 2], [])
    assert (second.running, second.waiting, second.room, second.queue) == ([0, 2], [0, 0], [2, 0], [4, 5, 6])
    assert (third.running, third.waiting, third.room, third.queue) == ([0, 1], [2, 0], [0, 1], [6])
    assert second.where == [1, FINISHED, FINISHED, 1, QUEUED, QUEUED, QUEUED]
    assert result.replica == [1, 0, 0, 1, 0, 0, 1]


def an_arrival_prefers_no_replica() -> None:
    # At 1 replica 0 has two of three, replica 1 one: 3 goes to 1, then 4 to 0 (a tie), 5 to 1.
    script = Script(
        (0.0, "start", [0, 1, 2], None, [Place(0, 0), Place(1, 0), Place(2, 1)]),
        (1.0, "arrival", [3, 4, 5], None, anywhere(3, 4, 5)),
        (2.0, "finished", [0, 1, 4], 0, []),
        (2.0, "finished", [2, 3, 5], 1, []),
    )
    requests = [*[Request(1, 2)] * 3, *[Request(1, 1)] * 3]
    result = script.run(requests, Settings(3), unit, 2, submissions=[(1.0, [3, 4, 5])])
    assert rows(result) == [[(0.0, (0, 1)), (1.0, (0, 1, 4))], [(0.0, (2,)), (1.0, (2, 3, 5))]]
    assert (result.queued_s, result.admitted_s) == ([0.0] * 3 + [1.0] * 3, [0.0] * 3 + [1.0] * 3)


def the_preferred_replica_takes_the_head_though_another_is_emptier() -> None:
    # Three slots each. At 1 replica 0 still has 0 and 1 and is told of 2; replica 1 has 3 alone.
    script = Script(
        (0.0, "start", [0, 1, 2, 3, 4], None, [Place(0, 0), Place(1, 0), Place(2, 0), Place(3, 1)]),
        (1.0, "finished", [2], 0, anywhere(4)),
        (2.0, "finished", [0, 1, 4], 0, []),
        (2.0, "finished", [3], 1, []),
    )
    result = script.run([Request(1, tokens) for tokens in (2, 2, 1, 2, 1)], Settings(3), unit, 2)
    assert result.replica == [0, 0, 0, 1, 0]


def only_an_event_has_the_queue_served() -> None:
    # 0 is away from 1 to 6: its slot is free, and nobody is told. At 7 it is done.
    script = Script(
        (0.0, "start", [0, 1], None, anywhere(0, 1)),
        (7.0, "finished", [0], 0, []),
        (8.0, "finished", [1], 0, []),
    )
    result = script.run([Request(1, 2, turns=[(1, 5.0), (1, 0.0)]), Request(1, 1)], Settings(1), unit, 1)
    assert rows(result) == [[(0.0, (0,)), (6.0, (0,)), (7.0, (1,))]]


def those_that_leave_are_told_before_those_that_finish() -> None:
    # Two slots. At 2 rollout 2 leaves and 4 finishes: 1 and 0 are placed by the first event, which leaves 2, queued by it,
    # no room. At 3 the queue is 2 0, and both have room.
    lines = [
        (0.0, "start", [0, 1, 2, 3, 4], None, [Place(3, 0), Place(4)]),
        (1.0, "finished", [3], 0, [Place(2, 0, 1)]),
        (2.0, "left", [2], 0, [Place(1, 0), Place(0, 0, 1), Place(2)]),
        (2.0, "finished", [4], 0, []),
        (3.0, "left", [0], 0, [Place(0)]),
        (3.0, "finished", [1], 0, []),
    ]
    requests = [Request(1, tokens) for tokens in (2, 1, 2, 1, 2)]
    for by_number, slots in ((True, (0, 2)), (False, (2, 0))):
        script = Script(*lines, (4.0, "finished", list(slots), 0, []))
        result = script.run(requests, Settings(2), unit, 1, by_number=by_number)
        second = (0, 1) if by_number else (1, 0)
        assert rows(result) == [[(0.0, (3, 4)), (1.0, (4, 2)), (2.0, second), (3.0, slots)]]
        left, finished = script.views[2:4]
        assert left.where == [HELD, HELD, HELD, FINISHED, FINISHED]
        assert (left.running, left.waiting, left.room, left.queue) == ([0], [0], [2], [])
        assert (finished.running, finished.waiting, finished.room, finished.queue) == ([0], [2], [0], [2])
        assert script.views[5].queue == [2, 0]


def a_step_is_told_of_in_slot_order() -> None:
    # 1 and 3 have slots from 0 on, 0 and 2 from 1 on.
    script = Script(
        (0.0, "start", [0, 1, 2, 3], None, [Place(1, 0, 2), Place(3, 0)]),
        (1.0, "arrival", [], None, [Place(0, 0, 1), Place(2, 0)]),
        (2.0, "left", [1, 0], 0, []),
        (2.0, "finished", [3, 2], 0, []),
    )
    requests = [Request(1, tokens) for tokens in (3, 3, 1, 2)]
    assert script.run(requests, Settings(4), unit, 1, submissions=[(1.0, [])]).emitted == [1, 2, 1, 2]


def the_events_of_a_step_are_served_together() -> None:
    # At 1 rollout 0 leaves and is queued; then 1 finishes, and 2 and 3 are placed: no room is left.
    script = Script(
        (0.0, "start", [0, 1, 2, 3], None, [Place(0, 0, 1), Place(1, 0)]),
        (1.0, "left", [0], 0, [Place(0)]),
        (1.0, "finished", [1], 0, [Place(2, 0), Place(3, 0)]),
        (2.0, "finished", [2, 3], 0, []),
        (3.0, "finished", [0], 0, []),
    )
    result = script.run([Request(1, 2), *[Request(1, 1)] * 3], Settings(2), unit, 1)
    assert rows(result) == [[(0.0, (0, 1)), (1.0, (2, 3)), (2.0, (0,))]]


def steps_end_before_submissions_and_start_after_them() -> None:
    # At 2 both replicas end a step and 2 and 3 arrive: 0 is told first, then 1, then the arrival; then both start.
    script = Script(
        (0.0, "start", [], None, []),
        (0.0, "arrival", [0, 1], None, [Place(0, 1), Place(1, 0)]),
        (2.0, "finished", [1], 0, []),
        (2.0, "finished", [0], 1, []),
        (2.0, "arrival", [2, 3], None, [Place(2, 1), Place(3, 0)]),
        (3.0, "finished", [3], 0, []),
        (3.0, "finished", [2], 1, []),
    )
    requests = [Request(1, 2), Request(1, 2), Request(1, 1, arrival_s=2.0), Request(1, 1, arrival_s=2.0)]
    result = script.run(requests, Settings(1), unit, 2, arrivals=True)
    first, second = script.views[2:4]
    assert (first.running, first.room, first.where) == ([0, 1], [1, 0], [1, FINISHED, UNKNOWN, UNKNOWN])
    assert (second.running, second.room) == ([0, 0], [1, 1])
    assert (result.admitted_s, result.finished_s) == ([0.0, 0.0, 2.0, 2.0], [2.0, 2.0, 3.0, 3.0])


def the_held_may_be_placed_at_any_later_event() -> None:
    # 0 is not placed at the start; 1 is alone to 2; then it is placed on replica 1. What is never placed never starts.
    script = Script(
        (0.0, "start", [0, 1, 2], None, [Place(1, 0)]),
        (2.0, "finished", [1], 0, [Place(0, 1)]),
        (3.0, "finished", [0], 1, []),
    )
    result = script.run([Request(1, 1), Request(1, 2), Request(1, 1)], Settings(1), unit, 2)
    assert script.views[1].where == [HELD, FINISHED, HELD]
    assert same(result.finished_s, [3.0, 2.0, NAN])
    assert (result.replica, result.emitted, result.cancelled) == ([1, 0, -1], [1, 2, 0], [False] * 3)


def cancelled_where_it_waits() -> None:
    # One slot each. At 2.5: 0 is held, 1 and 2 in the queue of replica 0, 3 on its way to it, 4 between turns: all go at
    # once, 6 starts. Then they are gone: to cancel them again, or what has finished, is nothing.
    script = Script(
        (0.0, "start", [0, 1, 2, 3, 4, 5], None, [Place(5, 0), Place(4, 1), Place(3, 1, 1), Place(2, 0)]),
        (2.0, "left", [3], 1, [Place(3, 0, kv="pull"), Place(1, 0)]),
        (2.5, "arrival", [6], None, [*map(Cancel, (0, 1, 2, 3, 4)), Place(6)]),
        (2.75, "arrival", [], None, [*map(Cancel, (0, 1, 2, 3, 4))]),
        (3.5, "finished", [6], 1, []),
        (4.0, "finished", [5], 0, [Cancel(5)]),
    )
    requests = [*[Request(1, 2)] * 4, Request(1, 2, turns=[(1, 4.0), (1, 0.0)]), Request(1, 4), Request(1, 1)]
    result = script.run(
        requests, Settings(1), unit, 2, pull_s_per_token=8.0, submissions=[(2.5, [6]), (2.75, [])], by_number=False
    )
    before, after = script.views[2:4]
    assert (before.running, before.waiting, before.room) == ([1, 0], [2, 0], [-3, 1])
    assert before.where == [HELD, 0, 0, 0, 1, 0, HELD]
    assert (after.running, after.waiting, after.room) == ([1, 1], [0, 0], [0, 0])
    assert after.where == [*[CANCELLED] * 5, 0, 1]
    assert rows(result) == [[(float(at), (5,)) for at in range(4)], [(0.0, (4,)), (1.0, (3,)), (2.5, (6,))]]
    assert result.cancelled == [True] * 5 + [False] * 2
    assert (result.emitted, result.replica) == ([0, 0, 0, 1, 1, 4, 1], [-1, -1, -1, -1, -1, 0, 1])
    # In the common queue.
    script = Script(
        (0.0, "start", [0, 1, 2], None, anywhere(0, 1, 2)),
        (0.5, "arrival", [], None, [Cancel(1)]),
        (1.0, "finished", [0], 0, []),
        (2.0, "finished", [2], 0, []),
    )
    result = script.run([Request(1, 1)] * 3, Settings(1), unit, 1, submissions=[(0.5, [])])
    assert (result.cancelled, script.views[2].queue) == ([False, True, False], [2])


def cancelled_while_it_runs_it_goes_at_the_end_of_the_step() -> None:
    # All run from 0 to 1 and from 1 to 2. At 1.5 all are cancelled: 0 finishes in the step all the same, the stay of 1
    # and the turn of 2 end in it, and 3 just goes; they keep their tokens. 4 gets a slot at the next event, that of 0.
    turns = [(2, 1.0), (1, 0.0)]
    requests = [Request(1, 2), Request(1, 9), Request(1, 3, turns=turns), Request(1, 9), Request(1, 1), Request(1, 1)]
    script = Script(
        (0.0, "start", [0, 1, 2, 3, 4], None, [Place(0, 0), Place(1, 0, 2), Place(2, 0), Place(3, 0), Place(4)]),
        (1.5, "arrival", [5], None, [*map(Cancel, (0, 1, 2, 3)), Cancel(3)]),
        (1.75, "arrival", [], None, []),
        (2.0, "finished", [0], 0, []),
        (3.0, "finished", [4], 0, []),
    )
    submissions = [(1.5, [5]), (1.75, [])]
    for ahead in (False, True):
        played = Script(
            *script.lines
        )  # ahead: nobody is left of those that the step at 2 was for, it is scheduled again
        result = played.run(requests, Settings(4, async_scheduling=ahead), unit, 1, submissions=submissions)
        between, after = played.views[2:4]
        assert (between.running, between.room, between.where) == ([4], [0], [0, 0, 0, 0, QUEUED, HELD])
        assert (after.running, after.room) == ([0], [4])
        assert after.where == [FINISHED, CANCELLED, CANCELLED, CANCELLED, QUEUED, HELD]
        assert after.emitted == [2, 0, 0, 0, 0, 0]
        assert rows(result) == [[(0.0, (0, 1, 2, 3)), (1.0, (0, 1, 2, 3)), (2.0, (4,))]]
        assert result.emitted == [2, 2, 2, 2, 1, 0]
        assert result.cancelled == [False, True, True, True, False, False]
        assert same(result.finished_s, [2.0, NAN, NAN, NAN, 3.0, NAN])


def the_slot_of_the_cancelled_goes_to_who_waits() -> None:
    # One slot. 0 is cancelled at 0.5, in the step that ends at 1: nobody is told then, and 1, which waits, begins.
    script = Script(
        (0.0, "start", [0, 1], None, [Place(0, 0), Place(1)]),
        (0.5, "arrival", [], None, [Cancel(0)]),
        (2.0, "finished", [1], 0, []),
    )
    result = script.run([Request(1, 9), Request(1, 1)], Settings(1), unit, 1, submissions=[(0.5, [])])
    assert rows(result) == [[(0.0, (0,)), (1.0, (1,))]]
    assert result.cancelled == [True, False]
    assert result.emitted == [1, 1]


def cancelled_at_the_instant_its_step_ends() -> None:
    # Both steps end at 2. Replica 0 is told of its own: 1, which it has still, goes at once; 2 and 3 are in the step of
    # replica 1 that is yet to end: 2 finishes in it, 3 goes.
    script = Script(
        (0.0, "start", [0, 1, 2, 3], None, [Place(0, 0), Place(1, 0), Place(2, 1), Place(3, 1)]),
        (2.0, "finished", [0], 0, [Cancel(1), Cancel(2), Cancel(3)]),
        (2.0, "finished", [2], 1, []),
    )
    for ahead in (False, True):
        played = Script(*script.lines)
        requests = [Request(1, 2), Request(1, 3), Request(1, 2), Request(1, 3)]
        result = played.run(requests, Settings(2, async_scheduling=ahead), unit, 2)
        assert (played.views[2].where, played.views[2].running) == ([FINISHED, CANCELLED, FINISHED, CANCELLED], [0, 0])
        assert (result.emitted, result.cancelled) == ([2, 2, 2, 2], [False, True, False, True])
        assert [len(log) for log in result.log] == [2, 2]


def async_scheduling_looks_a_step_ahead() -> None:
    # 1 is placed at 10, when 0 ends a step: the step at 10 was scheduled at 0, that at 20 at 10. 2, at 15, is seen at 20.
    lines = [
        (0.0, "start", [0], None, [Place(0, 0)]),
        (10.0, "arrival", [1], None, [Place(1, 0)]),
        (15.0, "arrival", [2], None, [Place(2, 0)]),
    ]
    requests, submissions = [Request(4, 4), Request(4, 1), Request(4, 1)], [(10.0, [1]), (15.0, [2])]
    ends = [(20.0, "finished", [1], 0, []), (30.0, "finished", [2], 0, []), (40.0, "finished", [0], 0, [])]
    eager = Script(*lines, *ends).run(requests, Settings(4), ten, 1, submissions=submissions)
    ends = [(30.0, "finished", [1], 0, []), (40.0, "finished", [0, 2], 0, [])]
    settings = Settings(4, async_scheduling=True)
    ahead = Script(*lines, *ends).run(requests, settings, ten, 1, submissions=submissions)
    assert (eager.queued_s, eager.admitted_s) == ([0.0, 10.0, 20.0], [0.0, 10.0, 20.0])
    assert (ahead.queued_s, ahead.admitted_s) == ([0.0, 10.0, 20.0], [0.0, 20.0, 30.0])
    # The step at 20 was scheduled for 0 and 1; 1 is cancelled in the one before, and 0 runs it alone.
    script = Script(
        (0.0, "start", [0, 1], None, [Place(0, 0), Place(1, 0)]),
        (15.0, "arrival", [], None, [Cancel(1)]),
        (40.0, "finished", [0], 0, []),
    )
    result = script.run([Request(4, 4), Request(4, 4)], settings, ten, 1, submissions=[(15.0, [])])
    assert rows(result) == [[(0.0, (0, 1)), (10.0, (0, 1)), (20.0, (0,)), (30.0, (0,))]]
    assert (result.emitted, result.cancelled) == ([4, 2], [False, True])
    # A stay that ends at 20 is known at 10: the step at 20 is for 0 alone, and 1, placed again at 20, is in that at 30.
    script = Script(
        (0.0, "start", [0, 1], None, [Place(0, 0), Place(1, 0, 2)]),
        (20.0, "left", [1], 0, [Place(1, 0)]),
        (40.0, "finished", [0, 1], 0, []),
    )
    result = script.run([Request(4, 4), Request(4, 3)], settings, ten, 1)
    assert rows(result) == [[(0.0, (0, 1)), (10.0, (0, 1)), (20.0, (0,)), (30.0, (0, 1))]]


def stopped_it_is_quiet_once_its_steps_have_ended() -> None:
    # Steps of 1.5 s on replica 0, of 1 s on replica 1, 2 idle. Stopped at 2: replica 1 is between steps, 0 is to go on to
    # 3, when 0 finishes. 3 is submitted at 2 and cancelled at once, 4 is never submitted.
    def cost(work: Work) -> float:
        return 1.5 if work.kv_tokens > 50 else 1.0

    env = simpy.Environment()
    script = Script(
        (0.0, "start", [0, 1, 2], None, [Place(0, 0), Place(1, 0), Place(2, 1)]),
        (2.0, "arrival", [3], None, [Place(3, 2)]),
        (3.0, "finished", [0], 0, []),
    )
    requests = [Request(50, 2), Request(50, 9), Request(1, 9), Request(1, 1), Request(1, 1)]
    cluster = Cluster(env, requests, Settings(2), patient(cost), 3, script)
    log: list[tuple[float, object]] = []

    def user() -> module.Process:
        yield env.timeout(2.0)
        stopped = cluster.stop()
        yield cluster.submit([3])
        news = cluster.news
        yield stopped
        log.append((env.now, news.value))

    cluster.start([0, 1, 2])
    env.process(user())
    env.run()
    result = cluster.result()
    assert log == [(3.0, [0])]
    assert rows(result) == [[(0.0, (0, 1)), (1.5, (0, 1))], [(0.0, (2,)), (1.0, (2,))], []]
    assert (result.emitted, result.cancelled) == ([2, 2, 2, 0, 0], [False, True, True, True, False])
    assert [member.where for member in cluster.members] == [FINISHED, CANCELLED, CANCELLED, CANCELLED, UNKNOWN]
    assert not script.lines


def what_finishes_at_one_instant_is_one_piece_of_news() -> None:
    # Both replicas finish one at 1; the news are out before the steps at 1 start, so what is submitted then is in them.
    env = simpy.Environment()
    requests = [Request(1, 1), Request(1, 1), Request(1, 2), Request(1, 1)]
    cluster = Cluster(env, requests, Settings(2), patient(unit), 2, everywhere)
    told: list[tuple[float, list[int]]] = []

    def user() -> module.Process:
        while True:
            finished = yield cluster.news
            told.append((env.now, finished))
            if env.now == 1.0:
                cluster.submit([3])

    env.process(user())
    cluster.start([0, 1, 2])
    env.run()
    assert told == [(1.0, [0, 1]), (2.0, [2, 3])]
    assert rows(cluster.result()) == [[(0.0, (0, 2)), (1.0, (2,))], [(0.0, (1,)), (1.0, (3,))]]


CASES = [
    a_stay_ends_with_its_tokens,
    a_stay_cuts_what_a_step_emits_and_is_cut_at_the_end,
    a_stay_frees_its_slot_and_its_kv,
    a_turn_that_ends_with_the_stay_is_a_turn,
    one_that_moves_recomputes_or_pulls,
    the_pulled_is_in_transit_and_takes_room,
    a_pulled_rollout_that_is_preempted_recomputes,
    a_pull_from_the_common_queue_starts_once_it_is_assigned,
    carried_rollouts_begin_with_all_their_tokens,
    the_common_queue_goes_to_the_emptiest,
    an_arrival_prefers_no_replica,
    the_preferred_replica_takes_the_head_though_another_is_emptier,
    only_an_event_has_the_queue_served,
    those_that_leave_are_told_before_those_that_finish,
    a_step_is_told_of_in_slot_order,
    the_events_of_a_step_are_served_together,
    steps_end_before_submissions_and_start_after_them,
    the_held_may_be_placed_at_any_later_event,
    cancelled_where_it_waits,
    cancelled_while_it_runs_it_goes_at_the_end_of_the_step,
    the_slot_of_the_cancelled_goes_to_who_waits,
    cancelled_at_the_instant_its_step_ends,
    async_scheduling_looks_a_step_ahead,
    stopped_it_is_quiet_once_its_steps_have_ended,
    what_finishes_at_one_instant_is_one_piece_of_news,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_by_hand(case: Callable[[], None]) -> None:
    case()


# Broken on purpose ----------------------------------------------------------------------------------------------------

BROKEN = [
    # What happens when, at one instant.
    (Ranks, "of", "submit=2 + replicas", "submit=0"),
    (Ranks, "of", "form=4 + replicas", "form=0"),
    (Ranks, "of", "stop=3 + replicas", "stop=0"),
    (Ranks, "of", "stop=3 + replicas", "stop=9 + 2 * replicas"),
    (Ranks, "of", "report=1 + replicas", "report=0"),
    (Ranks, "of", "report=1 + replicas", "report=9 + 2 * replicas"),
    (Replica, "live", "self.cluster.ranks.end + self.index", "self.cluster.ranks.end - self.index"),
    # The common queue.
    (Cluster, "serve", "if preferred in roomy:", "if False:"),
    (Cluster, "serve", "self.queue.popleft(), preferred", "self.queue.pop(), preferred"),
    (Cluster, "serve", "self.queue.popleft(), min(", "self.queue.pop(), min("),
    (Cluster, "serve", "(replica.load(), replica.index)", "(replica.load(), -replica.index)"),
    (Cluster, "serve", "(replica.load(), replica.index)", "replica.index"),
    (Cluster, "serve", "(replica.load(), replica.index)", "(replica.running(), replica.index)"),
    (Cluster, "serve", "replica.room() > 0", "replica.running() < replica.engine.settings.max_num_seqs"),
    (Cluster, "serve", "replica.room() > 0", "True"),
    (Cluster, "serve", "while self.queue:", "for _ in list(self.queue)[:1]:"),
    (Cluster, "step_ended", "if left or finished or cancelled:\n        self.serve(replica)", "self.serve(replica)"),
    (Cluster, "step_ended", "if left or finished or cancelled:\n        self.serve(replica)", "pass"),
    (Cluster, "step_ended", "if left or finished or cancelled:", "if left or finished:"),
    (Cluster, "step_ended", "self.serve(replica)", "self.serve(None)"),
    (Cluster, "step_ended", '"left", tuple(left), replica.index))', '"left", tuple(left), 0)); self.serve(replica)'),
    (Cluster, "take", "self.serve(None)", "pass"),
    (Cluster, "take", "self.serve(None)", "self.serve(self.replicas[0])"),
    # What the placement is told.
    (Cluster, "step_ended", "if left:", "if left and not finished:"),
    (Cluster, "step_ended", "tuple(left), replica.index", "tuple(sorted(left)), replica.index"),
    (Cluster, "step_ended", "tuple(finished), replica.index", "tuple(finished), None"),
    (Cluster, "step_ended", "elif member not in replica.cancelled:", "else:"),
    (Cluster, "step_ended", "if member.where != FINISHED:", "if True:"),
    (Cluster, "step_ended", "member.where, member.reported = HELD, rollout.p", "member.where = HELD"),
    (Cluster, "step_ended", "member.where, member.reported = FINISHED, rollout.p", "member.where = FINISHED"),
    (Cluster, "view", "member.reported for", "member.rollout.p for"),
    (Cluster, "view", "replica.waiting() for", "len(replica.engine.waiting) for"),
    (Cluster, "view", "replica.running() for", "len(replica.engine.running) * replica.stepping for"),
    (Cluster, "view", "for member in self.queue]", "for member in sorted(self.queue, key=lambda m: m.rollout.index)]"),
    (Replica, "end_step", "for rollout in self.engine.running if", "for rollout in reversed(self.engine.running) if"),
    (Replica, "end_step", "return [rollout for rollout in left if rollout not in self.engine.coming]", "return left"),
    (Replica, "end_step", "self.wake(rollout.wait_s)", "pass"),
    (Replica, "waiting", "<= self.env.now", "< self.env.now"),
    (Replica, "in_transit", "> self.env.now and r.pulled", "> self.env.now"),
    (Replica, "in_transit", "> self.env.now and r.pulled", "< self.env.now"),
    # Stays.
    (Cluster, "assign", "rollout.p + place.stay_tokens", "place.stay_tokens"),
    (Cluster, "assign", "if place.stay_tokens > 0 else math.inf", ""),
    (Rollout, "leaves_at", "int(min(self.turn_end()[0], self.stay_end))", "self.turn_end()[0]"),
    (Engine, "emit", "rollout.stay_end = math.inf", "pass"),
    (Engine, "emit", "if rollout.p == rollout.stay_end:", "if True:"),
    (
        Engine,
        "share",
        "emitted = min(accepted + 1, rollout.leaves_at()",
        "emitted = min(accepted + 1, rollout.turn_end()[0]",
    ),
    (Engine, "share", "accepted = min(accepted, rollout.leaves_at()", "accepted = min(accepted, rollout.turn_end()[0]"),
    # Pulled and recomputed.
    (Cluster, "assign", 'place.kv == "pull" and member.last_replica >= 0', 'place.kv == "pull"'),
    (Cluster, "assign", 'place.kv == "pull" and member.last_replica >= 0', "False"),
    (Cluster, "transfer_s", "(member.rollout.needed() - 1)", "member.rollout.needed()"),
    (Cluster, "transfer_s", "(member.rollout.needed() - 1)", "member.rollout.p"),
    (Cluster, "transfer_s", " or member.last_replica == replica.index", ""),
    (Engine, "schedule", "rollout.needed() - 1 if rollout.pulled", "rollout.needed() if rollout.pulled"),
    (Engine, "schedule", "rollout.pulled = False", "pass"),
    (Engine, "schedule", "rollout.hit_tokens += hit_tokens", "rollout.hit_tokens += computed"),
    (Engine, "schedule", "rollout.admissions > 0 or rollout.start > 0", "rollout.admissions > 0"),
    (Engine, "schedule", "rollout.admissions > 0 or rollout.start > 0", "rollout.p > rollout.start"),
    (Engine, "schedule", "rollout.recomputed += rollout.needed() - computed", "rollout.recomputed += rollout.needed()"),
    (Engine, "emit", "share.emitted > 0 and math", "rollout.p > 0 and math"),
    (Engine, "look", "sorted(here) if self.by_number else", ""),
    (Engine, "look", "if self.by_number else sorted(here, key=lambda item: item[0])", ""),
    # Cancelled and stopped.
    (Cluster, "cancel", "if replica.stepping and", "if False and"),
    (Cluster, "cancel", "if replica.stepping and", "if"),
    (Cluster, "cancel", "replica.stepping and member.rollout in replica.engine.running", "replica.stepping"),
    (Cluster, "cancel", "self.queue.remove(member)", "pass"),
    (Cluster, "cancel", "if member.where in (FINISHED, CANCELLED):", "if False:"),
    (Replica, "drop", "engine.coming.pop(rollout, None)", "pass"),
    (Replica, "drop", "engine.waiting.remove(rollout)", "pass"),
    (Replica, "drop", "engine.leave(rollout)", "pass"),
    (Replica, "drop", "if share.rollout != rollout.index", ""),
    (Cluster, "stopping", "self.cancel(member)", "pass"),
    (Cluster, "stopping", "yield from under_way", "pass"),
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken[0].__name__}.{broken[1]}")
def test_a_broken_cluster_fails_by_hand(monkeypatch: pytest.MonkeyPatch, broken: tuple[type, str, str, str]) -> None:
    owner, name, right, wrong = broken
    source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    assert source.count(right) == 1, f"{right!r} is not what is written in {name}"
    scope = dict(vars(inspect.getmodule(owner)))
    exec(source.replace(right, wrong), scope)
    monkeypatch.setattr(owner, name, scope[name])
    assert any(fails(case) for case in CASES)


def fails(case: Callable[[], None]) -> bool:
    try:
        case()
    except Exception:
        return True
    return False


# In general -----------------------------------------------------------------------------------------------------------

slowly = examples(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def by_replica(replicas: int) -> module.Placement:
    """Where a rollout's number says."""
    return lambda event, _: [Place(i, i % replicas) for i in event.rollouts if event.kind in ("start", "arrival")]


@slowly
@given(scenarios(), st.integers(1, 3))
def test_replicas_of_their_own_are_engines_of_their_own(
    scenario: tuple[list[Request], Settings], replicas: int
) -> None:
    requests, limits = scenario
    result = simulate(requests, limits, bounded(requests), replicas, by_replica(replicas), arrivals=True)
    for replica in range(replicas):
        mine = slice(replica, None, replicas)
        alone = serving.simulate(requests[mine], limits, bounded(requests))
        renumbered = [
            replace(
                step,
                victims=tuple(replica + replicas * i for i in step.victims),
                shares=tuple(replace(share, rollout=replica + replicas * share.rollout) for share in step.shares),
            )
            for step in alone.log
        ]
        assert result.log[replica] == renumbered
        for name in ("queued_s", "admitted_s", "first_token_s", "finished_s", "preemptions", "hit_tokens"):
            assert getattr(result, name)[mine] == getattr(alone, name)
        for name in ("steps", "drafted", "accepted"):
            assert getattr(result, name)[mine] == getattr(alone, name)
    assert result.replica == [i % replicas for i in range(len(requests))]


@examples(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3))
def test_without_limits_the_common_queue_is_that_of_the_lock_step_reference(
    seed: int, slots: int, replicas: int, budget: int
) -> None:
    rng = random.Random(seed)
    pairs = [lock_step_rollout(rng) for _ in range(rng.randint(1, 16))]
    requests = [Request(r.prompt_tokens, r.output_tokens, accepted=r.accepted, drafted=r.drafted) for r in pairs]
    expected = lockstep.simulate(pairs, lambda *work: 1.0 + sum(work), policies.fixed(budget), slots, replicas)
    result = simulate(
        requests,
        Settings(slots, budget=budget),
        lambda w: 1.0 + w.live + w.query_tokens + w.kv_tokens + w.pairs + w.prefill_tokens,
        replicas,
        everywhere,
    )
    assert (result.finished_s, result.replica) == (expected.finish_s, expected.replica)
    steps = [(step.start_s, index, step.dt_s) for index, log in enumerate(result.log) for step in log]
    assert sorted(steps) == [(step.start_s, step.replica, step.dt_s) for step in expected.steps]


@slowly
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 12)), min_size=1, max_size=6), st.integers(1, 4))
def test_one_that_is_always_pulled_back_at_no_cost_has_never_left(shape: list[tuple[int, int]], stay: int) -> None:
    requests = [Request(prompt_tokens, output_tokens) for prompt_tokens, output_tokens in shape]

    def back(event: Event, _: View) -> list[Place]:
        return [] if event.kind == "finished" else [Place(i, 0, stay, "pull") for i in event.rollouts]

    result = simulate(requests, Settings(6), unit, 1, back, pull_s_per_token=7.0)
    alone = serving.simulate(requests, Settings(6), unit)
    assert (result.finished_s, result.steps) == (alone.finished_s, alone.steps)
    assert result.recomputed == [(output_tokens - 1) // stay for _, output_tokens in shape]


class Wild:
    """A placement that does anything it may."""

    def __init__(self, seed: int, replicas: int) -> None:
        self.rng = random.Random(seed)
        self.replicas = replicas

    def __call__(self, event: Event, view: View) -> list[Place | Cancel]:
        decisions: list[Place | Cancel] = []
        gone = (FINISHED, CANCELLED, UNKNOWN)
        for i, where in enumerate(view.where):
            if where == HELD and self.rng.random() < 0.9:
                replica = self.rng.choice([ANY, *range(self.replicas)])
                decisions.append(Place(i, replica, self.rng.randint(0, 4), self.rng.choice(["recompute", "pull"])))
            if where not in gone and self.rng.random() < 0.04:
                decisions.append(Cancel(i))
        self.rng.shuffle(decisions)
        cancelled: set[int] = set()
        kept = []
        for decision in decisions:
            if isinstance(decision, Cancel):
                cancelled.add(decision.rollout)
                kept.append(decision)
            elif decision.rollout not in cancelled:
                kept.append(decision)
        return kept


@slowly
@given(scenarios(), st.integers(0, 2**32), st.integers(1, 3), st.booleans())
def test_every_token_is_accounted_for(
    scenario: tuple[list[Request], Settings], seed: int, replicas: int, by_number: bool
) -> None:
    requests, limits = scenario
    rng = random.Random(seed)
    starts = [rng.choice([0, rng.randrange(request.output_tokens)]) for request in requests]
    result = simulate(
        requests,
        limits,
        lambda work: 1.0 + 0.125 * work.query_tokens,
        replicas,
        Wild(seed, replicas),
        pull_s_per_token=rng.choice([0.0, 0.25, 3.0]),
        start_tokens=starts,
        arrivals=True,
        by_number=by_number,
    )
    audit(requests, limits, starts, result)


def audit(requests: list[Request], limits: Settings, starts: list[int], result: ClusterResult) -> None:
    told = {kind: [(at, e) for at, e in result.told if e.kind == kind] for kind in ("arrival", "left", "finished")}
    assert [at for at, _ in result.told] == sorted(at for at, _ in result.told)
    assert sorted(i for _, e in told["arrival"] for i in e.rollouts) == list(range(len(requests)))
    finished = {i: (at, e.replica) for at, e in told["finished"] for i in e.rollouts}
    assert len(finished) == sum(len(e.rollouts) for _, e in told["finished"])
    for log in result.log:
        assert all(a.start_s + a.dt_s <= b.start_s for a, b in itertools.pairwise(log))
    for i, request in enumerate(requests):
        parts = [
            (step.start_s, step.start_s + step.dt_s, replica, share)
            for replica, log in enumerate(result.log)
            for step in log
            for share in step.shares
            if share.rollout == i
        ]
        parts.sort(key=lambda part: part[0])
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(parts)), "in two places at once"
        emissions = [part for part in parts if part[3].emitted > 0]
        assert result.emitted[i] == starts[i] + sum(part[3].emitted for part in parts)
        assert (result.emitted[i] == request.output_tokens) == (i in finished)
        assert result.accepted[i] == sum(part[3].accepted for part in parts)
        assert result.drafted[i] == sum(part[3].take - 1 for part in parts if part[3].decoding)
        assert result.steps[i] == len(emissions)
        assert same([result.first_token_s[i]], [emissions[0][1] if emissions else NAN])
        assert same([result.admitted_s[i]], [parts[0][0] if parts else NAN])
        assert same([result.finished_s[i]], [finished[i][0] if i in finished else NAN])
        assert result.replica[i] == (finished[i][1] if i in finished else -1)
        assert not (result.cancelled[i] and i in finished)
        computed = sum(part[3].take for part in parts if not part[3].decoding)
        if i in finished and limits.max_num_batched_tokens is None and not result.preemptions[i]:
            first = parts[0][3].take if starts[i] == 0 else 0
            assert computed == first + result.recomputed[i]
        ends = {part[1]: part for part in emissions}
        for at, event in told["left"]:
            if i in event.rollouts:
                assert ends[at][2] == event.replica
        for a, b in itertools.pairwise(parts):
            moved = a[2] != b[2]
            assert not moved or any(i in event.rollouts for at, event in told["left"] if a[1] <= at <= b[0])
