"""Other people's parts: an installed entry point by its name, or `module:attr`."""

import difflib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from typing import Any

from traces.errors import InputError


def load(spec: str, group: str, what: str, built_in: Sequence[str] = ()) -> Any:
    """Return the object that `spec` names in entry point group `group`, or as module:attr; InputError where it cannot."""
    plugins = importlib.metadata.entry_points(group=group)
    if spec in plugins.names:
        return _guarded(plugins[spec].load, spec, what)
    module, colon, attribute = spec.partition(":")
    if not (colon and module and attribute and _importable(module)):
        names = [*built_in, *sorted(plugins.names)]
        near = difflib.get_close_matches(module, names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = f"{', '.join(names)}, or module:attr" if names else "module:attr"
        raise InputError(f"{what} {spec!r} is unknown: {hint}use {known} for your own")
    target = _guarded(lambda: importlib.import_module(module), spec, what)
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise InputError(f"{what} {spec!r}: {module!r} has no {attribute!r}: check the name")
        target = getattr(target, part)
    return target


def told(error: BaseException) -> str:
    """Return an error as part of one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _guarded(call: Any, spec: str, what: str) -> Any:
    try:
        return call()
    except Exception as error:
        raise InputError(f"{what} {spec!r}: importing it raised {told(error)}: mend the module") from error


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
