"""Finds and reads profiles: shipped ones by name, through the entry points of installed packages, others by path."""

from __future__ import annotations

import difflib
import hashlib
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from simulator.cost.document import parse
from simulator.cost.model import Profile
from traces.errors import InputError

ENTRY_POINTS = "rolloutsim.profiles"
SUFFIXES = (".yaml", ".yml")


def list_profiles() -> list[str]:
    """Names of all profiles that installed packages ship, sorted.

    A package ships profiles by naming a package of YAML files in the entry point group `rolloutsim.profiles`.
    Raises InputError if such a package cannot be imported or two of them ship one name.
    """
    return sorted(_shipped())


def load_profile(name_or_path: str | Path) -> Profile:
    """Profile with this name, or in this YAML file.

    Raises InputError for an unknown name (with the nearest ones), a file that cannot be read, and anything wrong in it.
    """
    text = str(name_or_path)
    shipped = {} if isinstance(name_or_path, Path) else _shipped()
    found: Traversable = shipped.get(text, Path(text))
    if text not in shipped and not _is_path(name_or_path):
        near = difflib.get_close_matches(text, shipped, n=3, cutoff=0.4) or sorted(shipped)
        raise InputError(
            f"profile {text!r} is unknown: did you mean {', '.join(near)}? Give a name from `rolloutsim profile list`, "
            "or the path of a YAML file"
        )
    try:
        content = found.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{found}: no such profile file: check the path, or see `rolloutsim profile list`") from None
    except IsADirectoryError:
        raise InputError(f"{found} is a directory: give the path of one YAML file in it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{found} cannot be read ({error}): give the path of a YAML file") from None
    try:
        return parse(content.decode("utf-8"), hashlib.sha256(content).hexdigest())
    except UnicodeDecodeError as error:
        raise InputError(f"{found} is not text (byte {error.start}): a profile is a YAML file in UTF-8") from None
    except InputError as error:
        raise InputError(f"{found}: {error}") from None


def _is_path(name_or_path: str | Path) -> bool:
    text = str(name_or_path)
    return isinstance(name_or_path, Path) or text.endswith(SUFFIXES) or "/" in text or "\\" in text


def _shipped() -> dict[str, Traversable]:
    """YAML file of every shipped profile by name."""
    shipped: dict[str, Traversable] = {}
    owners: dict[str, str] = {}
    for point in entry_points(group=ENTRY_POINTS):
        try:
            folder = files(point.module)
        except ImportError as error:
            raise InputError(
                f"entry point {point.name!r} of {ENTRY_POINTS} names {point.module!r}, which cannot be imported "
                f"({error}): repair or uninstall the package that declares it"
            ) from None
        for file in folder.iterdir():
            if file.name.endswith(SUFFIXES):
                name = file.name.rsplit(".", 1)[0]
                if owners.setdefault(name, point.module) != point.module:
                    raise InputError(
                        f"profile {name!r} is shipped by {owners[name]!r} and by {point.module!r}: uninstall one"
                    )
                shipped[name] = file
    return shipped
