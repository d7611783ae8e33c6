"""Attention over a static KV cache, one sequence after the other: the path of CPUs, and of prefill chunks on any device."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

MASKED = float("-inf")


class KVCache:
    """Keys and values of every layer, [slots, kv_heads, room, head_dim]; what was never written is random, so finite.

    The last slot is no sequence's: padding is written there. `view` lays the same memory out for other numbers of slots.
    """

    def __init__(
        self, layers: int, slots: int, kv_heads: int, room: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        width = kv_heads * head_dim
        self.tokens, self._heads = (slots + 1) * room, (kv_heads, head_dim)
        self._memory = [
            (torch.empty(self.tokens * width, dtype=dtype, device=device).normal_(),
             torch.empty(self.tokens * width, dtype=dtype, device=device).normal_())
            for _ in range(layers)
        ]  # fmt: skip
        self.view(slots, room)

    def view(self, slots: int, room: int) -> None:
        """Lay the memory out as `slots` sequences, and one for padding, of `room` tokens each."""
        used = (slots + 1) * room
        assert used <= self.tokens, "so much was reserved"
        kv_heads, head_dim = self._heads
        size, words = (slots + 1, kv_heads, room, head_dim), used * kv_heads * head_dim
        self.keys = [keys[:words].view(size) for keys, _ in self._memory]
        self.values = [values[:words].view(size) for _, values in self._memory]
        self.padding_slot = slots


def attend_decode(
    query: Tensor, keys: Tensor, values: Tensor, slots: list[int], spans: list[tuple[int, int, int]]
) -> Tensor:
    """Decode or verify sequences, each with (first row, end row, KV tokens including its own) and a slot.

    query: [tokens, heads, head_dim]; keys, values: one layer's cache. Heads that share a KV head lie side by side as rows,
    so that the cache is read once for all of them.
    """
    kv_heads, room = keys.shape[1], keys.shape[2]
    group = query.shape[1] // kv_heads
    out = torch.empty_like(query)
    for slot, (start, end, context) in zip(slots, spans, strict=True):
        width = end - start
        rows = query[start:end].view(width, kv_heads, group, -1).transpose(0, 1).reshape(1, kv_heads, width * group, -1)
        mask = None
        if width > 1:
            mask = _causal(width, group, room, query.dtype, query.device)[:, room - context :]
        found = F.scaled_dot_product_attention(
            rows, keys[slot, None, :, :context], values[slot, None, :, :context], mask
        )
        out[start:end] = found.view(kv_heads, width, group, -1).transpose(0, 1).reshape(width, kv_heads * group, -1)
    return out


def attend_prefill(
    query: Tensor, keys: Tensor, values: Tensor, slots: list[int], spans: list[tuple[int, int, int]]
) -> Tensor:
    """Prefill chunks, described as in `attend_decode`."""
    out = torch.empty_like(query)
    for slot, (start, end, context) in zip(slots, spans, strict=True):
        chunk = end - start
        rows = query[None, start:end].transpose(1, 2)
        past, heads = keys[slot, None, :, :context], values[slot, None, :, :context]
        plain = chunk == context  # the whole prompt at once: no mask to build
        found = F.scaled_dot_product_attention(
            rows, past, heads, None if plain else _last(chunk, context, keys), is_causal=plain, enable_gqa=True
        )
        out[start:end] = found[0].transpose(0, 1)
    return out


def _last(chunk: int, context: int, keys: Tensor) -> Tensor:
    """What the last `chunk` tokens of a context may see of it; on a GPU in the form that flash attention takes."""
    if keys.is_cuda:
        return causal_lower_right(chunk, context)
    room = keys.shape[2]
    return _causal(chunk, 1, room, keys.dtype, keys.device)[:, room - context :]


@lru_cache(maxsize=64)
def _causal(width: int, group: int, room: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What `width` query tokens, `group` rows each, may not see of the last `room` positions: [width * group, room]."""
    mask = torch.zeros(width, room, dtype=dtype, device=device)
    mask[:, room - width :] = torch.full((width, width), MASKED, dtype=dtype, device=device).triu(1)
    return mask.repeat_interleave(group, 0)
