"""YAML that people write by hand: one mapping, no key twice, every fault an InputError with its line.

Numbers are those of YAML 1.2: to the parser's YAML 1.1 `1:30` were 90, `010` 8, `1_0` 10 and `1e3` a word.
"""

import re
from typing import Any

import yaml

from traces.errors import InputError

DEEPEST = 16
"""Nesting that no document here reaches; libyaml would overflow the stack far beyond it."""
LARGEST = 1_000_000
"""Values that aliases (`*name`) may make of a document: they are written once and stand for many."""
INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc]
    """Safe YAML that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Mapping of distinct keys."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise InputError(f"line {key.start_mark.line + 1}: key {key.value!r} is given twice: remove one")
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (INT, FLOAT)]
    for first, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(INT, re.compile(r"[-+]?(0|[1-9][0-9]*)\Z"), [*"-+0123456789"])
_Loader.add_implicit_resolver(
    FLOAT,
    re.compile(
        r"([-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
    ),
    [*"-+.0123456789"],
)


def load_mapping(text: str, starts_with: str) -> dict[Any, Any]:
    """Return the mapping that `text` holds; `starts_with` tells the user how such a document begins.

    Raises InputError naming line and fix; the caller adds the file.
    """
    document = load_value(text)
    if document is None:
        raise InputError(f"the file is empty: it starts with {starts_with!r}")
    if not isinstance(document, dict):
        raise InputError(f"holds a {type(document).__name__}, not a mapping: it starts with {starts_with!r}")
    return document


def load_value(text: str) -> Any:
    """Return the one value, of whatever type, that `text` holds."""
    try:
        _check_size(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise InputError(f"{line}not YAML ({error.problem}): correct the syntax") from None
    except InputError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:80]
        raise InputError(f"not YAML that can be read ({type(error).__name__}: {reason}): correct the file") from None


def _check_size(text: str) -> None:
    """Refuse what is nested too deep or, with every alias written out, too large."""
    sizes: dict[str, int] = {}
    inside: list[tuple[str | None, int]] = []  # collections that are open: their anchor, values before them
    values = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = inside.pop()
            if anchor:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.NodeEvent):
            alias = isinstance(event, yaml.AliasEvent)
            values += sizes.get(event.anchor or "", 1) if alias else 1
            if isinstance(event, yaml.CollectionStartEvent):
                inside.append((event.anchor, values - 1))
        if len(inside) > DEEPEST:
            raise InputError(f"not YAML that can be read (nested deeper than {DEEPEST}): correct the file")
        if sizes and values > LARGEST:
            line = "" if event.start_mark is None else f"line {event.start_mark.line + 1}: "
            raise InputError(f"{line}aliases make more than {LARGEST:,} values of it: write out what is meant")
