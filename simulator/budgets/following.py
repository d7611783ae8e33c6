"""A draft length for each rollout that follows what its drafts come to, as compiled code finds it before every decode step."""

import numpy as np
import numpy.typing as npt

from simulator.budgets.policy import FOR_EACH
from simulator.budgets.view import DRAFTED, POSITION, BatchView, Requests
from simulator.compiled import compiled, entry
from simulator.records import Array, Pointing, array_field, layout, records

Int64 = npt.NDArray[np.int64]

UNSEEN = 1 << 62
"""As position, of a rollout that was not seen yet: beyond all."""


class Followed:
    """One rollout, wherever it is: where it was last seen, and what its drafts came to until then."""

    position: int
    drafted: int  # tokens so far
    generated: float  # moving averages: tokens drafted, and
    accepted: float  # accepted, where that counts
    length: int  # of its next draft


class Follower:
    """The rule, and all rollouts that it is for: a window (`aimd.Settings`), or moving averages (`adaptive.Settings`)."""

    low: int
    high: int
    delta: int
    rho: float
    average: bool
    window: bool
    double: bool  # a window doubles and halves
    followed: Array[Followed]


FOLLOWED, FOLLOWER = layout(Followed), layout(Follower)
followed_of = array_field("followed", FOLLOWED)


@compiled
def follow(follower: Follower, one: Followed, position: int, drafted: int) -> int:
    """Note where a rollout is, learn from what came of its step if it has been seen before; the length of its next draft."""
    emitted, generated = position - one.position, drafted - one.drafted
    one.position, one.drafted = position, drafted
    if follower.window:
        if emitted > 0:  # one that was not scheduled, or prefills still, says nothing of its drafts
            one.length = window_after(follower, one.length, emitted)
    elif emitted >= 0 and generated > 0:
        learn(follower, one, emitted, generated)
    return one.length


@compiled
def window_after(follower: Follower, window: int, emitted: int) -> int:
    """Wider where more was emitted than the window, else narrower."""
    if emitted > window:
        return min(2 * window if follower.double else window + follower.delta, follower.high)
    return max(window // 2, follower.low) if follower.double else follower.low


@compiled
def learn(follower: Follower, one: Followed, emitted: int, generated: int) -> None:
    """Follow the averages with a draft."""
    rho = follower.rho
    one.generated = (1 - rho) * one.generated + rho * generated
    whole = emitted > generated
    if follower.average:
        one.accepted = (1 - rho) * one.accepted + rho * (emitted - 1)
        whole = one.accepted >= one.generated
    length = int(one.generated) + follower.delta * whole
    one.length = min(max(length, follower.low), follower.high)


@entry
def follow_all(
    followers: Array[Follower], rollouts: Array[int], position: Array[int], drafted: Array[int], lengths: Array[int]
) -> None:
    """`follow`, from Python: the length of each of a batch."""
    follower = followers[0]
    followed = followed_of(follower)
    for i in range(rollouts.size):
        lengths[i] = follow(follower, followed[rollouts[i]], position[i], drafted[i])


class Follows:
    """Lengths that follow their rollouts, one object for all replicas.

    A simulated engine finds them by the `Follower` itself; asking gives the same. first: length of a rollout's first draft; rule:
    the follower's.
    """

    every, way = 1, FOR_EACH

    def __init__(self, first: int, **rule: float) -> None:
        self.budgets: Int64 = np.array([first])  # the first of all; others may never be chosen
        self._follower = Pointing(FOLLOWER, **rule)

    def __call__(self, view: BatchView) -> Int64:
        """Return the draft length of every live sequence."""
        lengths = np.empty(view.live, np.int64)
        follower = self.chooser(view.replica, view.requests)
        follow_all(follower.record, view.rollout, view.seen[POSITION], view.seen[DRAFTED], lengths)
        return lengths

    def chooser(self, replica: int, requests: Requests, slots: int = 0) -> Pointing:
        """What finds the lengths, a `Follower`: the same for every replica, since rollouts may move."""
        if self._follower["followed_size"] < requests.prompt.size:
            followed = records(FOLLOWED, requests.prompt.size)
            followed["position"], followed["length"] = UNSEEN, self.budgets[0]
            self._follower.point(followed=followed)
        return self._follower
