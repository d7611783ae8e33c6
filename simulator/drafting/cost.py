"""Measured costs of drafting: YAML files that installed packages ship, found by name, or a path."""

import difflib
from collections.abc import Mapping
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from simulator.cost.draft_cost import RATES, DraftCost
from simulator.strict_yaml import load_mapping
from traces.atomic import replacing
from traces.errors import InputError

ENTRY_POINTS = "rolloutsim.draft_costs"
FORMAT = "rolloutsim.draft_cost/1"


def load_draft_cost(name_or_path: str) -> DraftCost:
    """Return the cost of drafting with this name, or in this YAML file; `none` is free."""
    if name_or_path == "none":
        return DraftCost()
    shipped = _shipped()
    found: Traversable = shipped.get(name_or_path, Path(name_or_path))
    if name_or_path not in shipped and not found.is_file():
        near = difflib.get_close_matches(name_or_path, shipped, 1, cutoff=0.4) or sorted(shipped)
        raise InputError(f"draft cost {name_or_path!r} is unknown: use none, {', '.join(near)}, or a YAML file")
    try:
        return _parsed(found.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{found}: not text (byte {error.start}): a draft cost is a YAML file in UTF-8") from None
    except InputError as error:
        raise InputError(f"{found}: {error}") from None


def write_draft_cost(document: Mapping[str, Any], path: Path) -> None:
    """Write what `load_draft_cost` reads: `drafter`, `device`, `source`, `cost` (seconds by field of DraftCost), and more."""
    text: str = yaml.safe_dump({"format": FORMAT} | dict(document), sort_keys=False)
    with replacing(path) as file:
        file.write(text.encode())


def _parsed(text: str) -> DraftCost:
    document = load_mapping(text, f"format: {FORMAT}")
    if document.get("format") != FORMAT:
        raise InputError(f"format = {document.get('format')!r}: needs {FORMAT!r}")
    cost = document.get("cost")
    if not isinstance(cost, dict) or not cost:
        raise InputError(f"cost is missing or empty: give seconds for any of {', '.join(RATES)}")
    for key, value in cost.items():
        if key not in RATES:
            near = difflib.get_close_matches(str(key), RATES, 1, cutoff=0.5) or RATES
            raise InputError(f"cost.{key}: unknown key: use {', '.join(near)}")
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9:
            raise InputError(f"cost.{key} = {value!r}: give a finite number of seconds, 0 or more")
    return DraftCost.of({key: float(value) for key, value in cost.items()})


def _shipped() -> dict[str, Traversable]:
    found = {}
    for point in entry_points(group=ENTRY_POINTS):
        for file in files(point.module).iterdir():
            if file.name.endswith(".yaml"):
                found[file.name.removesuffix(".yaml")] = file
    return found
