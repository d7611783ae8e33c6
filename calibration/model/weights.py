"""Random weights of a model's shape: the clock does not care what they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simulator.cost.shape import ModelShape

Dtype = torch.dtype


@dataclass(frozen=True, eq=False)
class FeedForward:
    """Gate and up projections in one matrix, and down: [2 x intermediate, hidden], [hidden, intermediate]."""

    gate_up: Tensor
    down: Tensor
    gate_up_bias: Tensor | None = None
    down_bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Experts:
    """Router [experts, hidden]; gate_up [experts, 2 x intermediate, hidden]; down [experts, hidden, intermediate].

    shared: an expert that every token goes through; shared_gate [1, hidden]: what weighs it.
    """

    router: Tensor
    gate_up: Tensor
    down: Tensor
    per_token: int
    shared: FeedForward | None = None
    shared_gate: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Layer:
    """One decoder layer; qkv is [(heads + 2 x kv_heads) x head_dim, hidden], o its way back."""

    input_norm: Tensor
    qkv: Tensor
    o: Tensor
    post_norm: Tensor
    mlp: FeedForward | Experts
    qkv_bias: Tensor | None = None
    o_bias: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Weights:
    """Embedding [vocabulary, hidden], layers, final norm, output layer (the embedding itself where they are tied)."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    lm_head: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor once."""
        found = {id(t): t for t in (self.embedding, self.norm, self.lm_head)}
        stack: list[object] = list(self.layers)
        while stack:
            value = stack.pop()
            if isinstance(value, Tensor):
                found[id(value)] = value
            elif hasattr(value, "__dataclass_fields__"):
                stack += [getattr(value, name) for name in value.__dataclass_fields__]
        return list(found.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(t.numel() * t.element_size() for t in self.tensors)


def random_weights(shape: ModelShape, dtype: Dtype, device: torch.device, seed: int = 0) -> Weights:
    """Normal weights scaled so that activations stay near 1; norms are 1, biases 0."""
    draw = torch.Generator(device).manual_seed(seed)

    def matrix(*size: int) -> Tensor:
        weights = torch.empty(size, dtype=dtype, device=device)
        return weights.normal_(0.0, size[-1] ** -0.5, generator=draw)

    def ones(width: int) -> Tensor:
        return torch.ones(width, dtype=dtype, device=device)

    def zeros(width: int, wanted: bool) -> Tensor | None:
        return torch.zeros(width, dtype=dtype, device=device) if wanted else None

    query, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

    def feed_forward(width: int, bias: bool = False) -> FeedForward:
        return FeedForward(
            matrix(2 * width, shape.hidden), matrix(shape.hidden, width), zeros(2 * width, bias), zeros(shape.hidden, bias)
        )  # fmt: skip

    def experts() -> Experts:
        width = shape.shared_intermediate
        return Experts(
            matrix(shape.experts, shape.hidden),
            matrix(shape.experts, 2 * shape.expert_intermediate, shape.hidden),
            matrix(shape.experts, shape.hidden, shape.expert_intermediate),
            shape.experts_per_token,
            feed_forward(width) if width else None,
            matrix(1, shape.hidden) if shape.shared_gate else None,
        )

    layers = tuple(
        Layer(
            ones(shape.hidden),
            matrix(query + 2 * kv, shape.hidden),
            matrix(shape.hidden, query),
            ones(shape.hidden),
            feed_forward(shape.intermediate, shape.mlp_bias) if number < shape.dense_layers else experts(),
            zeros(query + 2 * kv, shape.qkv_bias),
            zeros(shape.hidden, shape.output_bias),
            ones(shape.head_dim) if shape.qk_norm else None,
            ones(shape.head_dim) if shape.qk_norm else None,
        )
        for number in range(shape.layers)
    )
    embedding = matrix(shape.vocabulary, shape.hidden)
    lm_head = embedding if shape.tied_embeddings else matrix(shape.vocabulary, shape.hidden)
    return Weights(embedding, layers, ones(shape.hidden), lm_head)
