"""Built-in systems by name: the YAML files beside this module."""

from importlib.resources import files
from typing import Any

from simulator.strict_yaml import load_mapping

BASELINE = "sync"
"""What the others are held against."""
ALL = "all"


def built_in_systems() -> list[str]:
    """Names of the built-in systems: the baseline, then the others in alphabetical order."""
    names = (entry.name.removesuffix(".yaml") for entry in files(__package__).iterdir() if entry.name.endswith(".yaml"))
    return sorted(names, key=lambda name: (name != BASELINE, name))


def built_in_system(name: str) -> dict[str, Any]:
    """The settings of a built-in system, as its file has them."""
    text = (files(__package__) / f"{name}.yaml").read_text("utf-8")
    return {"name": name, **load_mapping(text, "policy: das")}
