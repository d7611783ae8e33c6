"""Fixtures that every test folder shares."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

if not Path("/dev/nvidiactl").exists():  # before anything imports triton, as some modules of torch do
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of third-party rollouts, profiles and engine runs; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("ROLLOUTSIM_DATA", ROOT.parent / "shared")).resolve()
    if not (folder / "rollouts").is_dir():
        pytest.skip(f"third-party data not found in {folder}: set ROLLOUTSIM_DATA")
    return folder
