"""Commands that write, killed: a few of each here; `python -m tests.hostile.kills` tries hundreds."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from simulator.cli import cli
from tests.hostile.kills import Tried, kill_before, try_kills
from tests.hostile.writers import NO_WRITER, WRITERS, Writer, fill, writers

QUICK = [one for one in writers() if not one.slow]
TOGETHER = [one for one in QUICK if one.name in ("validate log --out", "advise --out", "profile show --out")]


def test_killed_commands_leave_whole_outputs(tmp_path: Path) -> None:
    some, tried = QUICK[::4], Tried()
    try_kills(len(some), 1, tmp_path, some, tried)
    assert not tried.faults
    assert tried.hit.total() >= len(some) // 3


@pytest.mark.parametrize("writer", TOGETHER, ids=lambda one: one.name)
def test_killed_between_two_files_there_are_none(writer: Writer, tmp_path: Path) -> None:
    """Before each of the last changes of the folder, where the files of an answer take their names."""
    fill(tmp_path)
    changes = kill_before(writer, 1, tmp_path, 10_000)
    assert changes > 5
    for number in range(3):
        shutil.rmtree(tmp_path / writer.target, ignore_errors=True)
        assert kill_before(writer, 1, tmp_path, changes - number) < changes
        if (tmp_path / writer.target).exists():
            writer.whole(tmp_path / writer.target)


def test_every_option_that_writes_is_tried() -> None:
    given = {f"{' '.join(path)} {flag}" for path, flag in paths_of(cli, ())}
    words = [one.arguments() for one in WRITERS]
    tried = {f"{' '.join(path)} {flag}" for path, flag in paths_of(cli, ())
             if any(tuple(line[: len(path)]) == path and flag in line for line in words)}  # fmt: skip
    assert len(tried) > 20
    assert given - tried == set(NO_WRITER)


def paths_of(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each command and each of its options that take a path, with the command's own words."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            yield from paths_of(inner, (*path, name))
        return
    for option in command.params:
        if isinstance(option, click.Option) and isinstance(option.type, click.Path):
            yield path, option.opts[0]
