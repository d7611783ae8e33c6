"""Where rollouts begin under a placement that acts at the start alone."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.budgets.view import Requests
from simulator.plugins import calling
from simulator.scheduling.placement import ANY, HELD, Event, Place, Placement, View, name_of
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class AtRest:
    """What a view looks up before anything has been placed."""

    requests: Requests
    emitted_tokens: Int64
    where: Int64
    room: Int64
    now_s: float = 0.0
    queued: int = 0
    block_size: int = 0

    def counts(self) -> tuple[Int64, Int64, Int64, Int64]:
        """Nobody runs or waits, and every slot is free."""
        none = np.zeros_like(self.room)
        return none, none, self.room, none


def at_start(
    placement: Placement, requests: Requests, order: Int64, emitted_tokens: Int64, replicas: int, max_num_seqs: int
) -> tuple[list[Int64], Int64]:
    """(rollouts that each replica gets before the start, what is left in the common queue), in queue order.

    order: the rollouts that are submitted; emitted_tokens: int64[n], before. Raises InputError where the placement does not
    place each of them once, to its end.
    """
    name = name_of(placement)
    state = AtRest(requests, emitted_tokens, np.full(emitted_tokens.size, HELD), np.full(replicas, max_num_seqs))
    with calling(f"placement {name}", "mend the placement"):
        decisions = tuple(placement(Event("start", order), View(state, replicas, max_num_seqs)))
    own: list[list[Int64]] = [[order[:0]] for _ in range(replicas)]
    common = [order[:0]]
    for decision in decisions:
        if not isinstance(decision, Place) or decision.stay_tokens or decision.kv != "recompute":
            raise InputError(
                f"placement {name}: {decision!r:.120}: one that acts at the start alone places rollouts to their end"
            )
        numbers = np.atleast_1d(np.asarray(decision.rollout, np.int64))
        where = np.broadcast_to(np.asarray(decision.replica, np.int64), numbers.shape)
        if numbers.size and not (where.min() >= ANY and where.max() < replicas):
            raise InputError(f"placement {name}: replica {where.max()}: use 0 to {replicas - 1}, or ANY")
        common.append(numbers[where == ANY])
        for number in range(replicas):
            own[number].append(numbers[where == number])
    parts, queue = [np.concatenate(part) for part in own], np.concatenate(common)
    _check_each_once(name, np.concatenate([*parts, queue]), order)
    return shared_out(parts, queue, max_num_seqs)


def _check_each_once(name: str, placed: Int64, order: Int64) -> None:
    if placed.size == order.size and (np.sort(placed) == np.sort(order)).all():
        return
    missing = np.setdiff1d(order, placed)
    told = f"leaves out rollout {missing[0]}" if missing.size else "places one twice, or one that was not submitted"
    raise InputError(f"placement {name} {told}: at the start it places each rollout once")


def shared_out(parts: list[Int64], queue: Int64, max_num_seqs: int) -> tuple[list[Int64], Int64]:
    """Give the head of the common queue one by one to the replica with the fewest, until all slots are taken."""
    if len(parts) == 1:
        return [np.concatenate([parts[0], queue])], queue[:0]
    sizes = np.array([part.size for part in parts])
    if not sizes.any():
        first = queue[: len(parts) * max_num_seqs]
        return [first[number :: len(parts)] for number in range(len(parts))], queue[first.size :]
    more: list[list[int]] = [[] for _ in parts]
    taken = 0
    while taken < queue.size and sizes.min() < max_num_seqs:
        fewest = int(sizes.argmin())
        more[fewest].append(int(queue[taken]))
        sizes[fewest] += 1
        taken += 1
    return [np.concatenate([part, np.array(add, np.int64)]) for part, add in zip(parts, more, strict=True)], queue[
        taken:
    ]
