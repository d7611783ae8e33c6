"""Columns that a trace has for all rows or for none, where a dump has them for some."""

from typing import Any


def drop_partial(columns: dict[str, list[Any]], *names: str) -> tuple[str, ...]:
    """Take the columns that are not whole out of `columns`; what is lost so, in sentences."""
    lost = []
    for name in names:
        missing = sum(value is None for value in columns[name])
        if not missing:
            continue
        if missing < len(columns[name]):
            lost.append(f"{name} is left out, which some rows are without")
        del columns[name]
    return tuple(lost)
