"""A tree of settings as text to paste: command-line overrides, YAML or TOML."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

Tree = Mapping[str, Any]

PLAIN = re.compile(r"(?!(true|false|null|nan|inf|yes|no|on|off|y|n)$)[a-z/][\w./-]*", re.IGNORECASE)
"""Strings that nobody takes for anything else without quotes."""


def nested(paths: Mapping[str, Any]) -> dict[str, Any]:
    """From values by dotted path to a tree of mappings."""
    tree: dict[str, Any] = {}
    for path, value in paths.items():
        *sections, last = path.split(".")
        at = tree
        for section in sections:
            at = at.setdefault(section, {})
        at[last] = value
    return tree


def hydra(tree: Tree) -> str:
    """A Hydra override a line; `++` adds what the framework's own file lacks."""
    return _overrides(f"++{path}={_hydra(value)}" for path, value in _leaves(tree))


def dotlist(tree: Tree) -> str:
    """An OmegaConf override a line, values as YAML."""
    return _overrides(f"{path}={value if _plain(value) else json.dumps(value)}" for path, value in _leaves(tree))


def as_yaml(tree: Tree) -> str:
    """YAML in blocks, lists within a line."""
    text: str = yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, width=1000)
    return text.rstrip()


class _Dumper(yaml.SafeDumper):
    """Lists within a line."""


_Dumper.add_representer(list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, True))


def toml(tree: Tree) -> str:
    """TOML: a table for each mapping of plain values or of what is deeper than that, which stands within a line."""
    return "\n".join(_tables(tree, ()))


def _tables(tree: Tree, path: tuple[str, ...]) -> Iterator[str]:
    inner = {key: value for key, value in tree.items() if isinstance(value, Mapping) and len(path) < 2}
    if own := {key: value for key, value in tree.items() if key not in inner}:
        yield f"[{'.'.join(path)}]"
        yield from (f"{key} = {_toml(value)}" for key, value in own.items())
    for key, value in inner.items():
        yield from _tables(value, (*path, key))


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    return json.dumps(value)


def _leaves(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _overrides(words: Iterator[str]) -> str:
    return " \\\n".join(shlex.quote(word) for word in words)


def _plain(value: Any) -> bool:
    return isinstance(value, str) and PLAIN.fullmatch(value) is not None


def _hydra(value: Any) -> str:
    """A value in Hydra's grammar, where strings of other signs than names have are quoted."""
    if isinstance(value, str) and not _plain(value):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
