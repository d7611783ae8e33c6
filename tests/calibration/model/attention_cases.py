"""Ragged batches for attention: random queries and caches in which only what a batch may read is a number."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from calibration.model.flash import DecodeAttention
from calibration.model.reference import plain_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

BOUNDS = {torch.float32: 1e-5, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
"""Error as a share of the weighted mean of |values|. In float32, dozens of roundings of scores up to about 10 (2^-24 each). Half
precision rounds weights and the output, by 2^-11 each in float16 and 2^-8 in bfloat16, where the interpreter cuts off."""


@dataclass(frozen=True)
class Case:
    """A batch on tensors: widths and contexts by sequence; the cache beyond a context, and padding, is NaN."""

    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    slots: npt.NDArray[np.int32]
    query_starts: npt.NDArray[np.int32]
    context_tokens: npt.NDArray[np.int32]

    def check(self, attention: DecodeAttention) -> None:
        """Plan the batch, attend to it, and hold every token to plain attention, those of no sequence to zero."""
        attention.plan(self.query_starts, self.context_tokens, self.slots)
        out = torch.full_like(self.query, float("nan"))
        attention.run(self.query, self.keys, self.values, out)
        self.check_result(out)

    def check_result(self, out: torch.Tensor) -> None:
        batch = (self.slots, self.query_starts, self.context_tokens)
        expected = plain_attention(self.query, self.keys, self.values, *batch)
        mass = plain_attention(self.query, self.keys, self.values.abs(), *batch)
        error = (out.double() - expected).abs() / mass.clamp_min(1e-9)
        worst = error.max().item() if error.numel() else 0.0
        assert worst <= BOUNDS[self.query.dtype], f"{worst:.2e} of the mean of |values| off"


def case(
    widths: Sequence[int],
    contexts: Sequence[int],
    heads: int = 8,
    kv_heads: int = 2,
    head_dim: int = 64,
    dtype: torch.dtype = torch.float32,
    padding: int = 0,
    room: int | None = None,
    seed: int = 0,
) -> Case:
    """Random batch with these query tokens and KV tokens (its own included); slots in no order, one of them unused."""
    generator = torch.Generator().manual_seed(seed)
    starts = np.concatenate([[0], np.cumsum(widths)]).astype(np.int32)
    n = len(widths)
    slots = np.random.default_rng(seed).permutation(n + 1)[:n].astype(np.int32)
    shape = (n + 1, kv_heads, room or max(contexts, default=0) + 3, head_dim)
    keys, values = torch.full(shape, float("nan")), torch.full(shape, float("nan"))
    for slot, context in zip(slots.tolist(), contexts, strict=True):
        keys[slot, :, :context] = torch.randn(kv_heads, context, head_dim, generator=generator)
        values[slot, :, :context] = torch.randn(kv_heads, context, head_dim, generator=generator)
    query = torch.randn(int(starts[-1]) + padding, heads, head_dim, generator=generator)
    query[starts[-1] :] = float("nan")
    tensors = [tensor.to(DEVICE, dtype) for tensor in (query, keys, values)]
    return Case(*tensors, slots, starts, np.array(contexts, np.int32))


def attention_for(batch: Case, processors: int = 4, **changes: int) -> DecodeAttention:
    """Attention just large enough for a batch, on a small device, so that small batches are split."""
    sizes = {
        "max_sequences": len(batch.slots),
        "max_tokens": batch.query.shape[0],
        "max_context_tokens": batch.keys.shape[2],
    }
    heads, head_dim = batch.query.shape[1:]
    return DecodeAttention(
        heads, batch.keys.shape[1], head_dim, **(sizes | changes), dtype=batch.query.dtype, device=DEVICE, processors=processors
    )  # fmt: skip
