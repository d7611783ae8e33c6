"""A draft length for each rollout that follows what its drafts come to, as compiled code finds it before every decode step."""

from simulator.compiled import compiled, entry
from simulator.records import Array, array_field, layout

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
    """The rule (`adaptive.Settings`), and all rollouts that it is for."""

    low: int
    high: int
    delta: int
    rho: float
    average: bool
    followed: Array[Followed]


FOLLOWED, FOLLOWER = layout(Followed), layout(Follower)
followed_of = array_field("followed", FOLLOWED)


@compiled
def follow(follower: Follower, one: Followed, position: int, drafted: int) -> int:
    """Note where a rollout is, learn from what was drafted for it since it was last seen, if anything was; its next length."""
    emitted, generated = position - one.position, drafted - one.drafted
    one.position, one.drafted = position, drafted
    if emitted < 0 or generated == 0:
        return one.length
    rho = follower.rho
    one.generated = (1 - rho) * one.generated + rho * generated
    whole = emitted > generated
    if follower.average:
        one.accepted = (1 - rho) * one.accepted + rho * (emitted - 1)
        whole = one.accepted >= one.generated
    length = int(one.generated) + follower.delta * whole
    one.length = min(max(length, follower.low), follower.high)
    return one.length


@entry
def follow_all(
    followers: Array[Follower], rollouts: Array[int], position: Array[int], drafted: Array[int], lengths: Array[int]
) -> None:
    """`follow`, from Python: the length of each of a batch."""
    follower = followers[0]
    followed = followed_of(follower)
    for i in range(rollouts.size):
        lengths[i] = follow(follower, followed[rollouts[i]], position[i], drafted[i])
