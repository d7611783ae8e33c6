"""Finds, reads and writes profiles: shipped ones by name, through the entry points of installed packages, others by path."""

from __future__ import annotations

import difflib
import hashlib
import json
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from simulator.cost.document import document_of, parse
from simulator.cost.model import Profile
from simulator.cost.parquet import from_parquet, to_parquet
from traces.atomic import replacing
from traces.errors import InputError
from traces.files import check_is_no_device

ENTRY_POINTS = "rolloutsim.profiles"
PARQUET = ".parquet"
SUFFIXES = (".yaml", ".yml", PARQUET)


def list_profiles() -> list[str]:
    """Names of all profiles that installed packages ship, sorted.

    A package ships profiles by naming a package of YAML or Parquet files in the entry point group `rolloutsim.profiles`.
    Raises InputError if such a package cannot be imported or two of them ship one name.
    """
    return sorted(_shipped())


def load_profile(name_or_path: str | Path) -> Profile:
    """Profile with this name, or in this YAML or Parquet file.

    Raises InputError for an unknown name (with the nearest ones), a file that cannot be read, and anything wrong in it.
    """
    text = str(name_or_path)
    shipped = {} if isinstance(name_or_path, Path) else _shipped()
    found: Traversable = shipped.get(text, Path(text))
    if text not in shipped and not _is_path(name_or_path):
        near = difflib.get_close_matches(text, shipped, n=3, cutoff=0.4) or sorted(shipped)
        raise InputError(
            f"profile {text!r} is unknown: did you mean {', '.join(near)}? Give a name from `rolloutsim profile list`, "
            "or the path of a YAML or Parquet file"
        )
    if isinstance(found, Path):
        check_is_no_device(found)
    try:
        content = found.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{found}: no such profile file: check the path, or see `rolloutsim profile list`") from None
    except IsADirectoryError:
        raise InputError(f"{found} is a directory: give the path of one profile in it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{found} cannot be read ({error}): give the path of a profile") from None
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        if found.name.endswith(PARQUET):
            return from_parquet(content, sha256)
        return parse(content.decode("utf-8"), sha256)
    except UnicodeDecodeError as error:
        raise InputError(f"{found} is not text (byte {error.start}): a profile is a YAML file in UTF-8") from None
    except InputError as error:
        raise InputError(f"{found}: {error}") from None


def check_suffix(path: Path) -> None:
    """Raise InputError unless a profile can be written under this name."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: a profile is written as {', '.join(SUFFIXES)}: give one of these suffixes")


def write_profile(profile: Profile, path: Path) -> None:
    """Write the profile so that `load_profile` reads back the same costs; the suffix says whether as YAML or Parquet.

    Raises InputError for another suffix and where the file cannot be written.
    """
    check_suffix(path)
    content = to_parquet(profile) if path.suffix == PARQUET else _yaml(profile)
    with replacing(path) as file:
        file.write(content)


def _yaml(profile: Profile) -> bytes:
    document = json.loads(json.dumps(document_of(profile)))  # plain numbers, whatever kind of float they were
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    style: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": 118}
    text: str = yaml.dump(document, Dumper=dumper, **style)
    return text.encode()


def _is_path(name_or_path: str | Path) -> bool:
    text = str(name_or_path)
    return isinstance(name_or_path, Path) or text.endswith(SUFFIXES) or "/" in text or "\\" in text


def _shipped() -> dict[str, Traversable]:
    """File of every shipped profile by name."""
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
