"""What is told of the built-in systems before anything is run."""

from typing import Any

from simulator.reasoning.resolve import Reasoning, resolve_reasoning
from simulator.scheduling.resolve import known_ahead
from simulator.system import System
from simulator.systems.built_in import built_in_system, built_in_systems
from simulator.systems.needs import NEEDS
from simulator.transforms.resolve import resolve_transform
from simulator.transforms.transform import Transform
from simulator.validated import made


def listing() -> list[dict[str, Any]]:
    """A row for each: name, paper, about, lossless, needs and assumes in words."""
    return [_row(made(System, built_in_system(name))) for name in built_in_systems()]


def _row(system: System) -> dict[str, Any]:
    parts: list[Transform | Reasoning] = [resolve_transform(one) for one in system.transforms]
    parts += [resolve_reasoning(system.reasoning)] if system.reasoning else []
    lossless = system.drafter is None or system.drafter.drafter().lossless
    return {
        "name": system.name, "paper": system.paper, "about": system.about,
        "lossless": lossless and all(one.lossless for one in parts),
        "needs": [NEEDS[need].words for need in system.needs],
        "assumes": [
            *system.assumes, *(one.assumes for one in parts if one.assumes), *known_ahead(system.placement or "shared"),
        ],
    }  # fmt: skip
