"""From a placement's name to the placement: a built-in, an installed entry point, or `module:attr`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from simulator.budgets.context import Context
from simulator.plugins import calling, load
from simulator.scheduling.divided import divided
from simulator.scheduling.first_come import least_loaded, round_robin, shared, static
from simulator.scheduling.longest_first import longest_first
from simulator.scheduling.placement import Placement, PreparesPlacement
from simulator.spec import refuse
from traces.errors import InputError


class BuiltIn(NamedTuple):
    """build: from the argument of the name and, if known, the context; usage: how to name it; source: where it comes from."""

    build: Callable[[str, Context | None], Placement]
    usage: str
    source: str


def _plain(name: str, placement: Placement) -> Callable[[str, Context | None], Placement]:
    def build(argument: str, context: Context | None) -> Placement:
        if argument:
            refuse(name, argument, "takes no settings", "placement")
        return placement

    return build


BUILT_IN = {
    "shared": BuiltIn(_plain("shared", shared), "shared", "baseline"),
    "static": BuiltIn(_plain("static", static), "static", "baseline"),
    "round_robin": BuiltIn(_plain("round_robin", round_robin), "round_robin", "baseline"),
    "least_loaded": BuiltIn(_plain("least_loaded", least_loaded), "least_loaded", "vLLM, data-parallel router"),
    "longest_first": BuiltIn(
        longest_first, "longest_first", "list scheduling, Graham 1969; StreamRL, arXiv 2504.15930"
    ),
    "divided": BuiltIn(divided, "divided:stay=TOKENS,kv=recompute|pull", "Seer, arXiv 2511.14617"),
}
FIRST_COME = ("shared", "static", "round_robin", "least_loaded")
ENTRY_POINTS = "rolloutsim.placements"


def resolve_placement(spec: str, context: Context | None = None) -> Placement:
    """Return the placement that `spec` names, prepared for an RL step where its context is given.

    Raises InputError for what is wrong with the name.
    """
    name, _, argument = spec.partition(":")
    if entry := BUILT_IN.get(name):
        return entry.build(argument, context)
    return prepared_placement(load(spec, ENTRY_POINTS, "placement", list(BUILT_IN)), context, spec)


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
