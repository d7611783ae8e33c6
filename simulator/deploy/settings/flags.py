"""Arguments by their Python names as flags of a command: what an engine's own parser reads back."""

import json
from collections.abc import Mapping
from typing import Any


def flags_of(config: Mapping[str, Any], prefix: str = "--") -> list[str]:
    """Return the words: `--a-name value`, `--name` or `--no-name` of what is true or false, mappings and lists as JSON."""
    words: list[str] = []
    for name, value in config.items():
        flag = f"{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(f"{prefix}{flag}" if value else f"{prefix}no-{flag}")
        else:
            words += [f"{prefix}{flag}", json.dumps(value) if isinstance(value, dict | list) else str(value)]
    return words
