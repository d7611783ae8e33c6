"""The attention kernels compile for the GPUs they are for, and into what their speed rests on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="attention needs torch")
pytest.importorskip("triton", reason="the kernels need triton")

from calibration.model.flash import Settings

ROOT = Path(__file__).parents[3]
SHARED_BYTES = 228 * 1024
"""Shared memory of a Hopper multiprocessor; a program takes 1 KiB beyond its own."""


def test_hopper_kernels_fit_and_read_sixteen_bytes_at_a_time(tmp_path: Path) -> None:
    surroundings = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    surroundings |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tests.calibration.model.compile_flash"]
    done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    attend, merge = (json.loads(line) for line in done.stdout.splitlines())
    assert (attend["kernel"], merge["kernel"]) == ("attend", "merge")
    assert Settings().programs_per_processor * (attend["shared_bytes"] + 1024) <= SHARED_BYTES
    assert attend["copies_of_16_bytes"] > 0, "tiles are copied to shared memory asynchronously, in whole vectors"
    assert attend["wgmma"] > 0, "wide blocks use Hopper's matrix instructions"
