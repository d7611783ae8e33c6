"""Two draft lengths by priority for an interval of decode steps: compiled code gives them, and sums up what they come to."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from simulator.budgets.choosing import NOTHING
from simulator.budgets.following import UNSEEN
from simulator.budgets.policy import BY_PRIORITY, BudgetPolicy
from simulator.budgets.view import BatchView, Requests, Seen
from simulator.compiled import compiled, entry
from simulator.records import INT, Array, Pointing, array_field, layout, records

Int64 = npt.NDArray[np.int64]
S = TypeVar("S", bound=Seen)


class Stand:
    """Where a rollout was when a batch was noted that it was in and that changed since, whatever the replica."""

    position: int
    drafted: int  # tokens so far


class Member(Stand):
    """A sequence of a replica's batch as it was when the policy was asked last."""

    rollout: int
    budget: int


class Sharer:
    """One replica's two draft lengths, and what drafts came to since they were decided."""

    high: int  # drafts of a sequence of high priority
    low: int  # and of any other
    due: int  # decode step of the next decision
    rate: float  # of acceptance: a moving average, without the interval that goes on
    trees: bool
    mean: float  # accepted tokens that are expected of a tree
    accepted: int  # drafts in this interval
    tested: float  # those, and the drafts cut short; of trees, the accepted tokens that are expected
    steps: int  # when it was asked last; NOTHING before
    live: int  # sequences then
    changed: bool  # whether it must be looked again who has high priority
    first: int  # where a decision is due, sequences of high priority, and
    context_tokens: int  # of all
    batch: Array[Member]
    stands: Array[Stand]  # of all rollouts, shared with other replicas
    high_from: Array[int]  # context tokens from which each rollout has high priority


SEEN, STAND, MEMBER, SHARER = layout(Seen), layout(Stand), layout(Member), layout(Sharer)
batch_of, stands_of, high_from_of = (
    array_field("batch", MEMBER),
    array_field("stands", STAND),
    array_field("high_from", INT),
)


@compiled
def share(sharer: Sharer, seen: Array[S], live: int, steps: int) -> bool:
    """Note what the last decode step came to, and the budgets of the batch; False where they must be decided first.

    Doing it again before the next decode step adds nothing.
    """
    observe(sharer, seen, live, steps)
    high_from, batch = high_from_of(sharer), batch_of(sharer)
    decided = steps < sharer.due
    sharer.changed |= not decided
    if sharer.changed:
        first = context_tokens = 0
        for i in range(live):
            context = seen[i].position - seen[i].origin
            high = context >= high_from[seen[i].rollout]
            batch[i].budget = sharer.high if high else sharer.low
            first += high
            context_tokens += context
        sharer.first, sharer.context_tokens, sharer.changed = first, context_tokens, not decided
    return decided


@compiled
def observe(sharer: Sharer, seen: Array[S], live: int, steps: int) -> None:
    """Sum up what the last decode step came to, over the sequences that were in it and are still live."""
    batch, i = batch_of(sharer), 0
    if live == sharer.live:
        while i < live and seen[i].rollout == batch[i].rollout:
            i += 1
    if i < live:
        exchange(sharer, seen, live)
    accepted = rejected = drafting = joined = 0
    for i in range(live):
        now, one = seen[i], batch[i]
        emitted, drafts = now.position - one.position, now.drafted - one.drafted
        one.position, one.drafted = now.position, now.drafted
        if emitted > 0:  # others joined, were not scheduled, or are in a prefill that goes on
            accepted += emitted - 1
            rejected += drafts >= emitted  # a draft of d tokens that is accepted whole emits d + 1
            drafting += drafts > 0
        joined += emitted < 0
    if sharer.steps != NOTHING and sharer.steps != steps:
        sharer.accepted += accepted
        sharer.tested += sharer.mean * drafting if sharer.trees else accepted + rejected
    sharer.changed |= joined > 0 or live != sharer.live
    sharer.live, sharer.steps = live, steps


@compiled
def exchange(sharer: Sharer, seen: Array[S], live: int) -> None:
    """Note where the batch's sequences were, and take up others where they were noted."""
    batch, stands = batch_of(sharer), stands_of(sharer)
    for i in range(sharer.live):
        stand = stands[batch[i].rollout]
        stand.position, stand.drafted = batch[i].position, batch[i].drafted
    for i in range(live):
        stand, batch[i].rollout = stands[seen[i].rollout], seen[i].rollout
        batch[i].position, batch[i].drafted = stand.position, stand.drafted


@entry
def share_from(sharers: Array[Sharer], seen: Array[Seen], steps: int) -> bool:
    """`share`, from Python."""
    return share(sharers[0], seen, seen.size, steps)


class Shares(ABC):
    """Two draft lengths, decided every `interval` decode steps; one object for all replicas.

    A simulated engine gives them by its `Sharer`s itself and comes back for decisions; asking gives the same.

    The rate of acceptance is SmartSpec's (arXiv 2406.14066): drafts are taken as chains of tokens, each accepted with the same
    probability until the first that is not; what comes after that one was never put to the test. So an interval's own rate is
    accepted / (accepted + drafts cut short), by which the rate moves by `weight` of the way. Of trees, it is accepted tokens as a
    share of those expected.
    """

    every, way = 1, BY_PRIORITY
    trees = False

    def __init__(self, interval: int, start: float, weight: float) -> None:
        self.budgets: Int64 = np.zeros(1, np.int64)  # as long as nothing is decided
        self._interval, self._start, self._weight = interval, start, weight
        self._rates: Mapping[int, float] = {}
        self._sharers: dict[int, Pointing] = {}
        self._requests: Requests | None = None
        self._stands, self._high_from = records(STAND, 0), np.empty(0, np.int64)

    def remember(self, previous: BudgetPolicy) -> None:
        """Start from the rates of acceptance that the RL step before ended with."""
        if isinstance(previous, type(self)):
            ended = {replica: float(sharer["rate"]) for replica, sharer in previous._sharers.items()}
            self._rates = {**previous._rates, **ended}

    def __call__(self, view: BatchView) -> Int64:
        """Return the budget of every live sequence."""
        sharer = self.chooser(view.replica, view.requests, view.live)
        seen = np.array(view.seen.T, order="C").view(SEEN)[:, 0]
        while not share_from(sharer.record, seen, view.steps):
            self.supply(view.replica, view.steps)
        budgets: Int64 = sharer.target("batch")["budget"][: view.live].copy()
        return budgets

    def chooser(self, replica: int, requests: Requests, slots: int) -> Pointing:
        """What shares out a replica's drafts, a `Sharer`."""
        sharer = self._sharers.get(replica)
        if sharer is None:
            rate = self._rates.get(replica, self._start)
            sharer = self._sharers[replica] = Pointing(SHARER, steps=NOTHING, rate=rate, trees=self.trees)
            sharer.point(batch=records(MEMBER, slots), stands=self._stands, high_from=self._high_from)
        if slots > sharer["batch_size"]:
            known = sharer.target("batch")
            sharer.point(batch=np.append(known, records(MEMBER, slots - known.size)))
        if requests is not self._requests:
            self._know(requests)
        return sharer

    def supply(self, replica: int, steps: int) -> None:
        """Decide for a replica, where it is time to."""
        sharer = self._sharers[replica]
        if steps >= sharer["due"]:
            sharer["high"], sharer["low"] = self._decide(sharer, self._learnt(sharer))
            sharer["due"] = steps + self._interval

    def _learnt(self, sharer: Pointing) -> float:
        """Fold the interval into the rate of acceptance and return it; an interval without drafts changes nothing."""
        rate, tested = float(sharer["rate"]), float(sharer["tested"])
        if tested:
            rate += self._weight * (int(sharer["accepted"]) / tested - rate)
            sharer["rate"], sharer["accepted"], sharer["tested"] = rate, 0, 0.0
        return rate

    def _know(self, requests: Requests) -> None:
        self._requests, self._high_from = requests, self._priorities(requests)
        if self._stands.size < requests.prompt.size:
            self._stands = records(STAND, requests.prompt.size)
            self._stands["position"] = UNSEEN
        for sharer in self._sharers.values():
            sharer.point(stands=self._stands, high_from=self._high_from)

    def _priorities(self, requests: Requests) -> Int64:
        """Context tokens from which each rollout has high priority, int64[n]; here none ever has."""
        return np.full(requests.prompt.size, UNSEEN)

    @abstractmethod
    def _decide(self, sharer: Pointing, acceptance: float) -> tuple[int, int]:
        """Drafts of each sequence of high priority and of any other, by `live`, `first` and `context_tokens`."""
