"""The tables of the installed aiconfigurator-core as a cost source: devices by the names of the catalogue or its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calibration.imports.aic_source import systems
from calibration.imports.aiconfigurator import import_aiconfigurator
from simulator.catalogue import load_device
from simulator.cost.model import Profile
from simulator.cost.sources import NotMeasuredError
from traces.errors import InputError


def measured(config: Mapping[str, Any], device: str, engine: str, version: str | None, tp: int, ep: int) -> Profile:
    """Profile of a model from the installed tables (`simulator.cost.sources.CostSource`)."""
    known = {name for _, name in systems()}
    if engine not in known:
        raise InputError(f"tables = {engine!r}: use one of the engines {', '.join(sorted(known))}")
    return import_aiconfigurator(None, config, system_of(device), engine, tp, ep, version)


def system_of(device: str, folder: Path | None = None) -> str:
    """The system whose tables are of this device: by its own name, or by any that the catalogue knows the device by.

    Raises NotMeasuredError where there are none, and InputError for a device that nobody knows.
    """
    names = sorted({name for name, _ in systems(folder)})
    if device in names:
        return device
    wanted = load_device(device)
    for name in names:
        if _same(name, wanted):
            return name
    raise NotMeasuredError(f"{wanted['name']} has no tables; there are those of {', '.join(names) or 'none'}")


def _same(name: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return load_device(name) == wanted
    except InputError:
        return False
