"""Attention in plain torch, one sequence at a time: what every attention path is held to."""

import numpy as np
import numpy.typing as npt
import torch

Int32 = npt.NDArray[np.int32]


def plain_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: Int32,
    query_starts: Int32,
    context_tokens: Int32,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """Causal attention of ragged query tokens over a static KV cache, computed in `dtype`.

    `query` is [tokens, heads, head_dim]; `keys` and `values` are [slots, kv_heads, room, head_dim]; sequence i has rows
    query_starts[i] : query_starts[i + 1] of the query, which are the last of its context_tokens[i] tokens in cache slot
    slots[i]. Head h reads KV head h // (heads // kv_heads). Returns [tokens, heads, head_dim] in `dtype`; zeros for
    tokens of no sequence.
    """
    heads, head_dim = query.shape[1:]
    group = heads // keys.shape[1]
    out = torch.zeros(query.shape, dtype=dtype, device=query.device)
    sequences = zip(
        slots.tolist(), query_starts[:-1].tolist(), query_starts[1:].tolist(), context_tokens.tolist(), strict=True
    )
    for slot, start, stop, context in sequences:
        seen = keys[slot, :, :context].to(dtype).repeat_interleave(group, dim=0)  # [heads, context, head_dim]
        carried = values[slot, :, :context].to(dtype).repeat_interleave(group, dim=0)
        scores = torch.einsum("qhd,hkd->hqk", query[start:stop].to(dtype), seen) * head_dim**-0.5
        last = torch.arange(
            context - (stop - start), context, device=query.device
        )  # the last position that a query sees
        future = torch.arange(context, device=query.device)[None, :] > last[:, None]
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
        out[start:stop] = torch.einsum("hqk,hkd->qhd", weights, carried)
    return out
