"""Drafts that are kept from run to run: those of one trace for one drafter are the same whatever else a scenario says."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from simulator.drafting.acceptance import Acceptance
from traces.trace import Trace

ROOM_BYTES = 1 << 30
"""What a process keeps of drafts; the least recently used go first."""
HISTORY_BYTES = 64
"""A token of the history, in a drafter that holds on to it."""


class Store(Protocol):
    """Where processes find what others made: NumPy arrays, and plain data with such arrays."""

    def find(self, key: str) -> Any | None:
        """Return what is kept under a key, None where nothing is."""

    def put(self, key: str, value: Any) -> None:
        """Keep a value; another process may have put the same meanwhile."""


class Nowhere:
    """A store of nothing: a process keeps drafts for itself."""

    def find(self, key: str) -> Any | None:
        """Return nothing."""

    def put(self, key: str, value: Any) -> None:
        """Keep nothing."""


@dataclass
class DraftCache:
    """What runs over these traces need not make twice.

    traces: whose drafts are kept; those that a transform makes of them are not. A table that serves every budget goes into the
    store; drafts that depend on the budget, and a history for live siblings, stay in the process.
    """

    traces: Sequence[Trace]
    store: Store = field(default_factory=Nowhere)
    room_bytes: int = ROOM_BYTES
    _made: "OrderedDict[str, tuple[Any, int]]" = field(default_factory=OrderedDict)

    def knows(self, trace: Trace) -> bool:
        """Whether drafts for a trace are kept."""
        return any(trace is one for one in self.traces)

    def has(self, key: str) -> bool:
        """Whether anything is kept under this key, here or in the store."""
        return key in self._made or self.store.find(key) is not None

    def acceptance(self, key: str, history_tokens: int, make: Callable[[], Acceptance]) -> Acceptance:
        """Return the acceptance under this key, or make it. history_tokens: what its drafter would hold on to."""

        def found_or_made() -> Acceptance:
            found = self.store.find(key)
            if found is not None:
                offsets, table = np.array(found[0]), found[1]  # compiled code takes arrays that could be written to
                return Acceptance(offsets, lambda budget: table, prefix=True, checked=True)
            made = make()
            if made.prefix and not made.blank:
                self.store.put(key, (made.offsets, made.tables[0]))
            return made

        def size_bytes(one: Acceptance) -> int:
            return (0 if one.blank else one.tables.nbytes) + (0 if one.prefix else HISTORY_BYTES * history_tokens)

        acceptance: Acceptance = self._own(key, found_or_made, size_bytes)
        return acceptance

    def history(self, key: str, history_tokens: int, make: Callable[[], Any]) -> Any:
        """Return what a process keeps for itself under this key, or make it."""
        return self._own(key, make, lambda one: 0 if one is None else HISTORY_BYTES * history_tokens)

    def plain(self, key: str, make: Callable[[], Any]) -> Any:
        """Return small plain data under this key, or make it; None is not kept in the store."""

        def found_or_made() -> Any:
            if (found := self.store.find(key)) is None and (found := make()) is not None:
                self.store.put(key, found)
            return found

        return self._own(key, found_or_made, lambda one: 1024)

    def _own(self, key: str, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key][0]
        value = make()
        self._made[key] = value, size(value)
        while len(self._made) > 1 and sum(bytes_ for _, bytes_ in self._made.values()) > self.room_bytes:
            self._made.popitem(last=False)
        return value


def key_of(*parts: Any) -> str:
    """Return a short name for what these stand for: texts, numbers, and arrays by their bytes."""
    digest = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(content).to_bytes(8) + content)
    return digest.hexdigest()[:32]
