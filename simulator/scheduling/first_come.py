"""Placements that let rollouts go on where they began: one queue for all replicas, parts made beforehand, or a router."""

from collections.abc import Iterable

import numpy as np

from simulator.scheduling.placement import Decision, Event, Place, View, told_at

WAITING_WEIGHT = 4
"""How much more a waiting rollout counts than a running one to vLLM's data-parallel router."""


@told_at("start", "arrival")
def shared(event: Event, view: View) -> Iterable[Decision]:
    """One queue, from which whichever replica has room takes; rollouts that arrive later go where the load is least."""
    return by_load(event, view) if event.kind == "arrival" else (Place(event.rollouts),)


@told_at("start")
def static(event: Event, view: View) -> Iterable[Decision]:
    """Contiguous, nearly equal parts."""
    parts = np.array_split(event.rollouts, view.replicas)
    return [Place(part, number) for number, part in enumerate(parts)]


@told_at("start")
def round_robin(event: Event, view: View) -> Iterable[Decision]:
    """To each replica in turn."""
    return in_turn(event, view)


@told_at("start", "arrival")
def least_loaded(event: Event, view: View) -> Iterable[Decision]:
    """As rollouts arrive, to the replica with the least load as vLLM's router counts it; all at once, to each in turn."""
    return by_load(event, view) if event.kind == "arrival" else in_turn(event, view)


def in_turn(event: Event, view: View) -> Iterable[Decision]:
    """The first to replica 0, the next to replica 1, and so on."""
    return (Place(event.rollouts, np.arange(event.rollouts.size) % view.replicas),)


def by_load(event: Event, view: View) -> Iterable[Decision]:
    """One after another to the replica with the least load, the lowest number first."""
    running, waiting, _, _ = view.loads
    loads, decisions = WAITING_WEIGHT * waiting + running, []
    for rollout in event.rollouts.tolist():
        least = int(loads.argmin())
        loads[least] += WAITING_WEIGHT
        decisions.append(Place(rollout, least))
    return decisions
