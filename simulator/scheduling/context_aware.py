"""Context-aware scheduling of divided rollouts: a probe of each group tells how long its siblings may get (Seer, 2511.14617)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.scheduling.estimates import Held
from simulator.scheduling.placement import KV, Decision, Event, Kind, Place, View
from simulator.spec import number, one_of, read, tokens_or_share, whole

Int64 = npt.NDArray[np.int64]
Room = Literal["kv", "slots"]

STAY_TOKENS = 8192
"""Tokens of a stay: the paper's chunk."""


@dataclass(frozen=True)
class Settings:
    """`context:stay=TOKENS|SHARE,kv=recompute|pull,room=kv|slots,reserve=SHARE,starved=N`, each with a default.

    stay: tokens that a rollout emits before it may go elsewhere, or below 1 a share of the longest rollout of the history
    (without a history STAY_TOKENS, none of them reserved); kv: whether what it has is computed again there, or pulled. room: a
    replica has room where a slot is free; with `kv`, where KV blocks are limited, only if all there fit with the share `reserve`
    of their stays: with 1 as they may be at the end, with less as they are on the way. starved: every so many placements the one
    that has been held longest goes first; 0: never.
    """

    stay: float = STAY_TOKENS
    kv: KV = "recompute"
    room: Room = "kv"
    reserve: float = 1.0
    starved: int = 32


READERS = {
    "stay": tokens_or_share,
    "kv": one_of(*get_args(KV)),
    "room": one_of(*get_args(Room)),
    "reserve": number(0, 1),
    "starved": whole(0),
}


class ContextAware:
    """Holds rollouts until a replica has room: probes first, then those of groups that are expected to be longest.

    The first rollout of each prompt is its group's probe; of probes those with the fewest tokens go first. A group is as long as
    its longest sibling that has finished; before any has, longer than all others. Ties go in queue order. A rollout goes on where
    it was, unless another replica has more room by what it needs. Where a decode step ends both, stays are told before rollouts.
    stay_tokens: of each stay; longest_tokens: of the history, 0 without one.
    """

    name = "context"
    events: frozenset[Kind] = frozenset({"start", "arrival", "left", "finished"})

    def __init__(self, settings: Settings, stay_tokens: int, longest_tokens: int) -> None:
        self._settings, self._stay_tokens, self._longest_tokens = settings, stay_tokens, longest_tokens

    def __call__(self, event: Event, view: View) -> Iterable[Decision]:
        """Note what happened, then let the first ones in while somebody has room."""
        if event.kind == "start":
            self._held = Held(view.requests.prompt)
            self._rooms = Rooms(view, self._settings.room == "kv")
            self._placed = 0
        emitted = view.emitted_tokens[event.rollouts].tolist()
        for rollout, tokens in zip(event.rollouts.tolist(), emitted, strict=True):
            if event.kind == "finished":
                self._held.finished(rollout, tokens)
            else:
                self._held.hold(rollout, tokens)
            self._rooms.release(rollout)
        return self._placements(view)

    def _placements(self, view: View) -> list[Decision]:
        settings, decisions = self._settings, list[Decision]()
        if not self._held:
            return decisions
        slots = view.loads[2].copy()
        while self._held and slots.max() > 0:
            starved = settings.starved and (self._placed + 1) % settings.starved == 0
            rollout = self._held.longest_held() if starved else self._held.first()
            replica = self._rooms.find(rollout, self._tokens(rollout, view), slots)
            if replica is None:
                break
            self._held.take(rollout)
            slots[replica] -= 1
            self._placed += 1
            decisions.append(Place(rollout, replica, self._stay_tokens, settings.kv))
        return decisions

    def _tokens(self, rollout: int, view: View) -> int:
        """Tokens that are reserved for it: of its stay no more than to the longest of the history, unless it is as long."""
        emitted, left = int(view.emitted_tokens[rollout]), self._stay_tokens
        if 0 < self._longest_tokens - emitted < left:
            left = self._longest_tokens - emitted
        return int(view.requests.prompt_tokens[rollout]) + emitted + max(round(self._settings.reserve * left), 1)


class Rooms:
    """What each replica has left: KV blocks that nobody there may need by the end of a stay; else slots."""

    def __init__(self, view: View, kv: bool) -> None:
        self._block_size = view.block_size if kv else 0
        self._blocks = view.loads[3].copy()
        self._there = np.zeros(view.replicas, np.int64)
        self._last: dict[int, int] = {}  # where each was last
        self._needs: dict[int, int] = {}  # blocks, of those that are somewhere

    def release(self, rollout: int) -> None:
        """Note that it is nowhere."""
        if rollout in self._needs:
            replica = self._last[rollout]
            self._blocks[replica] += self._needs.pop(rollout)
            self._there[replica] -= 1

    def find(self, rollout: int, tokens: int, slots: Int64) -> int | None:
        """The replica that it goes to, to have so many tokens there, which is noted; None where none has room."""
        need, left, fits = 1, slots, slots > 0
        if self._block_size:
            need, left = -(-tokens // self._block_size), self._blocks
            fits &= (left >= need) | (self._there == 0)  # one that fits nowhere is decoded alone
        if not fits.any():
            return None
        best = int(np.where(fits, left, left.min() - 1).argmax())
        last = self._last.get(rollout)
        if last is not None and fits[last] and left[best] - left[last] < need:
            best = last
        self._last[rollout], self._needs[rollout] = best, need if self._block_size else 0
        self._blocks[best] -= self._needs[rollout]
        self._there[best] += 1
        return best


def context_aware(argument: str, context: Context | None) -> ContextAware:
    """Probes first, then the groups that are expected to be longest, in stays that end where there is room."""
    settings = Settings(**read("context", argument, READERS, "placement"))
    longest = 0 if context is None else int(context.output_tokens.max(initial=0))
    if settings.stay < 1:
        stay = max(round(settings.stay * longest), 1) if longest else STAY_TOKENS
        settings = replace(settings, stay=stay, reserve=settings.reserve if longest else 0.0)
    return ContextAware(settings, int(settings.stay), longest)
