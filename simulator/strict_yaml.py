"""YAML that people write by hand: one mapping, no key twice, every fault an InputError with its line."""

from typing import Any

import yaml

from traces.errors import InputError

DEEPEST = 16
"""Nesting that no document here reaches; libyaml would overflow the stack far beyond it."""

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
        _check_depth(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise InputError(f"{line}not YAML ({error.problem}): correct the syntax") from None
    except InputError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:80]
        raise InputError(f"not YAML that can be read ({type(error).__name__}: {reason}): correct the file") from None


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise InputError(f"not YAML that can be read (nested deeper than {DEEPEST}): correct the file")
