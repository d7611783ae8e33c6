"""Single values as text or JSON, turned into what a column of the schema holds."""

import json
import math
from typing import Any

import pyarrow as pa

from traces.errors import InputError
from traces.plain import is_plain


def whole(value: Any, place: str, least: int | None = None) -> int:
    """The value as an int: 12, "12", 12.0 or "12.0"; InputError for others and below `least`, begun by `place`."""
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    elif isinstance(value, str) and is_plain(value):
        try:
            number = int(value)
        except ValueError:
            parsed = _float(value)
            number = int(parsed) if parsed is not None and parsed.is_integer() else None
    if number is None:
        raise InputError(f"{place}: {value!r:.60} is not a whole number: correct the value")
    if least is not None and number < least:
        raise InputError(f"{place}: {number} is less than {least}: correct the value or drop the row")
    return number


def real(value: Any, place: str) -> float:
    """The value as a float (NaN is one); InputError for others, begun by `place`."""
    number = _float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    if number is None:
        raise InputError(f"{place}: {value!r:.60} is not a number: correct the value")
    return number


def of_type(value: Any, kind: pa.DataType, place: str) -> Any:
    """The value as a column of type `kind` holds it; null and empty text are null, lists may be JSON text."""
    if value is None or value == "":
        return None
    if isinstance(value, float) and math.isnan(value) and not pa.types.is_floating(kind):
        return None  # how pandas writes a missing value
    if pa.types.is_integer(kind):
        return whole(value, place)
    if pa.types.is_floating(kind):
        return real(value, place)
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InputError(f"{place}: {value!r:.60} is not a JSON list: write it as [1, 2, 3]") from error
    if not isinstance(value, list):
        raise InputError(f"{place}: {value!r:.60} is not a list: write it as [1, 2, 3]")
    if pa.types.is_list(kind) and pa.types.is_integer(kind.value_type):
        return [item if type(item) is int else whole(item, place) for item in value]
    return value


def value_at(row: Any, name: str, absent: Any = None) -> Any:
    """The value of an object under a key, else the one that its dots lead to: usage.prompt_tokens, choices.0.text."""
    if isinstance(row, dict) and name in row:
        return row[name]
    for part in name.split("."):
        if isinstance(row, dict) and part in row:
            row = row[part]
        elif isinstance(row, list) and part.isdecimal() and int(part) < len(row):
            row = row[int(part)]
        else:
            return absent
    return row


def _float(text: str | float) -> float | None:
    if isinstance(text, str) and not is_plain(text):
        return None
    try:
        return float(text)
    except (ValueError, OverflowError):
        return None
