"""Other people's parts: an installed entry point by its name, or `module:attr`."""

import difflib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from traces.errors import InputError

_named: ContextVar[Sequence[str] | None] = ContextVar("named", default=None)
"""What code may be imported as module:attr: that which one of these texts names, or, where it is None, any."""


@contextmanager
def only_named_in(texts: Sequence[str]) -> Iterator[None]:
    """Import no module:attr meanwhile but what these texts name: files that others wrote run no code of their choice."""
    before = _named.set(texts)
    try:
        yield
    finally:
        _named.reset(before)


def check_named(spec: str, what: str) -> None:
    """Refuse module:attr where a file names code that its user does not; InputError."""
    named = _named.get()
    whole = rf"(?<![\w.:]){re.escape(spec)}(?![\w.:])"
    if ":" in spec and named is not None and not any(re.search(whole, text) for text in named):
        raise InputError(f"{what} {spec!r} is code that the file names: look at it, then allow it with --allow-code")


def load(spec: str, group: str, what: str, built_in: Sequence[str] = ()) -> Any:
    """Return the object that `spec` names in entry point group `group`, or as module:attr; InputError where it cannot."""
    plugins, importing = importlib.metadata.entry_points(group=group), f"{what} {spec!r}: importing it"
    if spec in plugins.names:
        with calling(importing, "mend the module"):
            return plugins[spec].load()
    module, colon, attribute = spec.partition(":")
    check_named(spec, what)
    if colon:
        _look_here()
    if not (colon and module and attribute and _importable(module, spec, what)):
        names = [*built_in, *sorted(plugins.names)]
        near = difflib.get_close_matches(module, names, 1)
        hint = f"did you mean {near[0] + colon + attribute!r}? " if near else ""
        known = f"{', '.join(names)}, or module:attr" if names else "module:attr"
        raise InputError(f"{what} {spec!r} is unknown: {hint}use {known} for your own")
    with calling(importing, "mend the module"):
        target = importlib.import_module(module)
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise InputError(f"{what} {spec!r}: {module!r} has no {attribute!r}: check the name")
        target = getattr(target, part)
    return target


def told(error: BaseException) -> str:
    """Return an error as part of one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@contextmanager
def calling(what: str, fix: str) -> Iterator[None]:
    """Run other people's code: whatever it raises, `sys.exit` included, is an InputError that says what raised it."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{what} raised {told(error)}: {fix}") from error


def _look_here() -> None:
    """Look for modules in the current folder, too, behind all others: once code is named, as libraries try to import much."""
    with suppress(OSError):  # of a folder that is gone
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)


def _importable(module: str, spec: str, what: str) -> bool:
    """Whether there is such a module; its package is imported to find out."""
    with calling(f"{what} {spec!r}: importing it", "mend the module"):
        try:
            return importlib.util.find_spec(module) is not None
        except (ImportError, ValueError):
            return False
