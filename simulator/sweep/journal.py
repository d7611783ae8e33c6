"""What is finished, in a file that only grows: a line for each cell, on disk before anybody is told."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import TypeAdapter, ValidationError

from simulator.sweep.axes import Cell, canonical
from simulator.sweep.worker import Outcome
from traces.atomic import naming
from traces.errors import InputError

NAME = "cells.jsonl"
OUTCOME = TypeAdapter(Outcome)


class Journal:
    """The finished cells of a sweep, those of earlier runs of the same command among them."""

    def __init__(self, file: BinaryIO, found: Sequence[Outcome]) -> None:
        self._file = file
        self._found = {canonical(one.cell): one for one in found}

    def __len__(self) -> int:
        """How many cells are finished."""
        return len(self._found)

    def of(self, cell: Cell) -> Outcome | None:
        """What a cell came to; None where it has not been run."""
        return self._found.get(canonical(cell))

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Keep what has finished."""
        lines = "".join(f"{json.dumps(vars(one), separators=(',', ':'), default=str)}\n" for one in outcomes)
        self._file.write(lines.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._found |= {canonical(one.cell): one for one in outcomes}


@contextmanager
def journal(folder: Path, asked: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal in a folder, begun or gone on with; nobody else can open it meanwhile.

    asked: what all its cells rest on. Raises InputError where another process has it open, it rests on something else, or it is
    damaged before its last line; a last line without an end was being written when somebody was killed, and is dropped.
    """
    path = folder / NAME
    with naming(path), path.open("a+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of this process alone: none that it starts inherits it
        except OSError:
            raise InputError(
                f"{folder}: another sweep is writing there: wait for it, or choose another --out"
            ) from None
        file.seek(0)
        lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            torn = lines.pop()
            file.truncate(file.tell() - len(torn))
        if lines:
            _check_same(folder, _object(path, 1, lines[0]), json.loads(json.dumps(asked)))
        else:
            file.write(f"{json.dumps(asked, separators=(',', ':'))}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        yield Journal(file, [_outcome(path, number, line) for number, line in enumerate(lines[1:], 2)])


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        found = error
    if not isinstance(found, dict):
        raise InputError(
            f"{path}: line {number} is no JSON object ({line[:40]!r}): it is damaged: choose another --out"
        )
    return found


def _outcome(path: Path, number: int, line: bytes) -> Outcome:
    try:
        return OUTCOME.validate_python(_object(path, number, line))
    except ValidationError as error:
        what = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputError(f"{path}: line {number} is no cell ({what}): it is damaged: choose another --out") from None


def _check_same(folder: Path, was: Any, now: Any) -> None:
    for key, before, after in _differences("", was, now):
        raise InputError(
            f"{folder}: holds a sweep with {key} = {_shown(before)}, now it is {_shown(after)}: go back, or choose another --out"
        )


def _differences(key: str, was: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in (*now, *(one for one in was if one not in now)):
            yield from _differences(f"{key}.{name}" if key else name, was.get(name), now.get(name))
    elif was != now:
        yield key, was, now


def _shown(value: Any) -> str:
    text = canonical(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
