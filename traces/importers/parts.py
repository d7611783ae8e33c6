"""Parts of a JSON object by a path of dots, held to be what they should be."""

from typing import Any

from traces.errors import InputError
from traces.importers.values import value_at


def object_at(row: Any, path: str, place: str) -> dict[str, Any]:
    """The object there, an empty one where there is none; InputError for anything else."""
    value = value_at(row, path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{place}, {path}: {value!r:.60} is not an object: export it again")
    return value


def objects_at(row: Any, path: str, place: str) -> list[dict[str, Any]]:
    """The objects in the list there, an empty one where there is none; InputError for anything else."""
    value = value_at(row, path)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise InputError(f"{place}, {path}: {value!r:.60} is not a list of objects: export it again")
    return value


def ids_at(row: Any, path: str, place: str) -> list[int] | None:
    """The token ids there, None where there are none; InputError for anything else."""
    value = value_at(row, path)
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(one) is int for one in value):
        raise InputError(f"{place}, {path}: {value!r:.60} is not a list of token ids: export it again")
    return value


def text_at(row: Any, path: str, place: str) -> str | None:
    """The text there, None where there is none; InputError for anything else."""
    value = value_at(row, path)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{place}, {path}: {value!r:.60} is not text: export it again")
    return value
