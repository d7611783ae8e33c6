"""The YAML form of a profile: a strict reader, and the writer that is its inverse."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from simulator.cost.model import Profile
from simulator.cost.operators import ROW_KEYS, Affine, Operator, Roof, Table
from simulator.cost.work import FEATURES
from simulator.strict_yaml import load_mapping
from traces.errors import InputError

FORMAT = "rolloutsim.profile/1"
TEXTS = ("name", "kind", "model", "device", "source", "uncertainty")
OPTIONAL = (
    "notes",
    "relative_error",
    "error_factors",
    "drafter_costs",
    "derived",
    "derivation",
    "held_out",
    "spread",
    "fits",
    "measured",
    "parallel",
)
TWO_DEEP = ("held_out", "spread", "fits")
"""Keys that hold numbers by name, and those by another name."""
DEAREST_S = 1e9
"""Seconds for a unit of work, at most: thirty years, and clocks still add up."""
KEYS = ("format", *TEXTS, *OPTIONAL, "valid_range", "operators")
OPERATOR_KEYS = {
    "affine": ("coefficients_s",),
    "roof": ("memory_s", "compute_s"),
    "table": ("axes", "grid", "values_s"),
}


def parse(text: str, sha256: str | None = None) -> Profile:
    """Profile from YAML text.

    Raises InputError naming key, value and fix; the caller adds the file.
    """
    document = load_mapping(text, f"format: {FORMAT}")
    return _profile(document, sha256)


def document_of(profile: Profile) -> dict[str, Any]:
    """Plain mapping that `parse` reads back, from its YAML or JSON form, to the same costs."""
    document: dict[str, Any] = {"format": FORMAT} | {key: getattr(profile, key) for key in TEXTS}
    document["relative_error"] = profile.relative_error
    if profile.error_factors is not None:
        document["error_factors"] = list(profile.error_factors)
    document["notes"] = profile.notes
    document["valid_range"] = {feature: list(span) for feature, span in profile.valid_range.items()}
    document["operators"] = [operator_document(one) for one in profile.operators]
    document["drafter_costs"] = {name: dict(costs) for name, costs in profile.drafter_costs.items()}
    if profile.derived:
        document |= {"derived": dict(profile.derived), "derivation": profile.derivation}
    for key in TWO_DEEP:
        if told := getattr(profile, key):
            document[key] = {name: dict(numbers) for name, numbers in told.items()}
    if profile.measured:
        document["measured"] = dict(profile.measured)
    if profile.parallel:
        document["parallel"] = dict(profile.parallel)
    return document


def operator_document(one: Operator) -> dict[str, Any]:
    """Plain mapping of one operator; affine rows name only their costs above 0."""
    document: dict[str, Any] = {"name": one.name, "kind": type(one).__name__.lower(), "repeat": one.repeat}
    if isinstance(one, Affine):
        return document | {"coefficients_s": _row_document(one.row_s)}
    if isinstance(one, Roof):
        return document | {"memory_s": _row_document(one.memory_s), "compute_s": _row_document(one.compute_s)}
    if one.when != "always":
        document["when"] = one.when
    if one.per is not None:
        document["per"] = one.per
    grid = [points.tolist() for points in one.grid]
    return document | {"axes": list(one.axes), "grid": grid, "values_s": one.values_s.tolist()}


def _row_document(seconds: tuple[float, ...]) -> dict[str, float]:
    return {key: cost for key, cost in zip(ROW_KEYS, seconds, strict=True) if cost}


def _profile(document: dict[Any, Any], sha256: str | None) -> Profile:
    _known(document, KEYS, "")
    if document.get("format") != FORMAT:
        raise InputError(f"format = {document.get('format')!r}: this version reads 'format: {FORMAT}'")
    texts = {key: _text(document, key) for key in TEXTS}
    notes = _text(document, "notes") if document.get("notes") else ""
    error, factors = document.get("relative_error"), document.get("error_factors")
    ranges = _mapping(document.get("valid_range", {}), "valid_range")
    _known(ranges, FEATURES, "valid_range.")
    entries = document.get("operators")
    drafters = _mapping(document.get("drafter_costs") or {}, "drafter_costs")
    told = {
        key: {name: _numbers(of, f"{key}.{name}") for name, of in _mapping(document.get(key) or {}, key).items()}
        for key in TWO_DEEP
    }
    return Profile(
        **texts,
        operators=operators_of(entries, "operators"),
        valid_range={feature: _span(span, f"valid_range.{feature}") for feature, span in ranges.items()},
        relative_error=None if error is None else _number(error, "relative_error"),
        error_factors=None if factors is None else _span(factors, "error_factors"),
        notes=notes,
        drafter_costs={name: _numbers(costs, f"drafter_costs.{name}") for name, costs in drafters.items()},
        derived=_numbers(document.get("derived") or {}, "derived"),
        derivation=_text(document, "derivation") if document.get("derived") else "",
        measured=_numbers(document.get("measured") or {}, "measured"),
        parallel=_mapping(document.get("parallel") or {}, "parallel"),
        sha256=sha256,
        held_out=told["held_out"],
        spread=told["spread"],
        fits=told["fits"],
    )


def operators_of(entries: Any, where: str) -> tuple[Operator, ...]:
    """The operators in a list of mappings, the inverse of `operator_document`; InputError names key, value and fix."""
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{where} = {_shown(entries)}: give a list of at least one operator")
    return tuple(_operator(entry, f"{where}[{index}]") for index, entry in enumerate(entries))


def _operator(entry: Any, where: str) -> Operator:
    operator = _mapping(entry, where)
    kind = operator.get("kind")
    if kind not in OPERATOR_KEYS:
        raise InputError(f"{where}.kind = {_shown(kind)}: use {', '.join(OPERATOR_KEYS)}")
    optional = ("when", "per") if kind == "table" else ()
    _known(operator, ("name", "kind", "repeat", *optional, *OPERATOR_KEYS[kind]), f"{where}.")
    missing = [key for key in ("name", *OPERATOR_KEYS[kind]) if key not in operator]
    if missing:
        raise InputError(f"{where}.{missing[0]} is missing: an operator of kind {kind} needs it")
    repeat = operator.get("repeat", 1)
    if not isinstance(repeat, int) or isinstance(repeat, bool):
        raise InputError(f"{where}.repeat = {_shown(repeat)}: give an integer >= 1")
    name = _text(operator, "name", f"{where}.")
    with _located(where):
        if kind == "affine":
            return Affine(name, _row(operator, "coefficients_s"), repeat)
        if kind == "roof":
            return Roof(name, _row(operator, "memory_s"), _row(operator, "compute_s"), repeat)
        return _table(operator, name, repeat)


def _table(operator: Mapping[str, Any], name: str, repeat: int) -> Table:
    axes, grid = operator["axes"], operator["grid"]
    if not isinstance(axes, list) or not all(isinstance(axis, str) for axis in axes):
        raise InputError(f"axes = {_shown(axes)}: give a list of features: {', '.join(FEATURES)}")
    if not isinstance(grid, list) or not all(isinstance(points, list) for points in grid):
        raise InputError(f"grid = {_shown(grid)}: give one list of numbers for each of the axes")
    stops = [
        [_number(point, f"grid[{axis}][{index}]") for index, point in enumerate(points)]
        for axis, points in enumerate(grid)
    ]
    shape = tuple(len(points) for points in stops)
    values = np.array(list(_cells(operator["values_s"], shape, "values_s"))).reshape(shape)
    when = _text(operator, "when") if "when" in operator else "always"
    per = _text(operator, "per") if "per" in operator else None
    return Table(name, tuple(axes), tuple(np.array(points) for points in stops), values, repeat, when, per)


def _cells(values: Any, shape: tuple[int, ...], where: str) -> Iterator[float]:
    """Numbers of a nested list in row order, checked against the shape of the grid."""
    if not shape:
        yield _seconds(values, where)
        return
    if not isinstance(values, list) or len(values) != shape[0]:
        found = f"has {len(values)} entries" if isinstance(values, list) else f"= {_shown(values)}"
        raise InputError(f"{where} {found}, the grid {shape[0]} points: give one entry per grid point")
    for index, inner in enumerate(values):
        yield from _cells(inner, shape[1:], f"{where}[{index}]")


def _row(operator: Mapping[str, Any], key: str) -> tuple[float, ...]:
    seconds = _mapping(operator[key], key)
    _known(seconds, ROW_KEYS, f"{key}.")
    return tuple(_seconds(seconds.get(name, 0.0), f"{key}.{name}") for name in ROW_KEYS)


def _span(span: Any, where: str) -> tuple[float, float]:
    if not isinstance(span, list) or len(span) != 2:
        raise InputError(f"{where} = {_shown(span)}: give [lowest, highest]")
    return _number(span[0], where), _number(span[1], where)


def _numbers(costs: Any, where: str) -> dict[str, float]:
    return {key: _number(cost, f"{where}.{key}") for key, cost in _mapping(costs, where).items()}


def _number(value: Any, where: str) -> float:
    """A finite or infinite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where} = {_shown(value)} is not a number: write it like 1.5e-3")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isnan(number):
        raise InputError(f"{where} = nan is not a number: measure it again or leave the operator out")
    return number


def _seconds(value: Any, where: str) -> float:
    """A cost: a number that clocks can still add up."""
    if DEAREST_S < (number := _number(value, where)) < math.inf:
        raise InputError(f"{where} = {number:g}: a cost is at most {DEAREST_S:g} seconds; correct it")
    return number


def _text(document: Mapping[str, Any], key: str, where: str = "") -> str:
    value = document.get(key)
    if not isinstance(value, str) or not value.strip():
        problem = "is missing" if value is None else f"= {_shown(value)} is not text"
        raise InputError(f"{where}{key} {problem}: every profile says it in words; quote it if it looks like a number")
    return " ".join(value.split())


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{where} = {_shown(value)} is not a mapping: write it as 'key: value' lines")
    return value


def _known(document: Mapping[Any, Any], known: tuple[str, ...], where: str) -> None:
    for key in document:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise InputError(f"{where}{key} is not a key of a profile: {hint}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Puts a key path before the message of an error raised inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
