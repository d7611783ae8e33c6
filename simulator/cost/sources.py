"""Costs that others measured: what an installed cost source answers for a model on a device, and why it has none."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol

from simulator.cost.model import Profile
from simulator.plugins import calling
from traces.errors import InputError

ENTRY_POINTS = "rolloutsim.cost_sources"
VERSION = "=="
"""Stands between an engine and its version."""


class NotMeasuredError(InputError):
    """A source knows what it is asked for, but nobody measured it."""


class CostSource(Protocol):
    """What an entry point of the group `rolloutsim.cost_sources` names."""

    def __call__(
        self, config: Mapping[str, Any], device: str, engine: str, version: str | None, tp: int, ep: int
    ) -> Profile:
        """Costs of the model of this `config.json` on `tp` GPUs of a device, its experts spread over `ep`, under an engine.

        version: of the engine; None is that which the source prefers. Raises NotMeasuredError, or InputError where the question
        itself is wrong.
        """


def measured(config: Mapping[str, Any], device: str, tables: str, tp: int = 1, ep: int = 1) -> Profile:
    """Costs from the first installed source that has them. tables: an engine, or ENGINE==VERSION.

    Raises NotMeasuredError with the reason of every source where none has them, and InputError from the first that refuses.
    """
    engine, _, version = tables.partition(VERSION)
    reasons = []
    for point in sorted(entry_points(group=ENTRY_POINTS)):
        with calling(f"cost source {point.name!r}", "mend or uninstall it"):
            source: CostSource = point.load()
            try:
                return source(config, device, engine, version or None, tp, ep)
            except NotMeasuredError as error:
                reasons.append(str(error))
    raise NotMeasuredError("; ".join(reasons) or f"no cost source is installed ({ENTRY_POINTS}): reinstall rolloutsim")
