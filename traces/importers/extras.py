"""What a framework logs of a rollout besides what a trace has a column for: numbers are kept, the rest is named."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from traces.schema import SCHEMA


def numeric_extras(rows: Sequence[Mapping[str, Any]], known: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Columns of the other keys whose values are all numbers, truth values or missing; and the names of those left out.

    A key that is called like a column of a trace is left out: it may mean something else. One without a value is no loss.
    """
    names = [
        name for name in dict.fromkeys(key for row in rows for key in row if row[key] is not None) if name not in known
    ]
    kept = {name: [row.get(name) for row in rows] for name in names if name not in SCHEMA.names}
    extras = {name: pa.array(map(_number, values), pa.float64()) for name, values in kept.items() if _numeric(values)}
    return extras, [name for name in names if name not in extras]


def _numeric(values: Sequence[Any]) -> bool:
    return all(value is None or isinstance(value, bool | int | float) for value in values)


def _number(value: bool | float | None) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
