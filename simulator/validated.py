"""Settings that cannot be invalid: frozen models whose first fault is one line, wherever it is."""

import difflib
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from simulator.limits import Range, Whole
from traces.errors import InputError


class SettingError(InputError):
    """What is wrong with a setting: the keys that lead to it, and the rest of the line."""

    def __init__(self, path: tuple[str, ...], rest: str) -> None:
        self.path, self.rest = path, rest
        super().__init__(".".join(path) + rest)


class Validated(BaseModel):
    """A frozen model; making one raises InputError, one line that names key, value and fix, and so does changing a copy.

    A rule that concerns several keys raises ValueError in a model validator; its message begins with one of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    if not TYPE_CHECKING:  # pydantic's plug-in writes a better signature

        def __init__(self, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise _fault(error, type(self), fields) from None

    def model_copy(self, *, update: Any = None, deep: bool = False) -> Self:
        """Return a copy with other values, validated."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**(given | dict(update or {})))


def within(limits: Range | Whole) -> Any:
    """A field's range."""
    return Field(ge=limits.least, le=limits.most)


def made(kind: type[Any], document: Any) -> Any:
    """Return the model that plain data describes; InputError where it does not."""
    if not isinstance(document, dict):
        raise InputError(f"holds a {type(document).__name__}, not a mapping of settings")
    if strange := [key for key in document if not isinstance(key, str)]:
        raise InputError(f"{strange[0]!r:.60}: unknown key: {_known(kind)}")
    return kind(**document)


def _fault(error: ValidationError, kind: type[BaseModel], given: Any) -> SettingError:
    """The first of a model's faults."""
    faults = error.errors()
    paths = [_keys(one["loc"], given, one["type"] == "missing") for one in faults]
    fault, path, others = faults[0], paths[0], len(set(paths)) - 1
    more = f" (and {others} more fault{'s' if others > 1 else ''})" if others else ""
    if fault["type"] == "value_error":
        cause = fault["ctx"]["error"]
        if isinstance(cause, SettingError):
            return SettingError(path + cause.path, f"{_joint(path, cause)}{cause.rest}{more}")
        return SettingError(path, f"{': ' if path else ''}{cause}{more}")
    if fault["type"] == "union_tag_invalid":
        return SettingError(path, f".kind = {fault['ctx']['tag']!r}: use {fault['ctx']['expected_tags']}")
    if fault["type"] == "extra_forbidden":
        return SettingError(path, f": unknown key: {_known(kind, path[-1])}{more}")
    if fault["type"] == "missing":
        return SettingError(path, f": missing: give it{more}")
    reason = fault["msg"][:1].lower() + fault["msg"][1:]
    return SettingError(path, f" = {_shown(fault['input'])}: {reason}{more}")


def _keys(parts: tuple[str | int, ...], given: Any, missing: bool) -> tuple[str, ...]:
    """The keys among the parts of a fault's place, which names alternatives, too; the last one may be a key that is missing."""
    path = []
    for part in parts:
        if (isinstance(given, dict) and part in given) or (isinstance(given, list) and isinstance(part, int)):
            path.append(str(part))
            given = given[part]  # type: ignore[index]
    return (*path, str(parts[-1])) if missing else tuple(path)


def _joint(path: tuple[str, ...], cause: SettingError) -> str:
    """What stands between the path of an inner model and its rule: a rule without a path begins with a key."""
    return "" if cause.path or not path else "."


def _known(kind: type[BaseModel], key: str = "") -> str:
    names = list(kind.model_fields)
    near = difflib.get_close_matches(key, names, 1, cutoff=0.5)
    return f"did you mean {near[0]!r}" if near else f"use {', '.join(names)}"


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
