"""What holds a run up, told to whoever watches: the command line does, the library prints nothing."""

from collections.abc import Callable

_told: list[Callable[[int], None]] = []


def watch(tell: Callable[[int], None]) -> None:
    """Have `tell` called with 1 whenever waiting for compiled code begins, with -1 when it ends; they nest."""
    _told.append(tell)


def leave(tell: Callable[[int], None]) -> None:
    """Stop calling `tell`."""
    _told.remove(tell)


def begin() -> None:
    """Waiting begins."""
    for tell in _told:
        tell(1)


def end() -> None:
    """Waiting ends."""
    for tell in _told:
        tell(-1)
