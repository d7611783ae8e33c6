"""One forward pass's ragged batch: each sequence with its own cache slot, context and number of query tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batch:
    """n sequences, the first `decoding` of which decode or verify; the others prefill a chunk each.

    tokens: int64[total], sequence after sequence; query_starts: int32[n + 1]; context_tokens: int32[n], KV tokens before the
    pass; slots: int32[n], where their KV lies, no two alike; sampled: int64[], rows of `tokens` whose logits are sampled: all
    of those that decode, the last one of each prompt that is complete.
    """

    tokens: Int64
    query_starts: Int32
    context_tokens: Int32
    slots: Int32
    decoding: int
    sampled: Int64

    @property
    def widths(self) -> Int32:
        """Query tokens of each sequence, int32[n]."""
        return np.diff(self.query_starts)

    @property
    def positions(self) -> Int64:
        """Position of each token in its sequence, int64[total]."""
        before = self.context_tokens - self.query_starts[:-1]
        return np.arange(self.tokens.size) + np.repeat(before, self.widths)


def batch_of(
    contexts: Sequence[int] | npt.NDArray[np.integer],
    widths: Sequence[int] | npt.NDArray[np.integer],
    slots: Sequence[int] | npt.NDArray[np.integer],
    tokens: Int64,
    decoding: int | None = None,
) -> Batch:
    """Batch of sequences with these contexts before the pass and query tokens; every prompt among them is complete.

    decoding: how many of them decode, the first ones (default: all).
    """
    starts = np.concatenate([[0], np.cumsum(widths)]).astype(np.int32)
    decoding = len(starts) - 1 if decoding is None else decoding
    assert tokens.size == starts[-1], "one token for each query"
    sampled = np.concatenate([np.arange(starts[decoding]), starts[decoding + 1 :] - 1]).astype(np.int64)
    return Batch(
        np.asarray(tokens, np.int64), starts, np.asarray(contexts, np.int32), np.asarray(slots, np.int32), decoding, sampled
    )  # fmt: skip
