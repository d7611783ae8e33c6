"""Rollouts that are held, in the order in which they go on: probes, then groups by the longest sibling that has finished."""

import math
from collections import deque
from heapq import heappop, heappush, heapreplace

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Key = tuple[float, int, int]
"""- estimate, first member that is held, group."""


class Held:
    """Held rollouts of groups whose lengths show as rollouts finish; each call costs the logarithm of how many there are.

    group: int64[n], of every rollout; the first of each is its probe.
    """

    def __init__(self, group: Int64) -> None:
        self._group: list[int] = group.tolist()
        self._probes = set(np.unique(group, return_index=True)[1].tolist())
        self._longest: dict[int, int] = {}  # finished rollout, by group
        # an entry counts while its rollout is held and was last held as the entry says
        self._since: dict[int, int] = {}  # nth to be held, of those that are
        self._times = 0
        self._by_tokens: list[tuple[int, int, int]] = []  # probes: (tokens, rollout, since)
        self._members: dict[int, list[tuple[int, int]]] = {}  # others, by group: (rollout, since)
        self._by_estimate: list[Key] = []
        self._keys: dict[int, Key] = {}  # the entry that counts for each group, never too late in the order
        self._by_time: deque[tuple[int, int]] = deque()  # (rollout, since)

    def __len__(self) -> int:
        """Return how many are held."""
        return len(self._since)

    def hold(self, rollout: int, tokens: int) -> None:
        """Hold a rollout that has emitted so many tokens."""
        self._times += 1
        since = self._since[rollout] = self._times
        self._by_time.append((rollout, since))
        if rollout in self._probes:
            heappush(self._by_tokens, (tokens, rollout, since))
        else:
            group = self._group[rollout]
            heappush(self._members.setdefault(group, []), (rollout, since))
            self._sooner((-self.estimate(group), rollout, group))

    def finished(self, rollout: int, tokens: int) -> None:
        """Note the length of a rollout."""
        group = self._group[rollout]
        before, self._longest[group] = self._longest.get(group, 0), max(self._longest.get(group, 0), tokens)
        first = self._first_member(group)
        if first is not None and before < tokens:
            self._sooner((-self.estimate(group), first, group))

    def estimate(self, group: int) -> float:
        """How long its rollouts may get: as the longest that has finished, before any has longer than all."""
        return self._longest.get(group, math.inf)

    def first(self) -> int:
        """Who goes next, of those that are held."""
        while self._by_tokens:
            _, rollout, since = self._by_tokens[0]
            if self._since.get(rollout) == since:
                return rollout
            heappop(self._by_tokens)
        while True:
            key = self._by_estimate[0]
            group = key[2]
            first = self._first_member(group)
            if self._keys.get(group) != key:
                heappop(self._by_estimate)
            elif first is None:
                del self._keys[group]
            elif key == (now := (-self.estimate(group), first, group)):
                return first
            else:
                self._keys[group] = now
                heapreplace(self._by_estimate, now)

    def longest_held(self) -> int:
        """Who has been held longest."""
        while True:
            rollout, since = self._by_time[0]
            if self._since.get(rollout) == since:
                return rollout
            self._by_time.popleft()

    def take(self, rollout: int) -> None:
        """Let go of a rollout."""
        del self._since[rollout]

    def _sooner(self, key: Key) -> None:
        """Let a group's entry be this one, if it comes before the one that it has."""
        group = key[2]
        if group not in self._keys or key < self._keys[group]:
            self._keys[group] = key
            heappush(self._by_estimate, key)

    def _first_member(self, group: int) -> int | None:
        """The first of a group's held rollouts but for its probe."""
        members = self._members.get(group, [])
        while members and self._since.get(members[0][0]) != members[0][1]:
            heappop(members)
        return members[0][0] if members else None
