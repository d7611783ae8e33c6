"""From a placement's name to the placement: a built-in, an installed entry point, or `module:attr`."""

from collections.abc import Callable
from typing import Any

from simulator.budgets.context import Context
from simulator.plugins import calling, load
from simulator.scheduling.context_aware import context_aware
from simulator.scheduling.divided import divided
from simulator.scheduling.first_come import least_loaded, round_robin, shared, static
from simulator.scheduling.longest_first import longest_first
from simulator.scheduling.placement import KnowsLengths, Placement, PreparesPlacement
from simulator.scheduling.ranked import ranked
from simulator.scheduling.skewed import skewed
from simulator.spec import refuse
from traces.errors import InputError

Build = Callable[[str, Context | None], Placement]
"""From the argument of a name and, if known, the context of the RL step."""


def _plain(name: str, placement: Placement) -> Build:
    def build(argument: str, context: Context | None) -> Placement:
        if argument:
            refuse(name, argument, "takes no settings", "placement")
        return placement

    return build


FIRST_COME = {"shared": shared, "static": static, "round_robin": round_robin, "least_loaded": least_loaded}
BUILT_IN: dict[str, Build] = {
    **{name: _plain(name, placement) for name, placement in FIRST_COME.items()},
    "longest_first": longest_first,
    "divided": divided,
    "context": context_aware,
    "ranked": ranked,
    "skewed": skewed,
}
ENTRY_POINTS = "rolloutsim.placements"


def resolve_placement(spec: str, context: Context | None = None) -> Placement:
    """Return the placement that `spec` names, prepared for an RL step where its context is given.

    Raises InputError for what is wrong with the name.
    """
    name, _, argument = spec.partition(":")
    if build := BUILT_IN.get(name):
        return build(argument, context)
    return prepared_placement(load(spec, ENTRY_POINTS, "placement", list(BUILT_IN)), context, spec)


def known_ahead(spec: str) -> list[str]:
    """A line for what a placement knows that no router does: only oracles have one."""
    placement = resolve_placement(spec)
    return [f"placement {spec}: {placement.knows}"] if isinstance(placement, KnowsLengths) else []


def prepared_placement(placement: Any, context: Context | None, spec: str) -> Placement:
    """Return a user's placement after its `prepare`, where it has one and something is known."""
    if context is not None and isinstance(placement, PreparesPlacement):
        with calling(f"placement {spec!r}: prepare", "mend the placement"):
            placement = placement.prepare(context)
    if not callable(placement) and not isinstance(placement, PreparesPlacement):
        raise InputError(
            f"placement {spec!r} is a {type(placement).__name__}: it must be callable, (Event, View) -> decisions"
        )
    made: Placement = placement
    return made


def placement_of(placement: Placement | str, replicas: int) -> Placement:
    """A deployment's placement; on one replica those that come first are served first, whatever its name says."""
    if not isinstance(placement, str):
        return placement
    return static if replicas == 1 and placement in FIRST_COME else resolve_placement(placement)
