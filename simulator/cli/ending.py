"""How signals end the command: in one line and within a second, whatever it is doing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

TYPE_CHECKING = False  # that of typing, which takes longer to load than all else here
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Any, NoReturn

TOLD = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}
"""Signals that end it, as far as the system has them; the exit code is 128 and the number, as a shell has it."""
GRACE_S = 0.5
"""What a signal finds open is closed meanwhile, as by Ctrl-C in any Python. Compiled code that runs longer is not waited for."""


class Signalled(KeyboardInterrupt):
    """A signal that ends the command, raised in the middle of what it was doing; notes say what becomes of that."""

    def __init__(self, number: int, last: threading.Lock) -> None:
        super().__init__(number, last)  # of which SimPy makes another one
        self.number, self._last = number, last

    def leave(self) -> NoReturn:
        """Say in one line what ended it, and end this process."""
        notes = getattr(self, "__notes__", [])
        _leave(self.number, self._last, *notes)


class BySignals:
    """In the block signals raise Signalled, or end the process GRACE_S later where that does not; afterwards they are ignored.

    For the main thread of a process of its own. A signal that is ignored when the block begins, as by nohup, stays so.
    taken: what was raised, which may have become another error on its way.
    """

    def __init__(self) -> None:
        self.taken: Signalled | None = None
        numbers = [getattr(signal, name) for name in TOLD if hasattr(signal, name)]
        self._numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        self._last = threading.Lock()

    def __enter__(self) -> BySignals:
        """Take signals over."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        threading.Thread(target=_wait, args=(reading, self._numbers, self._last), daemon=True).start()
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)
        sys.unraisablehook = _quiet
        for number in self._numbers:
            signal.signal(number, self._raise)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave, where a signal got this far, and let nothing disturb the end otherwise."""
        self._ignore()
        if self.taken is not None and error is not None and not isinstance(error, SystemExit):
            self.taken.leave()  # nobody else could tell

    def _raise(self, number: int, frame: FrameType | None) -> NoReturn:
        self._ignore()  # a second one finds that it is ending
        self.taken = Signalled(number, self._last)
        raise self.taken

    def _ignore(self) -> None:
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)

    def _forget(self) -> None:
        """A forked process shares the pipe, and has no thread."""
        signal.set_wakeup_fd(-1)
        for number in self._numbers:
            signal.signal(number, signal.SIG_DFL)


def _wait(reading: int, numbers: list[int], last: threading.Lock) -> None:
    """Wait for a signal, which the interpreter writes into the pipe at once, and end the process unless it does so itself."""
    while (number := os.read(reading, 1)[0]) not in numbers:
        pass
    time.sleep(GRACE_S)
    _leave(number, last)


def _leave(number: int, last: threading.Lock, *notes: str) -> NoReturn:
    last.acquire()  # who comes second waits for the end
    line = ": ".join([TOLD[signal.Signals(number).name], *notes])
    try:
        os.write(2, f"{chr(10) if os.isatty(2) else ''}error: {line}\n".encode())  # a terminal's line holds ^C
    finally:
        os._exit(128 + number)  # whether or not somebody can be told


def _quiet(unraisable: Any) -> None:
    """Say nothing of a signal that arrived where nobody hears of it, such as in a destructor: the process ends all the same.

    Nor of one that came right before it was ignored, of which the interpreter tells as of an OSError of nobody.
    """
    unheard = unraisable.exc_type is not None and issubclass(unraisable.exc_type, Signalled)
    if not unheard and not (unraisable.exc_type is OSError and unraisable.object is None):
        sys.__unraisablehook__(unraisable)
