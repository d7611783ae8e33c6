"""Shipped profiles against what was published, and how profiles are found."""

import ast
import hashlib
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import yaml

import calibration.profiles
from simulator.cost import StepWork, list_profiles, load_profile, profiles
from tests.cost.packed import assert_packed_alike
from traces.errors import InputError

SHIPPED = Path(calibration.profiles.__file__).parent
LLAMA = "h100-llama-3.1-8b-published"
QWEN = "h100-r1-distill-qwen-7b-published"


def test_every_shipped_file_is_listed_loads_and_says_where_it_is_from():
    files = {file.stem: file for file in SHIPPED.iterdir() if file.suffix in (".yaml", ".parquet")}
    assert list_profiles() == sorted(files)
    assert {LLAMA, QWEN} <= set(list_profiles())
    for name in list_profiles():
        profile = load_profile(name)
        file = files[name]
        assert profile.name == name
        assert profile.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert "arXiv" in profile.source or "rolloutsim calibrate" in profile.source
        assert profile.uncertainty
        assert profile.valid_range
        assert_packed_alike(load_profile(file), profile)


@pytest.mark.parametrize(("kv", "tokens"), [(0, 1), (512, 1), (64 * 700, 64), (64 * 700, 64 * 5), (0, 16000)])
def test_llama_profile_is_the_published_fit(kv, tokens):
    live = min(tokens, 64)
    work = StepWork(live, tokens, kv, 0)
    profile = load_profile(LLAMA)
    parts = profile.operator_times(work)
    assert parts["verify"] == pytest.approx(3.926e-8 * kv + 2.101e-5 * tokens + 5.886e-3, rel=1e-12)
    assert parts["overhead"] == pytest.approx(1.207e-3, rel=1e-12)
    assert profile.step_time_s(work) == pytest.approx(parts["verify"] + parts["overhead"], rel=1e-12)
    # the authors' own digits, unrounded
    unrounded = 3.92645679e-08 * kv + 2.10103129e-05 * tokens + 5.88590713e-03 + 1.20683946e-03
    assert profile.step_time_s(work) == pytest.approx(unrounded, rel=2e-4)
    assert not profile.outside(work)


@pytest.mark.parametrize(
    "work",
    [StepWork.decode(65, 10), StepWork.decode(1, 1025), StepWork(64, 16385, 0, 0), StepWork.decode(64, 1024.1)],
)
def test_llama_profile_knows_its_limits(work):
    assert load_profile(LLAMA).outside(work)


def test_llama_profile_records_drafter_costs():
    costs = load_profile(LLAMA).drafter_costs
    assert costs["eagle"] == {"per_proposal_s": 2.135e-3, "per_kv_token_s": 2.378e-9, "per_pass_s": 8.41e-7}
    assert costs["ngram"] == {"verify_fraction": 0.005875}


def test_qwen_profile_against_the_digitised_figure():
    tokens = np.array([5, 100, 500, 1000, 1800, 3500])
    milliseconds = np.array([8.2, 10.9, 21.7, 35.3, 53.4, 96.5])
    profile = load_profile(QWEN)
    for batch, context in ((1, 100), (5, 9000)):
        got = 1e3 * profile.step_time_s(StepWork(batch, tokens, batch * context, tokens * context))
        np.testing.assert_allclose(got, 10.9 + 0.0239 * tokens, rtol=1e-12)  # no batch, no context term
    error = np.abs(got / milliseconds - 1)
    assert f"{100 * error.mean():.0f} % on average" in profile.uncertainty
    assert f"{100 * error.max():.0f} % at most (5 tokens" in profile.uncertainty
    assert error.argmax() == 0
    assert error[2:].max() < 0.06
    assert "no context term" in profile.uncertainty.lower()
    assert profile.relative_error == 0.12
    low = np.abs((7.8 + 0.028 * tokens) / milliseconds - 1)[:3]
    assert low.max() < 0.04
    assert profile.outside(StepWork([1, 1, 1], [1, 4000, 4001], 0, 0)).tolist() == [False, False, True]


def test_unknown_names_come_with_the_nearest_ones():
    with pytest.raises(InputError, match=f"'h100-llama-3.1-8b' is unknown: did you mean {LLAMA}"):
        load_profile("h100-llama-3.1-8b")
    with pytest.raises(InputError, match=f"{LLAMA}, {QWEN}"):
        load_profile("xyzzy")
    for missing in ("nowhere/profile.yaml", "absent.yaml", Path("absent")):
        with pytest.raises(InputError, match="no such profile file"):
            load_profile(missing)


def test_simulator_finds_profiles_without_importing_calibration():
    for file in (Path(profiles.__file__).parents[1]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(module.split(".")[0] == "calibration" for module in modules if "cli" not in file.parts), file


def ships(tmp_path, monkeypatch, package: str, *names: str) -> EntryPoint:
    """A package in tmp_path that ships copies of the Llama profile under the given names."""
    folder = tmp_path / package
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "README.md").write_text("no profile")
    document = yaml.safe_load((SHIPPED / f"{LLAMA}.yaml").read_text())
    for name in names:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document | {"name": name}))
    monkeypatch.syspath_prepend(tmp_path)
    return EntryPoint(package, package, profiles.ENTRY_POINTS)


def test_another_package_can_ship_profiles(tmp_path, monkeypatch):
    mine = ships(tmp_path, monkeypatch, "shipped_costs_one", "my-gpu")
    monkeypatch.setattr(profiles, "entry_points", lambda group: [mine] if group == profiles.ENTRY_POINTS else [])
    assert list_profiles() == ["my-gpu"]
    assert load_profile("my-gpu").name == "my-gpu"


def test_a_name_shipped_twice_or_a_broken_package_is_an_error(tmp_path, monkeypatch):
    points = [ships(tmp_path, monkeypatch, f"shipped_costs_{which}", "same") for which in ("two", "three")]
    monkeypatch.setattr(profiles, "entry_points", lambda group: points)
    with pytest.raises(InputError, match="'same' is shipped by 'shipped_costs_two' and by 'shipped_costs_three'"):
        list_profiles()
    monkeypatch.setattr(profiles, "entry_points", lambda group: [EntryPoint("gone", "no_such_package_here", group)])
    with pytest.raises(InputError, match="'no_such_package_here', which cannot be imported"):
        list_profiles()
