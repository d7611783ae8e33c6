"""The real engine of these tests, and what they run on it."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "calibration" / "models" / "countdown"
TRACE = ROOT / "traces" / "data" / "countdown.parquet"
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
NGRAM = '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 2, "prompt_lookup_max": 4}'
ENGINE = ["--engine", "dtype=float32", "--engine", "enforce_eager=true", "--engine", "block_size=32"]
LIMITS = ["--engine", "max_model_len=1032", "--stop-token-id", "36", "--max-tokens", "160"]


def needs_vllm() -> None:
    """Skip where there is no engine."""
    if not (ROOT / ".venv-vllm" / ".ready").exists():
        pytest.skip("no vLLM here: `make vllm` builds the environment that this runs in")


def environment() -> dict[str, str]:
    """One thread: two that share busy cores wait for each other at every operation."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def command(out: Path, *more: str) -> list[str]:
    """A recording of the shipped model."""
    return [
        str(ROOT / ".venv" / "bin" / "rolloutsim"), "calibrate", "vllm", str(TRACE), "--model", str(MODEL),
        "--python", str(PYTHON), "--step", "20", "--slots", "8", *ENGINE, *LIMITS, "--out", str(out), *more,
    ]  # fmt: skip


def children(process: int) -> list[int]:
    """Processes that a process has started and that are there."""
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def killed_once_there(asked: list[str], file: Path) -> int:
    """Start a command, kill it and all that it started once a file is there, and return when that was written."""
    process = subprocess.Popen(asked, env=environment(), stderr=subprocess.DEVNULL, start_new_session=True)
    while not file.exists():
        assert process.poll() is None, "it goes on until it is killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return file.stat().st_mtime_ns
