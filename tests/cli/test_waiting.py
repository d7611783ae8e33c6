"""Whoever waits for compiled code is told so, on stderr; how far the work is, on a terminal; nobody else is told anything."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simulator import progress
from simulator.cli import waiting

CODE = """
import sys
from simulator.cli import main, waiting
waiting.SILENT_S = waiting.TICK_S = 0.02
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
    assert lines[0] == f"{waiting.WAITING} ..."
    assert lines[1].startswith("compiled in ")
    assert lines[1].endswith(f" s, {waiting.KEPT}")
    assert len(lines) == 2
    assert second.stderr == ""
    assert first.stdout == second.stdout


def test_where_nothing_can_be_kept_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    last = shown(tmp_path / "file", *SHOW).stderr.splitlines()[-1]
    assert last.endswith(waiting.LOST.format(tmp_path / "file/rolloutsim"))


def test_a_terminal_shows_seconds_in_place(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(waiting, "SILENT_S", 0.0)
    monkeypatch.setattr(waiting, "TICK_S", 0.01)
    monkeypatch.setattr(waiting, "_outcome", lambda: "done")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with waiting.told():
        progress.begin()
        progress.begin()
        progress.end()
        time.sleep(0.2)
        progress.end()
        time.sleep(0.5)
        meanwhile = capsys.readouterr()
    after = capsys.readouterr()
    assert meanwhile.out == after.out == ""
    line = f"{waiting.WAITING}: 0 s"
    gone = f"\r{' ' * len(line)}\r"
    assert meanwhile.err.startswith(f"\r\r{line}{gone}{line}")
    assert meanwhile.err.endswith(f"{line}{gone}"), "gone when the wait is, not when the command ends"
    assert after.err == "compiled in 0 s, done\n"
    progress.begin()
    progress.end()
    assert capsys.readouterr().err == "", "who has left is told nothing"


def test_what_is_not_worth_a_word_gets_none(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting.told():
        progress.begin()
        progress.end()
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_how_far_the_work_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "WORK_SILENT_S", 0.0)
    monkeypatch.setattr(waiting, "TICK_S", 0.01)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with waiting.told():
        for number in progress.each([0, 1, 2, 3], "RL step"):
            time.sleep(0.5 if number == 2 else 0)
        ended = capsys.readouterr()
        time.sleep(0.5)
    assert ended.out == ""
    assert "\rRL step 3 of 4: 0 s, 50% done, about 0 s left" in ended.err
    assert ended.err.endswith("\r"), "gone when the work is, before anything is printed"
    assert ended.err.rsplit("\r", 2)[-2].isspace()
    assert capsys.readouterr().err == ""


def test_a_pipe_hears_nothing_of_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(waiting, "WORK_SILENT_S", 0.0)
    monkeypatch.setattr(waiting, "TICK_S", 0.01)
    with waiting.told(), progress.doing("reading"):
        time.sleep(0.5)
    assert capsys.readouterr().err == ""


def test_parts_of_the_work_count_towards_the_whole() -> None:
    outer, inner, within = progress.Work("RL step", 4, 1), progress.Work("system", 2, 1), progress.Work("reading")
    assert waiting.in_words([within], 7.4) == "reading: 7 s"
    assert waiting.in_words([progress.Work("RL step", 4)], 3.0) == "RL step 1 of 4: 3 s"
    assert waiting.in_words([outer, inner], 15.0) == "RL step 2 of 4, system 2 of 2: 15 s, 38% done, about 25 s left"
    assert waiting.in_words([outer, within], 15.0) == "RL step 2 of 4, reading: 15 s, 25% done, about 45 s left"


def test_work_that_is_left_early_is_over() -> None:
    progress.forget()  # what errors of other tests hold on to
    for number in progress.each(range(5), "resample"):
        assert [work.what for work in progress.works()] == ["resample"]
        if number == 2:
            break
    assert progress.works() == ()
    with pytest.raises(ValueError, match="stop"), progress.doing("reading"):
        raise ValueError("stop")
    assert progress.works() == ()


def test_work_that_an_error_holds_on_to_is_forgotten_by_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    held = progress.each([1, 2], "system")
    assert next(held) == 1
    with waiting.told():
        assert progress.works() == ()
        with progress.doing("reading"):
            held.close()
            assert [work.what for work in progress.works()] == ["reading"]
    assert progress.works() == ()
    assert capsys.readouterr().err == ""
