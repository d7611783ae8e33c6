"""Environments of their own for the built wheel: filled from the package index, used in a folder without the repository."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

OLDEST, NEWEST = "lowest-direct", "highest"
DEMO = (
    "replay", "countdown", "--profile", "h100-llama-3.1-8b-published", "--drafter", "suffix", "--policy", "none",
    "--policy", "fixed:4", "--policy", "unlimited", "--policy", "das", "--steps", "20", "--max-num-seqs", "64", "--json",
)  # fmt: skip
COMMAND = "from simulator.cli import command; command()"


@dataclass(frozen=True)
class Tools:
    """A folder to work in, and the programs in it that make environments."""

    folder: Path

    @property
    def uv(self) -> Path:
        """Resolves to the lowest versions as well as to the highest, which pip cannot."""
        return self.folder / "tools" / "bin" / "uv"

    def install(self) -> None:
        """Fetch them."""
        told(sys.executable, "-m", "venv", self.folder / "tools")
        told(self.folder / "tools" / "bin" / "python", "-m", "pip", "install", "--quiet", "--upgrade", "pip", "uv")

    def build(self) -> Path:
        """The wheel that comes of the sdist of the repository."""
        told(self.uv, "build", "--quiet", "--out-dir", self.folder / "dist", ROOT)
        return next((self.folder / "dist").glob("*.whl"))

    def environment(self, python: Path, versions: str, wheel: Path) -> Path:
        """The interpreter of a new environment that holds the wheel and what it asks for, in the lowest or highest versions."""
        folder = self.folder / f"{minor(python)}-{versions}"
        named = self.folder / "asked.txt"
        named.write_text("\n".join(project()["dependencies"]))  # only of what is asked for by name uv takes the lowest
        told(self.uv, "venv", "--quiet", "--python", python, folder)
        made = folder / "bin" / "python"
        told(self.uv, "pip", "install", "--quiet", "--python", made, "--resolution", versions, "--only-binary", ":all:",
             "--requirement", named, wheel)  # fmt: skip
        return made

    def checked(self, python: Path) -> str:
        """What pip finds wrong with an environment; empty where that is nothing."""
        try:
            told(self.folder / "tools" / "bin" / "pip", "--python", python, "check")
        except RuntimeError as error:
            return str(error)
        return ""

    def resolved(self, beside: str, wheel: Path) -> dict[str, str]:
        """Versions that the wheel gets beside another package, from what packages say of themselves; nothing is installed."""
        asked = self.folder / "beside.txt"
        asked.write_text(f"{beside}\nrolloutsim @ {wheel.as_uri()}\n")
        lines = told(self.uv, "pip", "compile", "--quiet", "--no-annotate", "--no-header", "--python-version", "3.12",
                     "--python-platform", "x86_64-manylinux_2_39", asked)  # fmt: skip
        return dict(line.split("==", 1) for line in lines.split() if "==" in line)


def told(*command: object, cwd: Path | None = None, **variables: str) -> str:
    """What a command prints; RuntimeError with the end of what it says where it fails. No repository is on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}: {' '.join((done.stderr or done.stdout).split())[-600:]}")
    return done.stdout


def pythons() -> Iterator[Path]:
    """Interpreters of the versions that are supported, where they are on the PATH or pyenv's."""
    for number in (11, 12, 13, 14):
        installed = sorted(Path.home().glob(f".pyenv/versions/3.{number}.*/bin/python"))
        found = shutil.which(f"python3.{number}")
        if installed or found:
            yield installed[-1] if installed else Path(str(found))


def minor(python: Path) -> str:
    """3.12 of an interpreter."""
    return told(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()


def project() -> dict[str, Any]:
    """What pyproject.toml says of the project."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def versions_in(python: Path) -> dict[str, str]:
    """What is installed beside an interpreter, by name."""
    code = "import importlib.metadata as m, json; print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
    found: dict[str, str] = json.loads(told(python, "-c", code))
    return found


def runs(*command: object, cwd: Path, **variables: str) -> list[dict[str, Any]]:
    """The rows of the demo, without the seconds that computing them took."""
    rows: list[dict[str, Any]] = json.loads(told(*command, *DEMO, cwd=cwd, **variables))["runs"]
    return [{name: value for name, value in row.items() if name != "wall_s"} for row in rows]


def apart(one: Any, other: Any) -> float:
    """The largest relative difference of the numbers of two documents; infinite where anything else differs."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((apart(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(apart, one, other), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) / max(abs(one), abs(other)) if one != other else 0.0
    return 0.0 if one == other else float("inf")
