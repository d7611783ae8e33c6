"""What one RL step asks of the engine: rollouts in queue order, and what would be accepted of their drafts."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from simulator.budgets.view import Requests
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.live import Classroom

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

HASHED_TOKENS = 512
"""Prompt tokens that one hash of the trace's `block_hashes` stands for."""


@dataclass(frozen=True, eq=False)
class Turns:
    """Where rollouts wait for a tool or an environment: those of rollout i are [offsets[i], offsets[i + 1]).

    offsets: int64[n + 1]; generated_tokens: int64[], of each turn; wait_s: float64[], seconds after it (after the last one
    nothing waits).
    """

    offsets: Int64
    generated_tokens: Int64
    wait_s: Float64


@dataclass(frozen=True, eq=False)
class Workload:
    """The n rollouts of an RL step in queue order; arrays are int64[n] but for those in seconds.

    prompt: index of the prompt in the trace; sample: index in the group; prompt_tokens, output_tokens: lengths
    (output_tokens >= 1); acceptance: tables whose offsets are the rollouts' cumulative lengths; classroom: drafts in the
    engine's loop instead, where they depend on what siblings emitted meanwhile. arrival_s: when each arrives (None: all are
    there at 0); turns: None where nobody waits; hashes: int64[], prefix block hashes of the prompts, in rollout i from
    hash_offsets[i] on (None: the prompts of a group are equal, others share nothing).
    """

    prompt: Int64
    sample: Int64
    prompt_tokens: Int64
    output_tokens: Int64
    acceptance: Acceptance
    classroom: Classroom | None = None
    arrival_s: Float64 | None = None
    turns: Turns | None = None
    hashes: Int64 | None = None
    hash_offsets: Int64 | None = None

    def __post_init__(self) -> None:
        """Assert that lengths and acceptance describe the same rollouts."""
        assert (np.diff(self.acceptance.offsets) == self.output_tokens).all()
        assert (self.output_tokens >= 1).all()

    @cached_property
    def requests(self) -> Requests:
        """What a policy may know of the rollouts."""
        return Requests(self.prompt, self.sample, self.prompt_tokens)

    def __len__(self) -> int:
        """Return the number of rollouts."""
        return self.prompt.size

    def longest_prefill(self, preemptible: bool) -> int:
        """Tokens of the longest prefill: of a prompt, or of all but the last token of a rollout that can come back."""
        comes_back = preemptible or self.turns is not None
        return int((np.maximum(self.prompt_tokens, 1) + (self.output_tokens - 1 if comes_back else 0)).max())

    def shared_blocks(self, block_size: int, caching: bool) -> tuple[Int64, Int64, Int64, int]:
        """How prompts share KV blocks: (blocks int64[n], where each begins in the chain int64[n], chain, blocks per entry).

        The first `blocks` blocks of a prompt have keys that others may have too: entry by entry of the chain, each the
        first of so many consecutive keys.
        """
        full = self.prompt_tokens // block_size
        if not caching:
            return np.zeros(len(self), np.int64), np.zeros(len(self), np.int64), np.zeros(1, np.int64), 1
        if self.hashes is None or self.hash_offsets is None:
            most = np.zeros(int(self.prompt.max()) + 1, np.int64)
            np.maximum.at(most, self.prompt, full)
            return full, self.prompt, np.concatenate([[0], np.cumsum(most)])[:-1], max(int(most.max()), 1)
        per = max(HASHED_TOKENS // block_size, 1)
        _, rank = np.unique(self.hashes, return_inverse=True)
        return (
            np.minimum(full, np.diff(self.hash_offsets) * per),
            self.hash_offsets[:-1],
            rank.astype(np.int64) * per,
            per,
        )
