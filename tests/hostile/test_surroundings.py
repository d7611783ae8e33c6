"""The installed command where its surroundings are not what it expects: one line or a right answer, never a traceback."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import suppress
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


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_streams_that_are_closed(closed: tuple[int, ...], tmp_path: Path) -> None:
    """What is asked for is done, what is wrong has its exit code, and no output is taken for a stream."""

    def code(*arguments: str) -> int:
        given = [
            sys.executable,
            "-c",
            f"import os, sys; [os.close(one) for one in {closed}]; os.execv(sys.argv[1], sys.argv[1:])",
        ]
        asked = [*given, *COMMAND, *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, check=False).returncode

    assert code(*REPLAY, "--html", str(tmp_path / "page.html")) == 0
    assert (tmp_path / "page.html").read_text("utf-8").rstrip().endswith("</html>")
    assert code("replay", "--no-such-flag") == 2
    assert code("trace", "validate", str(tmp_path / "nothing")) == 3


def test_nobody_can_be_told_what_is_wrong() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, "trace", "validate", "nothing"], cwd=ROOT, stderr=full, check=False)
    assert done.returncode == 3


def test_a_home_and_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """Where libraries keep their things is nobody's concern."""
    (tmp_path / "home").write_text("no folder")
    home = str(tmp_path / "home")
    done = run("trace", "describe", str(DEMO), "--out", str(tmp_path / "a.png"), HOME=home, XDG_CACHE_HOME=home)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "a.png").stat().st_size > 0


@pytest.mark.parametrize("variables", [
    {"COLUMNS": "20"}, {"COLUMNS": "0"}, {"TZ": ":/nonsense"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize(
    "arguments", [REPLAY, ("systems",), ("trace", "describe", str(DEMO))], ids=lambda each: each[0]
)
def test_narrow_terminals_other_locales_and_zones(arguments: tuple[str, ...], variables: dict[str, str]) -> None:
    done = run(*arguments, **variables)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") > 3


def test_a_terminal_of_twenty_columns() -> None:
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*COMMAND, *REPLAY], cwd=ROOT, env=environment, stdout=writing, stderr=writing) as process:
        os.close(writing)
        shown = b""
        with suppress(OSError):  # Linux has it so at the end
            while part := os.read(reading, 4096):
                shown += part
    os.close(reading)
    assert process.returncode == 0
    assert b"makespan" in shown
    assert b"Traceback" not in shown


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
