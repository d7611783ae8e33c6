"""The policy: a decoder-only transformer with rotary positions and grouped-query attention, as functions of its weights.

Written out rather than taken from a library so that the two forward passes, over whole sequences and token by token with
a KV cache, stand side by side and can be held to each other.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as nn

from calibration.rl.vocabulary import VOCABULARY

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Sizes of the transformer; `heads` query heads share `kv_heads` heads of keys and values."""

    layers: int = 4
    d_model: int = 128
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    d_hidden: int = 512
    rotary_base: float = 10_000.0


def fresh(shape: Shape, seed: int) -> Weights:
    """Random weights: normal, scaled by fan-in, and smaller where they write to the residual stream."""
    random = torch.Generator().manual_seed(seed)
    d, kv, q = shape.d_model, shape.kv_heads * shape.head_dim, shape.heads * shape.head_dim

    def normal(rows: int, columns: int, scale: float = 1.0) -> Tensor:
        return torch.randn(rows, columns, generator=random) * (scale / math.sqrt(rows))

    quiet = 1 / math.sqrt(2 * shape.layers)
    weights = {"embedding": torch.randn(VOCABULARY, d, generator=random) * 0.02}
    for layer in range(shape.layers):
        weights |= {
            f"{layer}.norm_attention": torch.ones(d),
            f"{layer}.qkv": normal(d, q + 2 * kv),
            f"{layer}.out": normal(q, d, quiet),
            f"{layer}.norm_hidden": torch.ones(d),
            f"{layer}.up": normal(d, shape.d_hidden),
            f"{layer}.down": normal(shape.d_hidden, d, quiet),
        }
    return weights | {"norm": torch.ones(d), "head": normal(d, VOCABULARY)}


def logits(weights: Weights, shape: Shape, tokens: Tensor) -> Tensor:
    """Logits of every next token: tokens int64[batch, length] to float32[batch, length, VOCABULARY].

    A position sees those before it alone, so padding at the end changes nothing that comes before.
    """
    angles = rotary_angles(shape, torch.arange(tokens.shape[1], device=tokens.device))
    x = nn.embedding(tokens, weights["embedding"])
    for layer in range(shape.layers):
        query, key, value = _qkv(weights, shape, layer, x, angles)
        mixed = nn.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        x = _finish_layer(weights, layer, x, mixed.transpose(1, 2).flatten(2))
    return _head(weights, x)


@dataclass
class Cache:
    """Keys and values of the live sequences: float32[layers, 2, batch, kv_heads, room, head_dim], `used` of the room."""

    entries: Tensor
    used: int = 0


def empty_cache(shape: Shape, batch: int, room: int, device: str = "cpu") -> Cache:
    """A cache with room for so many positions of each sequence."""
    return Cache(torch.zeros(shape.layers, 2, batch, shape.kv_heads, room, shape.head_dim, device=device))


def next_logits(weights: Weights, shape: Shape, tokens: Tensor, cache: Cache) -> Tensor:
    """Logits after one more token of each sequence: int64[batch] to float32[batch, VOCABULARY]; enters it in the cache."""
    angles = rotary_angles(shape, torch.tensor([cache.used], device=tokens.device))
    at, shared = cache.used, shape.heads // shape.kv_heads
    x = nn.embedding(tokens, weights["embedding"])[:, None]
    for layer in range(shape.layers):
        query, key, value = _qkv(weights, shape, layer, x, angles)
        keys, values = cache.entries[layer]
        keys[:, :, at] = key[:, :, 0]
        values[:, :, at] = value[:, :, 0]
        # The query heads that share keys are the rows of one small matrix product.
        grouped = query.reshape(-1, shape.kv_heads, shared, shape.head_dim)
        scores = grouped @ keys[:, :, : at + 1].transpose(2, 3) / math.sqrt(shape.head_dim)
        mixed = scores.softmax(-1) @ values[:, :, : at + 1]
        x = _finish_layer(weights, layer, x, mixed.reshape(-1, 1, shape.heads * shape.head_dim))
    cache.used += 1
    return _head(weights, x)[:, 0]


def rotary_angles(shape: Shape, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines by which positions turn pairs of dimensions: two of float32[positions, head_dim]."""
    half = shape.head_dim // 2
    rates = shape.rotary_base ** (-torch.arange(half, device=positions.device) / half)
    angles = positions[:, None].float() * rates
    return torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)


def _qkv(
    weights: Weights, shape: Shape, layer: int, x: Tensor, angles: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, [batch, heads or kv_heads, length, head_dim]; the first two turned by position."""
    normed = _norm(x, weights[f"{layer}.norm_attention"])
    both = shape.heads + shape.kv_heads
    split = (normed @ weights[f"{layer}.qkv"]).view(*x.shape[:2], -1, shape.head_dim).transpose(1, 2)
    turned, value = _turn(split[:, :both], angles), split[:, both:]
    return turned[:, : shape.heads], turned[:, shape.heads :], value


def _turn(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = angles
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat([-second, first], -1) * sine


def _finish_layer(weights: Weights, layer: int, x: Tensor, mixed: Tensor) -> Tensor:
    x = x + mixed @ weights[f"{layer}.out"]
    hidden = nn.relu(_norm(x, weights[f"{layer}.norm_hidden"]) @ weights[f"{layer}.up"])
    return x + hidden @ weights[f"{layer}.down"]


def _norm(x: Tensor, scale: Tensor) -> Tensor:
    return nn.layer_norm(x, scale.shape, scale)


def _head(weights: Weights, x: Tensor) -> Tensor:
    return _norm(x, weights["norm"]) @ weights["head"]
