"""Measured costs of drafting: YAML files that installed packages ship, found by name, or a path.

`cost` has rates of DraftCost in seconds, `forward` the operators of a draft model's pass, as a profile's are written, with
`passes` and `at_once`; one of the two may be absent.
"""

import difflib
from collections.abc import Mapping
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from simulator.cost.document import operators_of
from simulator.cost.draft_cost import RATES, DraftCost, Forward
from simulator.cost.model import Profile, kind_of
from simulator.limits import LARGEST_BUDGET
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
    if not (document.get("cost") or document.get("forward")):
        raise InputError(f"cost is missing or empty: give seconds for any of {', '.join(RATES)}, or forward")
    return DraftCost.of(_rates(document.get("cost") or {}), _forward(document) if document.get("forward") else None)


def _rates(cost: Any) -> dict[str, float]:
    if not isinstance(cost, dict):
        raise InputError(f"cost = {cost!r:.60}: give seconds for any of {', '.join(RATES)}")
    for key, value in cost.items():
        if key not in RATES:
            near = difflib.get_close_matches(str(key), RATES, 1, cutoff=0.5) or RATES
            raise InputError(f"cost.{key}: unknown key: use {', '.join(near)}")
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9:
            raise InputError(f"cost.{key} = {value!r}: give a finite number of seconds, 0 or more")
    return {key: float(value) for key, value in cost.items()}


def _forward(document: Mapping[str, Any]) -> Forward:
    given = document["forward"]
    if not isinstance(given, dict) or not given.keys() <= {"operators", "passes", "at_once"}:
        raise InputError(
            f"forward = {given!r:.60}: give operators, and passes or at_once where they differ from 0 and false"
        )
    passes, at_once = given.get("passes", 0), given.get("at_once", False)
    if not isinstance(passes, int) or isinstance(passes, bool) or not 0 <= passes <= LARGEST_BUDGET:
        raise InputError(f"forward.passes = {passes!r:.60}: give a whole number from 0 to {LARGEST_BUDGET}")
    if not isinstance(at_once, bool):
        raise InputError(f"forward.at_once = {at_once!r:.60}: give true or false")
    operators = operators_of(given.get("operators"), "forward.operators")
    device, source = (str(document.get(key) or "unknown") for key in ("device", "source"))
    name = str(document.get("drafter") or "draft model")
    cost = Profile(f"passes of {name}", kind_of(operators), operators, name, device, source, uncertainty="unknown")
    return Forward(cost, passes, at_once=at_once)


def _shipped() -> dict[str, Traversable]:
    found = {}
    for point in entry_points(group=ENTRY_POINTS):
        for file in files(point.module).iterdir():
            if file.name.endswith(".yaml"):
                found[file.name.removesuffix(".yaml")] = file
    return found
