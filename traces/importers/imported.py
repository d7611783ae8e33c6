"""What an importer hands over: rows as found, where each was found, and what it assumed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from traces.errors import InputError
from traces.schema import SCHEMA


@dataclass(frozen=True)
class Imported:
    """Rows not yet cast or validated; `places` names where each was found ("line 7"), for errors.

    `notes` go into the provenance; `assumed` is its sentences about what the file did not say.
    """

    table: pa.Table
    places: Sequence[str]
    assumed: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


def arrow_table(
    columns: Mapping[str, Sequence[Any]],
    places: Sequence[str],
    source: str,
    extras: Mapping[str, Any] | None = None,
) -> pa.Table:
    """The columns in their schema types, and others as they are; InputError names the place of a value that does not fit."""
    known = {name: _array(name, values, places, source) for name, values in columns.items()}
    return pa.table(known | dict(extras or {}))


def _array(name: str, values: Sequence[Any], places: Sequence[str], source: str) -> Any:
    kind = SCHEMA.field(name).type
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        for place, value in zip(places, values, strict=True):
            try:
                pa.array([value], kind)
            except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
                shown = repr(value)[:60]
                raise InputError(
                    f"{source}: {place}, column '{name}': {shown} is not {kind}: correct the value"
                ) from error
        raise
