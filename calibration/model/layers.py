"""What a decoder layer does besides attention, a function each; shapes in the docstrings."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from calibration.model.weights import Experts, FeedForward

EPSILON = 1e-6
ROPE_BASE = 1e6


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Root-mean-square norm over the last axis."""
    return F.rms_norm(x, (x.shape[-1],), weight, EPSILON)


def rope_table(room: int, head_dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Cosines and sines of rotary embedding by position, [room, 2, head_dim / 2]."""
    rates = ROPE_BASE ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.arange(room, dtype=torch.float64)[:, None] * rates
    return torch.stack([angles.cos(), angles.sin()], 1).to(device, dtype)


def add_norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Normed sum of x and residual, and the sum itself; all [tokens, hidden]."""
    total = x + residual
    return rms_norm(total, weight), total


def turn_append(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    turns: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    positions: Tensor,
) -> Tensor:
    """Split, norm (where there are weights of queries and keys) and rotate; append keys and values to a layer's cache.

    qkv: [tokens, (heads + 2 x kv_heads) x head_dim]; turns: a row of `rope_table` for each token; keys, values: [slots, kv_heads,
    room, head_dim]; slots, positions: [tokens]. Returns queries, [tokens, heads, head_dim].
    """
    kv_heads, head_dim = keys.shape[1], keys.shape[3]
    heads = qkv.view(qkv.shape[0], -1, head_dim)
    query, fresh, there = torch.split(heads, [heads.shape[1] - 2 * kv_heads, kv_heads, kv_heads], 1)
    if norms is not None:
        query, fresh = rms_norm(query, norms[0]), rms_norm(fresh, norms[1])
    keys[slots, :, positions] = rotate(fresh, turns)
    values[slots, :, positions] = there
    return rotate(query, turns)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary embedding of x [tokens, heads, head_dim] by rows of `rope_table`, [tokens, 2, head_dim / 2]."""
    cosine, sine = turns[:, None, 0], turns[:, None, 1]
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def gated(both: Tensor) -> Tensor:
    """SwiGLU of gate and up side by side, [tokens, 2 x width] to [tokens, width]."""
    gate, up = both.chunk(2, -1)
    return F.silu(gate) * up


class Kernels(NamedTuple):
    """What a layer does between its products, in plain torch or fused: `add_norm`, `turn_append` and `gated`."""

    add_norm: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    turn_append: Callable[[Tensor, tuple[Tensor, Tensor] | None, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    gated: Callable[[Tensor], Tensor]


PLAIN = Kernels(add_norm, turn_append, gated)


def feed_forward(x: Tensor, weights: FeedForward, kernels: Kernels = PLAIN) -> Tensor:
    """Gated feed-forward of x [tokens, hidden]."""
    both = F.linear(x, weights.gate_up, weights.gate_up_bias)
    return F.linear(kernels.gated(both), weights.down, weights.down_bias)


def route(x: Tensor, weights: Experts) -> tuple[Tensor, Tensor]:
    """Each token's experts and how much they count: ([tokens, per_token] weights summing to 1, [tokens, per_token])."""
    scores = F.linear(x, weights.router).float().softmax(-1)
    share, chosen = scores.topk(weights.per_token, -1)
    return (share / share.sum(-1, keepdim=True)).to(x.dtype), chosen


def experts(x: Tensor, weights: Experts, kernels: Kernels = PLAIN) -> Tensor:
    """Mixture of experts of x [tokens, hidden]: tokens sorted by expert, one grouped product over all experts."""
    share, chosen = route(x, weights)
    order = chosen.flatten().argsort(stable=True)
    bounds = torch.arange(weights.router.shape[0], device=x.device)
    ends = torch.searchsorted(chosen.flatten()[order], bounds, right=True).to(torch.int32)
    token = order // weights.per_token
    both = _grouped(x[token], weights.gate_up, ends)
    out = _grouped(kernels.gated(both), weights.down, ends) * share.flatten()[order, None]
    total = torch.zeros_like(x).index_add_(0, token, out)
    if weights.shared is not None:
        shared = feed_forward(x, weights.shared, kernels)
        total += shared if weights.shared_gate is None else shared * F.linear(x, weights.shared_gate).sigmoid()
    return total


def _grouped(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Rows up to ends[e] from ends[e - 1] on times expert e's weights [experts, out, in]."""
    if x.is_cuda:
        grouped: Tensor = torch._grouped_mm(x, weights.transpose(-2, -1), offs=ends)
        return grouped
    out = x.new_empty(x.shape[0], weights.shape[1])
    start = 0
    for expert, end in enumerate(ends.tolist()):
        if end > start:
            torch.mm(x[start:end], weights[expert].T, out=out[start:end])
            start = end
    return out


def sample(logits: Tensor, draw: torch.Generator | None) -> Tensor:
    """One token for each row of logits [rows, vocabulary], at temperature 1: exponential noise and the largest ratio."""
    shares = logits.float().softmax(-1)
    return shares.div_(torch.empty_like(shares).exponential_(generator=draw)).argmax(-1)


def accepted(sampled: Tensor, following: Tensor, first: Tensor) -> Tensor:
    """Whether the draft after each row holds, bool[rows]: it equals what was sampled, and so do all before it.

    following: the draft after each row, -1 after a sequence's last; first: the row of its sequence's first token.
    """
    wrong = sampled != following
    count = wrong.cumsum(0)
    before = (count - wrong.long())[first]
    return count == before
