"""Measured acceptance of tree strategies in files: a table of mean acceptance lengths, or curves."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.strategy import Strategy, geometric
from simulator.strict_yaml import load_mapping
from traces.errors import InputError
from traces.io import read_bytes

FORMAT = "rolloutsim.strategies/1"
KEYS = ("format", "name", "source", "strategies")
SHAPE = ("depth", "topk", "verify")
MEASURED = ("accept_length", "conditional")


def read_strategies(path: Path, use: Sequence[str] | None = None) -> list[Strategy]:
    """Read a table of strategies, or those of it that `use` names as `depth-topk-verify`.

    - CSV with the header `depth,topk,verify,accept_length`, a strategy a line
    - YAML with `format: rolloutsim.strategies/1`: name, source, strategies: a list of `{depth, topk, verify}` with
      `accept_length` or `conditional`

    Raises InputError naming file, line or entry, value and fix.
    """
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text (byte {error.start}): give YAML or CSV") from None
    try:
        rows = _of_csv(text) if path.suffix == ".csv" else _of_yaml(text)
        return chosen([strategy_of(row, where) for where, row in rows], use)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def chosen(strategies: list[Strategy], use: Sequence[str] | None) -> list[Strategy]:
    """Return the strategies of these names, or all."""
    if use is None:
        return strategies
    by_name = {one.name: one for one in strategies}
    if unknown := [name for name in use if name not in by_name]:
        raise InputError(f"has no strategy {unknown[0]!r}: choose from {', '.join(by_name)}")
    return [by_name[name] for name in use]


def strategy_of(row: Mapping[Any, Any], where: str) -> Strategy:
    """Return the strategy that a row describes; InputError names the row by `where`."""
    for key in row:
        if key not in (*SHAPE, *MEASURED):
            raise InputError(f"{where}: {key!r} is not known: give {', '.join(SHAPE)} and {' or '.join(MEASURED)}")
    if missing := [key for key in SHAPE if key not in row]:
        raise InputError(f"{where}: {missing[0]} is missing: give {', '.join(SHAPE)}")
    depth, topk, verify = (_whole(row[key], f"{where}: {key}") for key in SHAPE)
    if ("accept_length" in row) == ("conditional" in row):
        raise InputError(f"{where}: give one of {' and '.join(MEASURED)}: what was measured of it")
    if "accept_length" in row:
        curve = geometric(depth, topk, verify, _number(row["accept_length"], f"{where}: accept_length"))
    else:
        given = row["conditional"]
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise InputError(f"{where}: conditional = {given!r:.40}: give a list of probabilities, one for each depth")
        numbers = tuple(_number(p, f"{where}: conditional[{j}]") for j, p in enumerate(given))
        curve = AcceptanceCurve(numbers, name="path", source="acceptance by depth of the path")
    return Strategy(depth, topk, verify, curve)


def _of_csv(text: str) -> Iterable[tuple[str, dict[str, Any]]]:
    lines = csv.reader(io.StringIO(text))
    header = next(lines, [])
    if sorted(header) != sorted((*SHAPE, "accept_length")):
        raise InputError(f"line 1: {','.join(header)!r:.60}: the header is depth,topk,verify,accept_length")
    rows = []
    for cells in filter(None, lines):
        if len(cells) != len(header):
            raise InputError(f"line {lines.line_num}: {len(cells)} values for {len(header)} columns: correct the line")
        rows.append((f"line {lines.line_num}", dict(zip(header, cells, strict=True))))
    if not rows:
        raise InputError("has no strategies: write one a line")
    return rows


def _of_yaml(text: str) -> Iterable[tuple[str, dict[Any, Any]]]:
    document = load_mapping(text, f"format: {FORMAT}")
    for key in document:
        if key not in KEYS:
            raise InputError(f"{key!r} is not a key of a table of strategies: use {', '.join(KEYS)}")
    if document.get("format") != FORMAT:
        raise InputError(f"format = {document.get('format')!r}: this version reads 'format: {FORMAT}'")
    for key in ("name", "source"):
        if not isinstance(document.get(key), str) or not document[key].strip():
            raise InputError(f"{key} = {document.get(key)!r} is not text: say it in words")
    rows = document.get("strategies")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError("strategies: give a list of {depth: 8, topk: 8, verify: 48, accept_length: 7.2}")
    return [(f"strategies[{i}]", row) for i, row in enumerate(rows)]


def _whole(value: Any, where: str) -> int:
    number = _number(value, where)
    if not number.is_integer():
        raise InputError(f"{where} = {value!r:.40}: give a whole number")
    return int(number)


def _number(value: Any, where: str) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not abs(number) < float("inf"):
        raise InputError(f"{where} = {value!r:.40} is not a finite number: correct it")
    return number
