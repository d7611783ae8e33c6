"""JSON of logs: whole files, and single numbers, each refused with its place."""

import json
import math
from pathlib import Path
from typing import Any

from traces.errors import InputError
from traces.importers.values import real, whole
from traces.io import read_bytes

MOST_TOKENS = 2**31 - 1
"""Largest count, as in a trace."""
MOST = 1e15
"""Numbers in a log are smaller: seconds since 1970, bytes, and tokens per second are."""


def json_object(path: Path) -> dict[str, Any]:
    """The one JSON object that a file holds."""
    try:
        document = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error}): correct the file") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: holds a {type(document).__name__}, not a JSON object: it starts with {{")
    return document


def finite(value: Any, place: str, least: float = -math.inf) -> float:
    """The value as a finite number of at least `least`; InputError, begun by `place`, for anything else."""
    if isinstance(value, bool) or not abs(number := real(value, place)) <= MOST:
        raise InputError(f"{place}: {value!r:.60} is no number that a log can hold: correct the value")
    if number < least:
        raise InputError(f"{place}: {number:g} is less than {least:g}: correct the value, or leave the request out")
    return number


def count(value: Any, place: str, least: int) -> int:
    """The value as a whole number of at least `least` that fits 32 bits; InputError, begun by `place`, for anything else."""
    number = whole(value, place, least)
    if number > MOST_TOKENS:
        raise InputError(
            f"{place}: {value!r:.20} is more than {MOST_TOKENS}: correct the value, or leave the request out"
        )
    return number


def text(value: Any) -> str | None:
    """The value as text that can be written anywhere, None for null."""
    return None if value is None else str(value).encode("utf-8", "replace").decode("utf-8")
