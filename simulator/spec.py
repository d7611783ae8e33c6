"""Settings of a part as they stand in its name, `name:key=value,...`: read, checked, and refused in one line."""

import difflib
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any, NoReturn

from simulator.limits import LARGEST_BUDGET
from traces.errors import InputError
from traces.plain import is_plain

Reader = Callable[[str], Any]
"""From the text of a value to the value; ValueError says what to give instead."""

MOST = 10**9 - 1
SHOWN = 80
CLOSING = {"[": "]", "{": "}"}


def refuse(name: str, argument: str, problem: str, what: str = "policy") -> NoReturn:
    """Raise InputError about the settings of a policy, or of `what` it is."""
    raise InputError(f"{what} {_shown(f'{name}:{argument}' if argument else name)!r} {problem}")


def pairs(name: str, argument: str, what: str = "policy") -> list[tuple[str, str]]:
    """Split `key=value,...` into its pairs, in their order, each key once."""
    found: list[tuple[str, str]] = []
    for part in filter(None, argument.split(",")):
        key, equals, value = part.partition("=")
        if not (key and equals):
            refuse(name, argument, f"has setting {_shown(part)!r}: write key=value", what)
        if key in dict(found):
            refuse(name, argument, f"sets {_shown(key)} twice: give it once", what)
        found.append((key, value))
    return found


def split(text: str) -> list[str]:
    """Split settings at their commas, but for those within brackets, braces or quotes; ValueError where one stays open."""
    parts, begin, quote = list[str](), 0, ""
    opened: list[str] = []
    for at, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in CLOSING:
            opened.append(CLOSING[letter])
        elif letter in CLOSING.values():
            if not opened or opened.pop() != letter:
                raise ValueError(f"{letter!r} closes nothing: balance brackets")
        elif letter == "," and not opened:
            parts.append(text[begin:at])
            begin = at + 1
    if opened or quote:
        raise ValueError(f"{(quote or opened[-1])!r} is missing: balance brackets and quotes")
    return [part for part in (*parts, text[begin:]) if part]


def read(name: str, argument: str, readers: Mapping[str, Reader], what: str = "policy") -> dict[str, Any]:
    """Return the settings that `argument` gives, each read by the reader of its key."""
    values: dict[str, Any] = {}
    for key, text in pairs(name, argument, what):
        if key not in readers:
            near = difflib.get_close_matches(key, readers, 1)
            use = f"{f'did you mean {near[0]}=? ' if near else ''}use {', '.join(f'{k}=' for k in readers)}"
            refuse(name, argument, f"has setting {_shown(f'{key}={text}')!r}: {use}", what)
        try:
            values[key] = readers[key](text)
        except ValueError as error:
            refuse(name, argument, f"has {key}={_shown(text)}: {error}", what)
    return values


def whole(low: int, high: int = MOST) -> Reader:
    """Read a whole number from `low` to `high`."""

    def reader(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 9 and low <= int(text) <= high):
            raise ValueError(f"give a whole number from {low} to {high}")
        return int(text)

    return reader


def number(low: float, high: float) -> Reader:
    """Read a number from `low` to `high`."""

    def reader(text: str) -> float:
        value = _number(text)
        if not low <= value <= high:
            raise ValueError(f"give a number from {low:g} to {high:g}")
        return value

    return reader


def tokens_or_share(text: str) -> float:
    """Read a whole number of tokens from 1 on, or a share between 0 and 1."""
    value = _number(text)
    if not (0 < value < 1 or (text.isascii() and text.isdecimal() and 1 <= value <= MOST)):
        raise ValueError(f"give whole tokens from 1 to {MOST}, or a share between 0 and 1")
    return value


def whole_or_share(low: int, high: int = MOST) -> Reader:
    """Read a whole number from `low` to `high`, or a share: a number above 0 and below 1, which stays a float."""
    absolute, share = whole(low, high), number(0, 1)

    def reader(text: str) -> float:
        try:
            return int(absolute(text))
        except ValueError as error:
            with suppress(ValueError):
                if 0 < (value := float(share(text))) < 1:
                    return value
            raise ValueError(f"{error}, or a share above 0 and below 1") from None

    return reader


def one_of(*choices: str) -> Reader:
    """Read one of some words."""

    def reader(text: str) -> str:
        if text not in choices:
            raise ValueError(f"use {' or '.join(choices)}")
        return text

    return reader


def several(one: Reader, example: str, count: int | None = None, ascending: bool = False) -> Reader:
    """Read values separated by slashes: `count` of them, or one and more; ascending: each above the last."""

    def reader(text: str) -> tuple[Any, ...]:
        try:
            values = tuple(one(part) for part in text.split("/"))
        except ValueError as error:
            raise ValueError(f"{error}, with slashes between, such as {example}") from None
        if count is not None and len(values) != count:
            raise ValueError(f"that is {len(values)}, give {count}, such as {example}")
        if ascending and any(a >= b for a, b in pairwise(values)):
            raise ValueError(f"put them in ascending order, such as {example}")
        return values

    return reader


BUDGET = whole(0, LARGEST_BUDGET)
"""Drafts per decode step."""


def _number(text: str) -> float:
    """The number that a text is; NaN for none."""
    try:
        return float(text) if is_plain(text) else float("nan")
    except ValueError:
        return float("nan")


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
