"""The wheel has all that the packages read, asks for what pyproject.toml says, and works where there is no repository.

`python -m tests.wheels` installs it with all that it asks for.
"""

import hashlib
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT
from tests.wheels.environments import project, told

PACKAGES = ("simulator", "traces", "calibration")
DEMO = ROOT / "traces" / "data" / "demo.parquet"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is made of what the sdist holds."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: make setup")
    folder = tmp_path_factory.mktemp("dist")
    told(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder, cwd=ROOT)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    unpacked = next(path for path in folder.iterdir() if path.is_dir())
    told(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=unpacked)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed in, without what it asks for."""
    folder = tmp_path_factory.mktemp("site")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile")
    told(*pip, "--target", folder, wheel)
    return folder


def sources() -> Iterator[str]:
    """Every file of the packages, but byte code."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield str(path.relative_to(ROOT))


def test_the_wheel_has_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted(sources())
    assert {"traces/data/countdown.parquet", "simulator/systems/das.yaml", "traces/py.typed"} <= {*names}


def test_the_sdist_has_what_its_makefile_names(built: Path) -> None:
    unpacked = next(path for path in built.iterdir() if path.is_dir())
    makefile = (unpacked / "Makefile").read_text("utf-8")
    named = {*re.findall(r"\b[\w.-]+\.(?:txt|toml)\b|\btraces/data/\w+\.parquet", makefile)}
    assert len(named) >= 4
    assert not [name for name in named if not (unpacked / name).exists()]
    assert (unpacked / "tests" / "conftest.py").exists()


def test_the_wheel_asks_for_what_pyproject_says(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    metadata = message_from_bytes(archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))))
    asked = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    plain = {text(one) for one in asked if one.marker is None or "extra" not in str(one.marker)}
    assert plain == {text(Requirement(one)) for one in project()["dependencies"]}
    assert {*metadata.get_all("Provides-Extra", [])} == {*project()["optional-dependencies"]}
    assert metadata["Requires-Python"] == project()["requires-python"]


def text(requirement: Requirement) -> str:
    return f"{requirement.name.lower()}{requirement.specifier}"


def test_every_floor_allows_what_is_tested_here() -> None:
    """constraints.txt pins a version of all that is asked for, none below its floor; nothing has a ceiling."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = dict(line.lower().split("==") for line in lines)
    for one in map(Requirement, project()["dependencies"]):
        assert [specifier.operator for specifier in one.specifier] == [">="], one
        assert pinned[one.name.lower()] in one.specifier, one


def test_every_entry_point_loads_from_the_installed_wheel(site: Path, tmp_path: Path) -> None:
    code = (
        "import json, sys; from importlib.metadata import distribution\n"
        "points = distribution('rolloutsim').entry_points\n"
        "points = [one for one in points if one.group.startswith('rolloutsim') and one.load()]\n"
        "print(json.dumps({f'{one.group}:{one.name}': sys.modules[one.module].__file__ for one in points}))"
    )
    loaded = json.loads(told(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(site)))
    tables = project()["entry-points"]
    assert {*loaded} == {f"{group}:{name}" for group, names in tables.items() for name in names}
    assert all(Path(file).is_relative_to(site) for file in loaded.values()), loaded


def test_the_installed_command_runs_without_the_repository(site: Path, tmp_path: Path) -> None:
    command, found = site / "bin" / "rolloutsim", {"cwd": tmp_path, "PYTHONPATH": str(site)}
    described = json.loads(told(command, "trace", "describe", "demo", "--json", **found))
    assert described["sha256"] == hashlib.sha256(DEMO.read_bytes()).hexdigest()
    flags = ("--policy", "none", "--policy", "fixed:2", "--steps", "1", "--json", "--html", "page.html")
    here = json.loads(told(command, "replay", "demo", "--profile", "h100-llama-3.1-8b-published", *flags, **found))
    assert [run["makespan_s"] > 0 for run in here["runs"]] == [True, True]
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert len(told(command, "systems", **found).splitlines()) > len([*(ROOT / "simulator" / "systems").glob("*.yaml")])
