"""Divided rollouts: each is decoded in stays of so many tokens, and after each goes where there is room (Seer)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

from simulator.budgets.context import Context
from simulator.scheduling.placement import ANY, KV, Decision, Event, Kind, Place, View
from simulator.spec import one_of, read, whole


@dataclass(frozen=True)
class Divided:
    """`divided:stay=TOKENS,kv=recompute|pull`: stays of so many tokens.

    Who has ended a stay waits behind those in the common queue. Where nobody waits it goes to the replica with the fewest
    rollouts, or stays where it is if that has no more than one rollout less. kv: whether what it has so far is computed again
    there, or pulled.
    """

    stay: int = 2048
    kv: KV = "recompute"
    name = "divided"
    events: frozenset[Kind] = frozenset({"start", "arrival", "left"})

    def __call__(self, event: Event, view: View) -> Iterable[Decision]:
        """Place whoever starts or has ended a stay."""
        if event.kind != "left" or view.queued or view.replicas == 1:
            return (Place(event.rollouts, ANY, self.stay, self.kv),)
        running, waiting, _, _ = view.loads
        loads, decisions = running + waiting, []
        for rollout in event.rollouts.tolist():
            fewest = int(loads.argmin())
            chosen = fewest if loads[fewest] < loads[event.replica] else event.replica
            loads[chosen] += 1
            decisions.append(Place(rollout, chosen, self.stay, self.kv))
        return decisions


READERS = {"stay": whole(1), "kv": one_of(*get_args(KV))}


def divided(argument: str, context: Context | None) -> Divided:
    """Stays of so many tokens, each where there is room."""
    return Divided(**read("divided", argument, READERS, "placement"))
