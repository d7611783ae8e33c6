"""Suffix drafting as an engine does it: for a live batch, from what has been emitted by now, tokens that can be verified."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled
from simulator.drafting.automaton import (
    ACTIVE,
    ACTIVE_LEN,
    BEST_STATE,
    BEST_TOKEN,
    COUNT,
    ROOT,
    STATE,
    block_size,
    follow,
    observe,
    plant,
    shorten,
    start_sequence,
)
from simulator.drafting.history import Forest
from simulator.drafting.layout import Prompts
from simulator.drafting.longest import continued
from simulator.drafting.memory import address, load
from simulator.drafting.suffix import Suffix
from traces.errors import InputError

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

# rows of `pupils`, by rollout: the address of its history and whether it has one, where it stands in it, its own automaton
HISTORY, KNOWN, MATCHED, LENGTH, OWN = range(5)


@compiled(nogil=True)
def _hear(pupils, rollouts, tokens, starts, depth, use_own):  # type: ignore[no-untyped-def]
    for i in range(rollouts.size):
        r = rollouts[i]
        history, own = pupils[HISTORY, r], pupils[OWN, r]
        matched, length = pupils[MATCHED, r], pupils[LENGTH, r]
        for p in range(starts[i], starts[i + 1]):
            if pupils[KNOWN, r]:
                matched, length = follow(history, matched, length, tokens[p], depth - 1)
            if use_own:
                observe(own, tokens[p], 1, depth)
        pupils[MATCHED, r], pupils[LENGTH, r] = matched, length


@compiled(nogil=True)
def _enrol(pupils, rollout, room, use_own):  # type: ignore[no-untyped-def]
    pupils[MATCHED, rollout], pupils[LENGTH, rollout] = ROOT, 0
    if use_own:
        plant(pupils[OWN, rollout], room, 1)
        start_sequence(pupils[OWN, rollout])


@compiled(nogil=True)
def _propose(pupils, rollouts, most, depth, factor, min_prob, use_own, drafts, counts):  # type: ignore[no-untyped-def]
    for i in range(rollouts.size):
        r = rollouts[i]
        at, state, length = pupils[HISTORY, r], ROOT, 0
        if pupils[KNOWN, r]:
            state, length = continued(at, pupils[MATCHED, r], pupils[LENGTH, r])
        own = pupils[OWN, r]
        if use_own and load(own, ACTIVE_LEN) > 0:
            own_len = min(load(own, ACTIVE_LEN), depth - 1)
            own_state, own_len = continued(own, shorten(own, load(own, ACTIVE), own_len), own_len)
            if own_len >= length:
                at, state, length = own, own_state, own_len
        limit = min(most[i], int(factor * length + 1e-9)) if length > 0 else 0
        prob, drafted = 1.0, 0
        while drafted < limit:
            child = load(at, STATE * state + BEST_STATE)
            if child < 0:
                break
            prob *= load(at, STATE * child + COUNT) / load(at, STATE * state + COUNT)
            if prob < min_prob:
                break
            drafts[i, drafted] = load(at, STATE * state + BEST_TOKEN)
            drafted += 1
            state = child
            length += 1
            if length >= depth:
                length = depth - 1
                state = shorten(at, state, length)
        counts[i] = drafted


class OnlineSuffix:
    """Drafts of a `Suffix` drafter, longest matches, for rollouts that arrive, emit and leave.

    history: what the drafter learnt; at: int64[n], `Forest.at` of each rollout's; room: int64[n], the most tokens that a
    rollout's prompt and output can have. Proposes what `Suffix.accept` says would be drafted at the same position.
    Raises InputError for settings whose drafts depend on the budget or on siblings.
    """

    def __init__(self, drafter: Suffix, history: Forest, at: Int64, room: Int64) -> None:
        if drafter.match != "longest" or drafter.siblings != "next-step":
            raise InputError(
                f"drafter {drafter.describe()}: an online drafter takes longest matches from frozen history and own output: "
                "use match longest and siblings next-step"
            )
        self.drafter, self.history = drafter, history
        self._room = room
        self._own: dict[int, Int32] = {}
        self._pupils: Int64 = np.zeros((5, at.size), np.int64)
        self._pupils[KNOWN] = at >= 0
        self._pupils[HISTORY] = 4 * at

    def enrol(self, rollouts: Int64, prompts: Prompts) -> None:
        """Begin with rollouts, whose prompts are those of all n."""
        d = self.drafter
        for rollout in rollouts.tolist():
            if d.own:
                block = np.empty(block_size(int(self._room[rollout]), 1), np.int32)
                self._own[rollout] = block
                self._pupils[OWN, rollout] = address(block)
            _enrol(self._pupils, rollout, self._room[rollout], d.own)
            prompt = prompts.tokens[prompts.starts[rollout] : prompts.ends[rollout]]
            self.hear(np.array([rollout]), prompt, np.array([0, prompt.size]))

    def hear(self, rollouts: Int64, tokens: Int32, starts: Int64) -> None:
        """Note what rollouts emitted: those of rollouts[i] are tokens[starts[i]:starts[i + 1]]."""
        _hear(self._pupils, rollouts, tokens, starts, self.drafter.depth, self.drafter.own)

    def propose(self, rollouts: Int64, most: Int64) -> tuple[Int32, Int64]:
        """Drafts of at most `most` tokens each: (int32[b, max(most)], how many int64[b])."""
        d = self.drafter
        drafts = np.zeros((rollouts.size, int(most.max(initial=0))), np.int32)
        counts = np.zeros(rollouts.size, np.int64)
        _propose(self._pupils, rollouts, most, d.depth, d.factor, d.min_prob, d.own, drafts, counts)
        return drafts, counts

    def leave(self, rollouts: Int64) -> None:
        """Forget rollouts that completed."""
        for rollout in rollouts.tolist():
            self._own.pop(rollout, None)
