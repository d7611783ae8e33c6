"""Suffix drafting as an engine does it: for a live batch, from what has been emitted by now, tokens that can be verified."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simulator.compiled import entry
from simulator.drafting.automaton import block_size
from simulator.drafting.history import Forest
from simulator.drafting.layout import Prompts
from simulator.drafting.longest import draft_along
from simulator.drafting.memory import address
from simulator.drafting.standing import STANDING, Standing, begin, longest_match, take
from simulator.drafting.suffix import Suffix
from simulator.records import Array, as_int, records
from traces.errors import InputError

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@entry
def _learn(standings: Array[Standing], rollouts: Int64, tokens: Int32, starts: Int64, depth: int) -> None:
    for i in range(rollouts.size):
        standing = standings[rollouts[i]]
        for p in range(starts[i], starts[i + 1]):
            standing.matched, standing.length = take(
                standing.history, standing.matched, standing.length, standing.own, as_int(tokens[p]), depth
            )


@entry
def _begin(standings: Array[Standing], rollout: int, room: int) -> None:
    begin(standings[rollout], room)


@entry
def _propose(
    standings: Array[Standing], rollouts: Int64, most: Int64, depth: int, factor: float, min_prob: float, drafts: int,
    stride: int, counts: Int64,
) -> None:  # fmt: skip
    for i in range(rollouts.size):
        one = standings[rollouts[i]]
        at, state, length = longest_match(one.history, one.matched, one.length, one.own, depth)
        limit = min(most[i], int(factor * length + 1e-9)) if length > 0 else 0
        counts[i] = draft_along(at, state, length, limit, depth, min_prob, drafts + 4 * stride * i)


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
        self._standings = records(STANDING, at.size)
        self._standings["history"] = np.where(at >= 0, 4 * at, 0)

    def begin(self, rollouts: Int64, prompts: Prompts) -> None:
        """Begin with rollouts, whose prompts are those of all n."""
        for rollout in rollouts.tolist():
            if self.drafter.own:
                block = np.empty(block_size(int(self._room[rollout]), 1), np.int32)
                self._own[rollout] = block
                self._standings["own"][rollout] = address(block)
            _begin(self._standings, rollout, self._room[rollout])
            prompt = prompts.tokens[prompts.starts[rollout] : prompts.ends[rollout]]
            self.learn(np.array([rollout]), prompt, np.array([0, prompt.size]))

    def learn(self, rollouts: Int64, tokens: Int32, starts: Int64) -> None:
        """Note what rollouts emitted: those of rollouts[i] are tokens[starts[i]:starts[i + 1]]."""
        _learn(self._standings, rollouts, tokens, starts, self.drafter.depth)

    def propose(self, rollouts: Int64, most: Int64) -> tuple[Int32, Int64]:
        """Drafts of at most `most` tokens each: (int32[b, max(most)], how many int64[b])."""
        d = self.drafter
        drafts = np.zeros((rollouts.size, int(most.max(initial=0))), np.int32)
        counts = np.zeros(rollouts.size, np.int64)
        _propose(
            self._standings, rollouts, most, d.depth, d.factor, d.min_prob, address(drafts), drafts.shape[1], counts
        )
        return drafts, counts

    def forget(self, rollouts: Int64) -> None:
        """Forget rollouts that completed."""
        for rollout in rollouts.tolist():
            self._own.pop(rollout, None)
