"""Fixtures that every test folder shares."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_configure() -> None:
    """Drop compiled kernels older than any source: numba's cache does not notice a change in another module."""
    newest = max(path.stat().st_mtime for path in (ROOT / "simulator").rglob("*.py"))
    for compiled in (ROOT / "simulator").rglob("*.nb[ic]"):
        if compiled.stat().st_mtime < newest:
            compiled.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of third-party rollouts, profiles and engine runs; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("ROLLOUTSIM_DATA", ROOT.parent / "shared")).resolve()
    if not (folder / "rollouts").is_dir():
        pytest.skip(f"third-party data not found in {folder}: set ROLLOUTSIM_DATA")
    return folder
