"""Whoever waits for compiled code is told so, on stderr, and nobody else is told anything."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simulator import progress
from simulator.cli import compiling

CODE = """
import sys
from simulator.cli import compiling, main
compiling.SILENT_S = compiling.TICK_S = 0.02
main(sys.argv[1:])
"""
SHOW = ("profile", "show", "h100-llama-3.1-8b-published")


def shown(cache: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip


def test_the_first_run_says_that_it_compiles_and_the_second_says_nothing(tmp_path: Path) -> None:
    first, second = (shown(tmp_path, *SHOW) for _ in range(2))
    lines = first.stderr.splitlines()
    assert lines[0] == f"{compiling.WAITING} ..."
    assert lines[1].startswith("compiled in ")
    assert lines[1].endswith(f" s, {compiling.KEPT}")
    assert len(lines) == 2
    assert second.stderr == ""
    assert first.stdout == second.stdout


def test_where_nothing_can_be_kept_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    last = shown(tmp_path / "file", *SHOW).stderr.splitlines()[-1]
    assert last.endswith(compiling.LOST.format(tmp_path / "file/rolloutsim"))


def test_a_terminal_shows_seconds_in_place(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(compiling, "SILENT_S", 0.0)
    monkeypatch.setattr(compiling, "TICK_S", 0.01)
    monkeypatch.setattr(compiling, "_outcome", lambda: "done")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with compiling.told():
        progress.begin()
        progress.begin()
        progress.end()
        time.sleep(0.2)
        progress.end()
        time.sleep(0.05)
        meanwhile = capsys.readouterr()
    after = capsys.readouterr()
    assert meanwhile.out == after.out == ""
    line = f"{compiling.WAITING}: 0 s"
    gone = f"\r{' ' * len(line)}\r"
    assert meanwhile.err.startswith(f"\r\r{line}{gone}{line}")
    assert meanwhile.err.endswith(f"{line}{gone}"), "gone when the wait is, not when the command ends"
    assert after.err == "compiled in 0 s, done\n"
    progress.begin()
    progress.end()
    assert capsys.readouterr().err == "", "who has left is told nothing"


def test_what_is_not_worth_a_word_gets_none(capsys: pytest.CaptureFixture[str]) -> None:
    with compiling.told():
        progress.begin()
        progress.end()
    assert capsys.readouterr().err == ""
