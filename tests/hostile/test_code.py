"""Code runs only where the user named it: a scenario or system that somebody else wrote imports nothing of its choice."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import PROFILE, Shell

MODULE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
def policy(view):
    return [0] * view.live
"""
NAMED = [
    {"policies": ["none", "strangers:policy"]},
    {"policies": ["none"], "systems": [{"name": "x", "policy": "strangers:policy"}]},
    {"policies": ["none"], "systems": [{"name": "x", "policy": "none", "loop": "strangers:policy"}]},
    {"policies": ["none"], "systems": [{"name": "x", "policy": "none", "placement": "strangers:policy"}]},
    {"policies": ["none"], "systems": [{"name": "x", "policy": "none", "transforms": ["strangers:policy"]}]},
    {"policies": ["none"], "stages": ["strangers:policy"]},
    {"policies": ["none"], "drafter": {"kind": "strangers:policy"}},
    {"policies": ["none"], "systems": ["system.yaml"]},
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "strangers.py").write_text(MODULE)
    (tmp_path / "system.yaml").write_text("policy: strangers:policy\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def scenario(folder: Path, small: Path, named: dict[str, object]) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "trace": str(small), "profile": PROFILE, "steps": [2]} | named))
    return path


@pytest.mark.parametrize("named", NAMED, ids=str)
def test_a_scenario_runs_no_code_of_its_own(
    named: dict[str, object], folder: Path, small: Path, shell: Callable[..., Shell]
) -> None:
    done = shell("run", scenario(folder, small, named))
    assert done.code == 3
    assert "is code that the file names: look at it, then allow it with --allow-code" in done.err
    assert not (folder / "ran").exists()


def test_a_system_s_file_runs_no_code_of_its_own(folder: Path, small: Path, shell: Callable[..., Shell]) -> None:
    flags = ("replay", small, "--profile", PROFILE, "--policy", "none", "--steps", "2", "--system", "system.yaml")
    assert "allow it with --allow-code" in shell(*flags).err
    assert not (folder / "ran").exists()
    assert shell(*flags, "--allow-code").code == 0
    assert (folder / "ran").exists()


def test_code_that_the_user_names_runs(folder: Path, small: Path, shell: Callable[..., Shell]) -> None:
    plain = scenario(folder, small, {"policies": ["none"]})
    assert shell("run", plain, "--set", "policies=[none, 'strangers:policy']").code == 0
    assert shell("replay", small, "--profile", PROFILE, "--policy", "strangers:policy", "--steps", "2").code == 0
    assert shell("run", scenario(folder, small, NAMED[0]), "--allow-code").code == 0
