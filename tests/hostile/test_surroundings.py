"""The installed command where its surroundings are not what it expects: one line or a right answer, never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import PROFILE
from tests.conftest import ROOT

COMMAND = [sys.executable, "-c", "from simulator.cli import command; command()"]
DEMO = ROOT / "traces/data/demo.parquet"
REPLAY = ("replay", str(DEMO), "--profile", PROFILE, "--policy", "none", "--steps", "1")


def run(*arguments: str, cwd: Path = ROOT, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, env=environment, capture_output=True, check=False)


def in_one_line(done: "subprocess.CompletedProcess[bytes]", code: int) -> str:
    assert done.returncode == code, done.stderr[-2000:]
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"error: ")
    return done.stderr.decode()


def test_a_notebook_s_plotting_backend_is_left_alone(tmp_path: Path) -> None:
    done = run(*REPLAY, "--out", str(tmp_path / "out"), MPLBACKEND="module://no_such.backend")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "out" / "makespan.png").stat().st_size > 0


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    code = f"import os, sys; os.chdir({str(tmp_path)!r}); os.rmdir({str(tmp_path)!r}); " + COMMAND[-1]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, "trace", "describe", str(DEMO)], env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["é.parquet", os.fsdecode(b"\xff.parquet")])
def test_names_that_a_terminal_has_no_letters_for(name: str, tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    assert "no such file" in in_one_line(run("trace", "describe", name, cwd=tmp_path, **ascii_only), 3)
    try:
        (tmp_path / name).symlink_to(DEMO)
    except OSError:
        pytest.skip("this file system refuses names that are not UTF-8")
    done = run("trace", "describe", name, cwd=tmp_path, **ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_was_given_is_not_sent_to_the_terminal_raw() -> None:
    line = in_one_line(run(*REPLAY, "--policy", "fixed:\x1b[31m\x07" + "x" * 5000), 2)
    assert "\x1b" not in line
    assert "\x07" not in line
    assert len(line) < 2000


def test_a_pipe_that_nobody_reads() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [*COMMAND, *REPLAY, "--json"], stdout=writing, stderr=subprocess.PIPE, cwd=ROOT, check=False
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, b"")


def test_memory_that_runs_out(tmp_path: Path) -> None:
    """An address space of a gigabyte more than what is in use when the run begins."""
    script = (
        "import resource, simulator.cli.replay, simulator.replay, simulator.scenario, simulator.engine.cluster\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))\n" + COMMAND[-1]
    )
    made = ["trace", "synth", "--prompts", "32", "--samples", "32", "--steps", "1", "--max-tokens", "1000000",
            "--median-tokens", "900000", "--out", str(tmp_path / "long.parquet")]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script, *made], env=environment, capture_output=True, check=False)
    assert "out of memory" in in_one_line(done, 3)
