"""The reference's swaps and its trainer against runs small enough for paper, and against themselves broken on purpose."""

import inspect
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import simpy

from tests.reference.cluster import Cluster, Replica, Turn
from tests.reference.online import Trainer
from tests.reference.serving import Request, Settings
from tests.reference.test_cluster import everywhere, fails, patient, unit

SLOW = Request(1, 6, accepted=[0] * 6, drafted=[2] * 6)
BETTER = [([2, 2, 2, 2, 1, 0], [2] * 6)]


def starts(
    requests: Sequence[Request],
    *swaps: tuple[float, float],
    submitted_s: float = 0.0,
    replicas: int = 1,
    ranks: int = 1,
) -> list[list[float]]:
    """When steps start, by replica; swaps to a better version are (when, pause). A step takes a second."""
    env = simpy.Environment(initial_time=0.0)
    cluster = Cluster(
        env, requests, Settings(2, budget=2), patient(unit), replicas, everywhere, data_parallel_size=ranks
    )  # fmt: skip
    if submitted_s > 0:
        cluster.start([])
        env.process(cluster.submission(range(len(requests)), submitted_s))
    else:
        cluster.start(range(len(requests)))

    def swapping() -> Any:
        for at_s, pause_s in swaps:
            yield Turn(env, cluster.ranks.stop, at_s - env.now)
            cluster.swap(BETTER * len(requests), pause_s)

    env.process(swapping())
    env.run()
    return [[step.start_s for step in log] for log in cluster.result().log]


def a_replica_ends_its_step_and_pauses() -> None:
    assert starts([SLOW]) == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]
    # 2 tokens by 2; then 3 at 5 to 6, and the last one.
    assert starts([SLOW], (1.5, 3.0)) == [[0.0, 1.0, 5.0, 6.0]]
    assert starts([SLOW], (1.5, 0.0)) == [[0.0, 1.0, 2.0, 3.0]]


def a_step_that_would_start_at_the_swap_is_of_the_new_version() -> None:
    # One token by 1, then 3, then 2.
    assert starts([SLOW], (1.0, 0.5)) == [[0.0, 1.5, 2.5]]


def pauses_follow_each_other() -> None:
    assert starts([SLOW], (1.5, 1.0), (1.75, 2.0)) == [[0.0, 1.0, 5.0, 6.0]]
    assert starts([SLOW], (1.5, 1.0), (2.5, 2.0)) == [[0.0, 1.0, 5.0, 6.0]]


def who_is_idle_pauses_from_the_swap_on() -> None:
    assert starts([SLOW], (0.5, 2.0), submitted_s=1.0) == [[2.5, 3.5, 4.5]]
    assert starts([SLOW], (0.5, 0.25), submitted_s=1.0) == [[1.0, 2.0, 3.0]]


def ranks_go_on_together() -> None:
    assert starts([SLOW, Request(1, 6)], (1.5, 3.0), replicas=2, ranks=2) == [[0.0, 1.0, 5.0, 6.0]] * 2


def trained(came_s: Sequence[float], pool: int, batch: int, step_s: float, sync: int) -> Trainer:
    """Samples 0, 1, ... come at these times, each of a domain of its own."""
    env = simpy.Environment(initial_time=0.0)
    trainer = Trainer(env, 5, pool, batch, step_s, sync, lambda learnt: None)

    def coming() -> Any:
        for domain, at_s in enumerate(came_s):
            yield Turn(env, 1, at_s - env.now)
            trainer.collect(domain)

    env.process(coming())
    env.run()
    return trainer


def it_trains_as_soon_as_there_are_enough() -> None:
    # From 2 to 7 with 0 and 1; from 8, when 3 is there, to 13; 4 is left.
    trainer = trained([1.0, 2.0, 7.5, 8.0, 9.0], 4, 2, 5.0, 1)
    assert trainer.versions == [(7.0, 2, 2), (13.0, 4, 5)]
    assert (sorted(trainer.learnt), list(trainer.waiting), trainer.lost) == ([0, 1, 2, 3], [4], 0)
    # Of three that wait at 7 the oldest two.
    trainer = trained([1.0, 2.0, 3.0, 4.0, 5.0], 4, 2, 5.0, 1)
    assert trainer.versions == [(7.0, 2, 5), (12.0, 4, 5)]
    assert (sorted(trainer.learnt), list(trainer.waiting)) == ([0, 1, 2, 3], [4])


def the_oldest_of_too_many_are_lost() -> None:
    # 0 and 1 from 2 to 12; of 2 to 6 the pool keeps 5 and 6, taken at 12; 7 comes at 13.
    trainer = trained([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 13.0], 2, 2, 10.0, 1)
    assert trainer.versions == [(12.0, 2, 7), (22.0, 4, 8)]
    assert (sorted(trainer.learnt), list(trainer.waiting), trainer.lost) == ([0, 1, 5, 6], [7], 3)


def a_version_is_of_so_many_steps() -> None:
    trainer = trained([1.0] * 7, 9, 1, 2.0, 3)
    assert trainer.versions == [(7.0, 3, 7), (13.0, 6, 7)]
    assert trainer.learnt == Counter(range(7))


def a_sample_comes_before_a_step_ends_at_its_instant() -> None:
    # At 3 the pool of one is full still: 1 is lost, and 2 is taken.
    trainer = trained([1.0, 2.0, 3.0], 1, 1, 2.0, 1)
    assert (sorted(trainer.learnt), trainer.lost, trainer.versions[0]) == ([0, 2], 1, (3.0, 1, 3))


CASES = [
    a_replica_ends_its_step_and_pauses,
    a_step_that_would_start_at_the_swap_is_of_the_new_version,
    pauses_follow_each_other,
    who_is_idle_pauses_from_the_swap_on,
    ranks_go_on_together,
    it_trains_as_soon_as_there_are_enough,
    the_oldest_of_too_many_are_lost,
    a_version_is_of_so_many_steps,
    a_sample_comes_before_a_step_ends_at_its_instant,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_by_hand(case: Callable[[], None]) -> None:
    case()


BROKEN = [
    (Replica, "pause", "[self.ended] * self.stepping + ", ""),
    (Replica, "pause", " + self.pauses[-1:]", ""),
    (Replica, "pausing", "yield self.env.timeout(seconds)", "pass"),
    (Replica, "live", "if self.pauses:", "if False:"),
    (Cluster, "swap", "replica.pause(pause_s)", "pass"),
    (Cluster, "swap", "accepted=accepted, ", ""),
    (Trainer, "collect", "len(self.waiting) > self.pool", "len(self.waiting) >= self.pool"),
    (Trainer, "collect", "self.waiting.popleft()", "self.waiting.pop()"),
    (Trainer, "collect", "not self.taken and ", ""),
    (Trainer, "take", "self.waiting.popleft()", "self.waiting.pop()"),
    (Trainer, "live", "self.step_s", "0.0"),
    (Trainer, "live", "self.steps % self.sync == 0", "True"),
    (Trainer, "live", "Turn(self.env, self.rank, self.step_s)", "Turn(self.env, 0, self.step_s)"),
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken[0].__name__}.{broken[1]}")
def test_a_broken_one_fails_by_hand(monkeypatch: pytest.MonkeyPatch, broken: tuple[type, str, str, str]) -> None:
    owner, name, right, wrong = broken
    source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    assert source.count(right) == 1, f"{right!r} is not what is written in {name}"
    scope = dict(vars(inspect.getmodule(owner)))
    exec(source.replace(right, wrong), scope)
    monkeypatch.setattr(owner, name, scope[name])
    assert any(fails(case) for case in CASES)
