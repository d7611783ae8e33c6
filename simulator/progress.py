"""What holds a run up and how far it is, told to whoever watches: the command line does, the library prints nothing."""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Work:
    """Something that takes time: what it is (of each item, where it has items), how many there are, and how many are done."""

    what: str
    total: int | None = None
    done: int = 0


_told: list[Callable[[int], None]] = []
_works: list[Work] = []


def watch(tell: Callable[[int], None]) -> None:
    """Have `tell` called with 1 whenever waiting for compiled code begins, with -1 when it ends; they nest.

    It is called with 0 when work begins where there was none, and when the last of it ends: `works` says which.
    """
    _told.append(tell)


def leave(tell: Callable[[int], None]) -> None:
    """Stop calling `tell`."""
    _told.remove(tell)


def begin() -> None:
    """Waiting for compiled code begins."""
    _tell(1)


def end() -> None:
    """Waiting for compiled code ends."""
    _tell(-1)


def works() -> tuple[Work, ...]:
    """What is being worked on, each part of the one before."""
    return tuple(_works)


def forget() -> None:
    """Forget work that an error has left in the middle: its loop is not over as long as somebody holds on to the error."""
    _works.clear()


@contextmanager
def doing(what: str, total: int | None = None) -> Iterator[Work]:
    """Say what the block does while it runs, to whoever watches; `total`: how many times it counts up `done`."""
    work = Work(what, total)
    _works.append(work)
    if len(_works) == 1:
        _tell(0)
    try:
        yield work
    finally:
        left = [one for one in _works if one is not work]
        if len(left) < len(_works):  # it was not forgotten
            _works[:] = left
            if not left:
                _tell(0)


def each(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield the items, and say how many of them are done; `total`: how many there are, where they do not know."""
    with doing(what, len(items) if isinstance(items, Sized) else total) as work:
        for item in items:
            yield item
            work.done += 1


def _tell(change: int) -> None:
    for tell in _told:
        tell(change)
