"""Says on stderr what takes long: code to compile, which the first run of a version waits for; on a terminal also the work."""

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from simulator import progress

SILENT_S, WORK_SILENT_S, TICK_S = 1.0, 2.0, 0.5
WAITING = "compiling for this machine, as the first run of a version does"
KEPT, LOST = (
    "which later runs need not do",
    "which later runs do again: {} cannot be written: set XDG_CACHE_HOME to a folder",
)


@contextmanager
def told() -> Iterator[None]:
    """Tell of it while the block runs, once it is worth a word: on a terminal in place, else that compiling begins."""
    clock = _Clock(sys.stderr.isatty())
    progress.forget()
    progress.watch(clock.tell)
    try:
        yield
    finally:
        progress.leave(clock.tell)
        clock.stop()


def in_words(works: Sequence[progress.Work], spent_s: float) -> str:
    """Say what is worked on, how much of it is done, and when it might be; each work is part of the one before."""
    told = [
        one.what if one.total is None else f"{one.what} {min(one.done + 1, one.total)} of {one.total}" for one in works
    ]
    share = 0.0
    for one in reversed(works):
        share = (one.done + share) / one.total if one.total else 0.0
    left = f", {share:.0%} done, about {spent_s / share - spent_s:.0f} s left" if share > 0 else ""
    return f"{', '.join(told)}: {spent_s:.0f} s{left}"


class _Clock:
    """Adds up the time spent waiting and working; a thread of its own shows it."""

    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal
        self._waits, self._since, self._before_s = 0, 0.0, 0.0
        self._began = 0.0
        self._said, self._shown = False, ""
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def tell(self, change: int) -> None:
        """Note that waiting begins (1) or ends (-1), or that work does (0)."""
        with self._lock:
            if change == 0:
                self._began = time.monotonic()
                self._write("")
            elif self._waits == 0:
                self._since = time.monotonic()
            elif self._waits + change == 0:
                self._before_s = self._spent_s()
                self._write("")
            self._waits += change
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Say what compiling came to, once it is done."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self._write("")
        if self._said and not self._waits:  # else it was interrupted
            click.echo(f"compiled in {self._spent_s():.0f} s, {_outcome()}", err=True)

    def _spent_s(self) -> float:
        return self._before_s + (time.monotonic() - self._since if self._waits else 0.0)

    def _watch(self) -> None:
        while not self._stopped.wait(TICK_S):
            with self._lock:
                works, worked_s = progress.works(), time.monotonic() - self._began
                if self._waits and self._spent_s() >= SILENT_S:
                    self._show_waiting()
                elif works and self._terminal and worked_s >= WORK_SILENT_S:
                    self._write(in_words(works, worked_s))

    def _show_waiting(self) -> None:
        if self._terminal:
            self._write(f"{WAITING}: {self._spent_s():.0f} s")
        elif not self._said:
            click.echo(f"{WAITING} ...", err=True)
        self._said = True

    def _write(self, line: str) -> None:
        """Replace what stands on the terminal's line, of which no more is written than fits."""
        line = line[: shutil.get_terminal_size().columns - 1]
        if self._shown or line:
            click.echo(f"\r{' ' * len(self._shown)}\r{line}", nl=False, err=True)
        self._shown = line


def _outcome() -> str:
    from simulator.compiled import cache_folder

    folder = cache_folder()
    return KEPT if folder.is_dir() and os.access(folder, os.W_OK) else LOST.format(folder)
