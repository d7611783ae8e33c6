"""Code runs only where the user named it: a scenario or system that somebody else wrote imports nothing of its choice."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator import compiled
from simulator.budgets.resolve import BUILT_IN as POLICIES
from simulator.scenario import Scenario
from simulator.scheduling.resolve import BUILT_IN as PLACEMENTS
from simulator.training.resolve import LOOPS, STAGES
from simulator.transforms.resolve import TRANSFORMS
from tests.cli.conftest import PROFILE, Shell
from tests.conftest import ROOT
from tests.hostile.cases import run

MODULE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
def policy(view):
    return [0] * view.live
"""
CODE = "strangers:policy"
PARTS = {"policy": POLICIES, "loop": LOOPS, "placement": PLACEMENTS, "stages": STAGES, "transforms": TRANSFORMS}
CODE_KEYS = ("policy", "placement", "loop", "target")
CODE_LISTS = ("policies", "stages", "transforms")
KIND = "kind="
SCHEMA = Scenario.model_json_schema()
Place = tuple[str | int, ...]


def texts(schema: dict[str, Any], whole: dict[str, Any], place: Place = ()) -> Iterator[tuple[Place, str | None]]:
    """Every place of a scenario where its schema lets a text stand, and the one text that has to stand there, if it is one."""
    schema = whole["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    for other in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from texts(other, whole, (*place, *((KIND + kind,) if (kind := kind_of(other, whole)) else ())))
    for name, inner in schema.get("properties", {}).items():
        yield from texts(inner, whole, (*place, name))
    if "items" in schema:
        yield from texts(schema["items"], whole, (*place, 0))
    if isinstance(schema.get("additionalProperties"), dict) or schema.get("additionalProperties") is True:
        yield (*place, "any"), None
    if schema.get("type") == "string":
        yield place, schema.get("const")


def kind_of(schema: dict[str, Any], whole: dict[str, Any]) -> str | None:
    """The kind that a drafter's settings are of."""
    found = whole["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    kind: str | None = found.get("properties", {}).get("kind", {}).get("const")
    return kind


def naming(place: Place, text: str) -> dict[str, Any]:
    """A scenario of a stranger's with `text` at a place."""
    document: Any = text
    for key in reversed(place):
        if isinstance(key, int):
            document = [document]
        elif key.startswith(KIND):
            document = {"kind": key.removeprefix(KIND), **document}
        else:
            document = {key: document}
    for one in document.get("systems", ()):
        one.setdefault("name", "x")
    return {"policies": ["none"], **document}


PLACES = sorted({place for place, only in texts(SCHEMA, SCHEMA) if only is None}, key=str)


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


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_scenario_runs_no_code_wherever_it_names_it(
    place: Place, folder: Path, small: Path, shell: Callable[..., Shell]
) -> None:
    """Code is refused, or taken for something else, in every place of the schema where a text may stand."""
    done = shell("run", scenario(folder, small, naming(place, CODE)), "--json")
    assert not (folder / "ran").exists()
    assert done.code in (0, 2, 3)
    if place[-1] in CODE_KEYS or place[-2:] in ((key, 0) for key in CODE_LISTS):
        assert "is code that the file names: look at it, then allow it with --allow-code" in done.err


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_scenario_reads_no_device_wherever_it_names_it(place: Place, folder: Path, small: Path) -> None:
    """What gives bytes without end has an end here, and so has what gives none."""
    os.mkfifo(folder / "pipe.yaml")
    for device in ("/dev/zero", "pipe.yaml", "reward:file=/dev/zero"):
        done = run(("run", str(scenario(folder, small, naming(place, device))), "--json"), folder)
        assert done.code in (0, 2, 3), (device, done)


@pytest.mark.parametrize(
    "named", [{"policies": [CODE]}, {"drafter": {"kind": CODE}}, {"systems": ["system.yaml"]}], ids=str
)
def test_a_sweep_runs_no_code_of_its_scenario(
    named: dict[str, Any], folder: Path, small: Path, shell: Callable[..., Shell]
) -> None:
    done = shell("sweep", scenario(folder, small, {"policies": ["none"], **named}), "seed=0,1", "--out", folder / "out")
    assert done.code == 3
    assert "is code that the file names" in done.err
    assert not (folder / "ran").exists()


def test_the_schema_s_places_are_found() -> None:
    names = {".".join(map(str, place)) for place in PLACES}
    assert {"policies.0", "systems.0.policy", "systems.0.loop", "systems.0.transforms.0", "systems.0.engine.any", "stages.0",
            "drafter.kind=custom.target", "systems.0.drafter.kind=custom.target", "engine.dispatch"} <= names  # fmt: skip
    assert len(names) > 100


@pytest.mark.parametrize("part", PARTS)
def test_a_part_s_settings_run_no_code(part: str, folder: Path, small: Path, shell: Callable[..., Shell]) -> None:
    """`NAME:key=strangers:policy`, for every built-in NAME and every key that it says it has when it is given another."""

    def tried(value: str) -> str:
        system = {"name": "x", "policy": "none", part: [value] if part in CODE_LISTS else value}
        done = shell("run", scenario(folder, small, {"systems": [system]}), "--json")
        assert done.code in (0, 2, 3), (value, done)
        assert not (folder / "ran").exists(), value
        return done.err

    for name in PARTS[part]:
        keys = re.findall(r"\b(\w+)=(?=[,\s]|$)", tried(f"{name}:no_such_key=1"))
        for key in keys:
            tried(f"{name}:{key}={CODE}")
        tried(f"{name}:{CODE}")


def test_the_override_has_to_name_all_of_it(folder: Path, small: Path, shell: Callable[..., Shell]) -> None:
    """A user's mine:strangers:policyholder is no leave for a file's strangers:policy."""
    file = scenario(folder, small, {"policies": [CODE]})
    done = shell("run", file, "--set", "compare.baseline=strangers:policyholder")
    assert "is code that the file names" in done.err
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("arguments", [
    ("trace", "describe", "trace.parquet"), ("trace", "import", "log.jsonl", "--format", "jsonl", "--out", "made.parquet"),
    ("replay", "trace.parquet", "--profile", PROFILE, "--policy", "none", "--steps", "2", "--out", "out", "--html", "p.html"),
])  # fmt: skip
def test_nothing_of_the_current_folder_is_imported(arguments: tuple[str, ...], folder: Path, small: Path) -> None:
    """Libraries try to import what is not installed."""
    (folder / "trace.parquet").write_bytes(small.read_bytes())
    (folder / "log.jsonl").write_text(
        '{"step": 0, "prompt_id": "a", "sample": 0, "prompt_tokens": 5, "output_tokens": 7}\n'
    )
    for name in (
        "bottleneck",
        "numexpr",
        "pytz",
        "colorama",
        "coverage",
        "cloudpickle",
        "cython",
        "org",
        "pickle",
        "json",
        "numba",
    ):
        (folder / f"{name}.py").write_text(MODULE)
    command = (
        "import sys; sys.path.remove(''); from simulator.cli import command; command()"  # as the installed one begins
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (folder / "ran").exists()


def test_what_compiles_imports_nothing_of_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is given code in place of a file looks for modules in the current folder before all others."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(folder))])
    for name in ("pickle", "importlib", "json", "numba"):
        (folder / f"{name}.py").write_text(MODULE)
    with compiled._helper("json", "dumps", None) as process:
        process.wait()
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
    assert shell("run", scenario(folder, small, {"policies": ["none", CODE]}), "--allow-code").code == 0
