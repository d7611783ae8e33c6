"""Commands that are interrupted: a few moments of few here; `python -m tests.hostile.interrupts` tries hundreds."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from simulator.cli.ending import Signalled, _quiet
from tests.conftest import ROOT
from tests.hostile.interrupts import POLICIES, SCORED, fault, fill_long, interrupt
from tests.hostile.writers import fill

REPLAY = f"replay trace.parquet {POLICIES} --policy das".replace("{n}", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("interrupts")
    fill(made)
    return made


@pytest.mark.parametrize(("after_s", "sent"), [
    (0.0, [signal.SIGINT]), (0.05, [signal.SIGINT]), (0.3, [signal.SIGTERM]), (0.5, [signal.SIGINT] * 3),
    (0.8, [signal.SIGTERM, signal.SIGINT]), (1.1, [signal.SIGHUP]),
])  # fmt: skip
def test_one_line_from_the_start_on(after_s: float, sent: list[signal.Signals], folder: Path) -> None:
    ended = interrupt(REPLAY, folder, after_s, sent)
    assert ended is not None
    assert fault(ended, sent[0]) == ""


def test_compiling_is_not_waited_for(folder: Path) -> None:
    ended = interrupt(REPLAY, folder, 4.0, [signal.SIGINT], cold=True)
    assert ended is not None
    assert fault(ended, signal.SIGINT) == ""
    assert "compiled in" not in ended.told


def test_compiled_code_is_not_waited_for(folder: Path) -> None:
    """Scored trees of a long trace: some twenty seconds of one call."""
    fill_long(folder)
    assert interrupt(SCORED, folder, 1e-3, [signal.SIGINT]) is not None
    ended = interrupt(SCORED, folder, 8.0, [signal.SIGINT])
    assert ended is not None
    assert (ended.code, ended.told.splitlines()[-1]) == (130, "error: interrupted")
    assert ended.seconds < 2.5, "one second, and what a busy machine adds"


def test_what_ignores_a_signal_goes_on_ignoring_it(folder: Path) -> None:
    """As nohup has it, and a shell for what runs in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ended = interrupt(REPLAY, folder, 0.3, [signal.SIGHUP])
        assert ended is not None
        assert (ended.code, ended.told) == (0, "")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nothing_is_said_of_a_signal_that_came_right_before_it_was_ignored(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the interpreter has it: two signals in one millisecond, one time in thirty."""
    unraisable = pytest.importorskip("_testcapi").write_unraisable_exc
    monkeypatch.setattr(sys, "unraisablehook", _quiet)
    unraisable(OSError("Signal 2 ignored due to race condition"), None, None)
    assert capsys.readouterr().err == ""
    unraisable(ValueError("of nobody"), None, None)
    unraisable(OSError("of a destructor"), None, len)
    err = capsys.readouterr().err
    assert "of nobody" in err
    assert "of a destructor" in err


def test_it_can_be_made_again() -> None:
    """SimPy raises another one of the type that a process ended with, of the same arguments."""
    one = Signalled(signal.SIGINT, threading.Lock())
    assert type(one)(*one.args).number == signal.SIGINT


def test_a_signal_that_became_another_error_is_still_one() -> None:
    """As extensions make one where they load, and as somebody's policy may."""
    code = (
        "import os, signal\nfrom simulator.cli import commands\nfrom simulator.cli.ending import BySignals\n"
        "from traces.errors import InputError\n"
        "def becomes():\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n        signal.pause()\n"
        "    except BaseException:\n        raise InputError('while it was loaded') from None\n"
        "commands.importlib.import_module = lambda name: becomes()\n"
        "with BySignals() as signals:\n    commands.main(['policies'], signals)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (143, "error: terminated\n")


def test_the_package_loads_nothing_that_takes_time() -> None:
    code = "import sys; import simulator.cli; print({'typing', 'click', 'signal', 'enum', 're'} & set(sys.modules))"
    bare = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"]
    assert subprocess.run(bare, capture_output=True, text=True, check=True).stdout == "set()\n"
