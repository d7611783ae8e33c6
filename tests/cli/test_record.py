"""`calibrate record` says in one line what keeps it from running."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Shell


def test_without_torch_it_says_what_to_install(
    shell: Callable[..., Shell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = shell("calibrate", "record", "--out", tmp_path / "run.parquet")
    assert found.code == 3
    assert found.err.count("\n") == 1
    assert "pip install 'rolloutsim[calibration]'" in found.err


def test_without_a_gpu_cuda_is_refused(
    shell: Callable[..., Shell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = shell("calibrate", "record", "--out", tmp_path / "run.parquet", "--device", "cuda")
    assert (found.code, list(tmp_path.iterdir())) == (3, [])
    assert "--device cpu" in found.err


def test_settings_that_cannot_learn_are_refused(shell: Callable[..., Shell], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    found = shell("calibrate", "record", "--out", tmp_path / "run.parquet", "--samples", 1)
    assert (found.code, list(tmp_path.iterdir())) == (3, [])
    assert "--samples at least 2" in found.err
