"""Inputs that are wrong in one way each, made by kind from a seed, and what the command line must do about every one of them.

A case ends in exit 0 with the answer that the unspoilt input gives, or the one that its own input means; or in one line and
exit 2, 3 or 4. Never a traceback, a second line, a warning of a library, or no end. `python -m tests.hostile KIND` runs a kind
and prints commands that repeat what failed.
"""

import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from simulator.cli import main, waiting

REFUSALS = (2, 3, 4)
END_S = 60
"""A case that takes longer has no end: the largest valid one takes some two seconds."""
PROFILE = "h100-llama-3.1-8b-published"


class Done(NamedTuple):
    """What a shell would see, and the warnings that libraries gave."""

    code: int
    out: str
    err: str
    warned: list[str]


@dataclass(frozen=True)
class Case:
    """Arguments of `rolloutsim`, run in a folder that `make` has filled.

    right: what must hold of an exit 0, None where any answer of one will do; `name` tells cases of a kind apart.
    """

    name: str
    arguments: tuple[str, ...]
    make: Callable[[Path], None] = lambda folder: None
    right: Callable[[Done, Path], bool] | None = None


def fault(case: Case, folder: Path) -> str:
    """What is wrong with how the command line took a case; empty where nothing is."""
    case.make(folder)
    done = run(case.arguments, folder)
    if done.warned:
        return f"warned: {done.warned[0]}"
    if done.code == 0:
        try:
            right = case.right is None or case.right(done, folder)
        except Exception as error:
            return f"exit 0 and {type(error).__name__}: {error}: {done.out[:200]}"
        return "" if right else f"exit 0 with another answer: {done.out[:200]}"
    if done.code not in REFUSALS:
        return f"exit {done.code}: {done.err[-300:]}"
    if done.out:
        return f"exit {done.code} after printing {done.out[:100]!r}"
    if done.err.count("\n") != 1 or not done.err.startswith("error: "):
        return f"exit {done.code} without one line: {done.err[:300]!r}"
    if not done.err.rstrip("\n").isprintable():
        return f"unprintable letters in {done.err[:300]!r}"
    return ""


def run(arguments: tuple[str, ...], folder: Path) -> Done:
    """Run the command in this process, in this folder."""
    out, err = io.StringIO(), io.StringIO()
    waiting.SILENT_S = float("inf")  # what is compiled depends on what ran before
    before, path = Path.cwd(), list(sys.path)
    os.chdir(folder)
    code: object = None
    try:
        with warnings.catch_warnings(record=True) as warned, redirect_stdout(out), redirect_stderr(err), _ending():
            warnings.simplefilter("always")
            try:
                main(list(arguments))
            except SystemExit as ending:
                code = ending.code
            except _NoEndError:
                err.write(f"no end after {END_S} s")
                code = 124
            except BaseException as error:
                err.write(f"Traceback: {type(error).__name__}: {error}")
                code = 1
    finally:
        os.chdir(before)
        sys.path[:] = path
        sys.modules.pop("theirs", None)
    told = [f"{one.category.__name__}: {one.message}" for one in warned]
    return Done(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue(), told)


class _NoEndError(BaseException):
    pass


@contextmanager
def _ending() -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise _NoEndError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(END_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
