"""What is varied, as it is written on a command line: `engine.max_num_seqs=64,128`, `drafter.window=1..32`, `policy=none,das`."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from simulator.strict_yaml import load_value
from traces.errors import InputError

Cell = dict[str, Any]
"""A value for each key."""

NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})(?::(log|{NUMBER}))?")
QUOTED = re.compile(r"""\"(?:[^"\\]|\\.)*\"|'[^']*'""")
MOST_VALUES = 100_000


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where both are. log: small ones are as likely as large ones;
    step: only every so many.
    """  # fmt: skip

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether its numbers are integers."""
        return all(isinstance(one, int) for one in (self.low, self.high, self.step or 1))

    def __str__(self) -> str:
        """As it is written."""
        more = ":log" if self.log else "" if self.step is None else f":{self.step}"
        return f"{self.low}..{self.high}{more}"


@dataclass(frozen=True)
class Axis:
    """A key of a scenario, dotted, or `policy`; its values, or the range that they are from."""

    key: str
    values: tuple[Any, ...] | Range

    @property
    def path(self) -> tuple[str, ...]:
        """The keys that lead to it in a scenario file."""
        return ("policies",) if self.key == "policy" else tuple(self.key.split("."))

    @property
    def listed(self) -> tuple[Any, ...]:
        """Each of its values; InputError for a range without steps."""
        if not isinstance(self.values, Range):
            return self.values
        low, high, step = self.values.low, self.values.high, self.values.step
        if self.values.log or (step is None and not self.values.whole):
            raise InputError(
                f"{self.key} = {self.values}: a grid needs steps: {low}..{high}:STEP, or a list, or --search"
            )
        step = step or 1
        count = int((high - low) / step + 1e-9) + 1
        if count > MOST_VALUES:
            raise InputError(f"{self.key} = {self.values}: that is {count:,} values: give a longer step, or --search")
        return tuple(
            low + number * step if self.values.whole else round(low + number * step, 12) for number in range(count)
        )

    @property
    def ends(self) -> tuple[Any, ...]:
        """Its values, or the ends of its range."""
        return (self.values.low, self.values.high) if isinstance(self.values, Range) else self.values


def parse_axis(text: str) -> Axis:
    """Read `KEY=VALUE,VALUE,...` or `KEY=LOW..HIGH[:log|:STEP]`; values are YAML. InputError says what cannot be read."""
    key, equals, rest = text.partition("=")
    key = key.strip()
    if not (equals and rest.strip()) or not all(key.split(".")):
        raise InputError(f"{text!r} is not KEY=VALUE,VALUE,...: for example engine.max_num_seqs=64,128")
    if found := RANGE.fullmatch(rest.strip()):
        return Axis(key, _range(text, *found.groups()))
    try:
        values = tuple(load_value(part) for part in split(rest))
    except InputError as error:
        raise InputError(f"{text!r}: {error}") from None
    if twice := [one for number, one in enumerate(values) if canonical(one) in map(canonical, values[:number])]:
        raise InputError(f"{text!r}: {twice[0]!r} is given twice: give it once")
    return Axis(key, values)


def parse_axes(texts: tuple[str, ...]) -> tuple[Axis, ...]:
    """Read one axis after another, each key once."""
    axes = [parse_axis(text) for text in texts]
    given: dict[tuple[str, ...], str] = {}
    for axis in axes:
        if axis.path in given:
            raise InputError(
                f"{axis.key} says what {given[axis.path]} said: give all its values at once, separated by commas"
            )
        given[axis.path] = axis.key
    return tuple(axes)


def split(text: str) -> list[str]:
    """Split at the commas that are in no quotes, brackets or braces; InputError where a value is missing."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        letter = text[at]
        if quoted := QUOTED.match(text, at):
            at = quoted.end()
            continue
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    parts.append(text[start:])
    if not all(part.strip() for part in parts):
        raise InputError("a value is missing between commas: write null for none, '' for an empty text")
    return parts


def canonical(value: Any) -> str:
    """A text that is the same for the same values alone."""
    return json.dumps(value, sort_keys=True, default=str)


def name_of(cell: Cell) -> str:
    """A cell as it is written on a command line."""
    return " ".join(f"{key}={shown(value)}" for key, value in cell.items())


def shown(value: Any) -> str:
    """A value as a word."""
    return value if isinstance(value, str) else canonical(value)


def _range(text: str, low: str, high: str, more: str | None) -> Range:
    numbers: Iterator[float] = (load_value(one) if "e" not in one.lower() else float(one) for one in (low, high))
    first, last = numbers
    step = None if more in (None, "log") else float(more) if "e" in str(more).lower() else load_value(str(more))
    if first >= last:
        raise InputError(f"{text!r}: {low} is not below {high}: write the smaller number first")
    if more == "log" and first <= 0:
        raise InputError(f"{text!r}: a log range begins above 0, not at {low}")
    if step is not None and not 0 < step <= last - first:
        raise InputError(f"{text!r}: a step of {more} does not lead from {low} to {high}: give a smaller one above 0")
    return Range(first, last, more == "log", step)
