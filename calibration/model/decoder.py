"""The forward pass of a decoder over a ragged batch, from token ids to sampled tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from calibration.model.attention import KVCache, attend_decode, attend_prefill
from calibration.model.layers import PLAIN, Kernels, experts, feed_forward, rms_norm, rope_table
from calibration.model.weights import FeedForward, Layer, random_weights
from simulator.cost.shape import ModelShape

Spans = list[tuple[int, int, int]]


class DecodeKernel(Protocol):
    """Attention of sequences that decode, planned for a whole batch before the first layer."""

    def run(self, query: Tensor, keys: Tensor, values: Tensor, out: Tensor) -> Tensor:
        """Attend; query and out: [tokens, heads, head_dim], keys and values: one layer's cache."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """A batch on the device. int64[total]: tokens, positions, KV slot of each token, the draft that follows it (-1: none) and the
    first row of its sequence; sampled: rows whose logits are sampled.

    decode_spans, prefill_spans and the slots beside them say where sequences lie, `attend_decode` how; kernel: what attends
    for those that decode instead, over the first `decode_tokens` rows.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    following: Tensor
    first: Tensor
    sampled: Tensor
    decode_tokens: int
    decode_spans: Spans
    decode_slots: list[int]
    prefill_spans: Spans
    prefill_slots: list[int]
    kernel: DecodeKernel | None = None


class Decoder:
    """A decoder of a model's shape with random weights and a KV cache of `slots` sequences of up to `room` tokens each.

    positions: how many the rotary embedding knows; `room` unless the cache is going to be laid out anew. kernels: what layers do
    between their products.
    """

    @torch.inference_mode()  # the weights too: operations on other tensors are dispatched more slowly
    def __init__(
        self, shape: ModelShape, dtype: torch.dtype, device: torch.device, slots: int, room: int, seed: int = 0,
        positions: int | None = None, kernels: Kernels = PLAIN,
    ) -> None:  # fmt: skip
        self.shape, self.dtype, self.device, self.kernels = shape, dtype, device, kernels
        self.weights = random_weights(shape, dtype, device, seed)
        self.cache = KVCache(shape.layers, slots, shape.kv_heads, room, shape.head_dim, dtype, device)
        self.turns = rope_table(positions or room, shape.head_dim, device, dtype)

    def logits(self, inputs: Inputs) -> Tensor:
        """Run the forward pass: logits [sampled rows, vocabulary]."""
        return self.project(self.hidden(inputs)[inputs.sampled])

    def hidden(self, inputs: Inputs) -> Tensor:
        """What the last layer leaves, normed, [tokens, hidden]; keys and values are appended to the cache on the way."""
        total = self.embed(inputs.tokens)
        turns = self.turns[inputs.positions]
        x = rms_norm(total, self.weights.layers[0].input_norm)
        following = [*(layer.input_norm for layer in self.weights.layers[1:]), self.weights.norm]
        for number, layer in enumerate(self.weights.layers):
            qkv = F.linear(x, layer.qkv, layer.qkv_bias)
            query = self.turn_append(number, qkv, turns, inputs.slots, inputs.positions)
            attended = self.attend(number, query, inputs)
            x, total = self.kernels.add_norm(self.output(layer, attended), total, layer.post_norm)
            x, total = self.kernels.add_norm(self.mlp(layer, x), total, following[number])
        return x

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the embedding, [tokens, hidden]."""
        return F.embedding(tokens, self.weights.embedding)

    def turn_append(self, number: int, qkv: Tensor, turns: Tensor, slots: Tensor, positions: Tensor) -> Tensor:
        """Queries of a layer, normed and rotated; its keys and values go to the cache."""
        layer = self.weights.layers[number]
        norms = None if layer.q_norm is None or layer.k_norm is None else (layer.q_norm, layer.k_norm)
        keys, values = self.cache.keys[number], self.cache.values[number]
        return self.kernels.turn_append(qkv, norms, turns, keys, values, slots, positions)

    def attend(self, number: int, query: Tensor, inputs: Inputs) -> Tensor:
        """Attention of every sequence over its cache and itself, [tokens, heads, head_dim]."""
        keys, values = self.cache.keys[number], self.cache.values[number]
        if inputs.kernel is None and not inputs.prefill_spans:
            return attend_decode(query, keys, values, inputs.decode_slots, inputs.decode_spans)
        out = torch.empty_like(query)
        split = inputs.decode_tokens
        if inputs.kernel is not None:
            inputs.kernel.run(query[:split], keys, values, out[:split])
        elif split:
            out[:split] = attend_decode(query[:split], keys, values, inputs.decode_slots, inputs.decode_spans)
        if inputs.prefill_spans:
            out[split:] = attend_prefill(query[split:], keys, values, inputs.prefill_slots, inputs.prefill_spans)
        return out

    def output(self, layer: Layer, attended: Tensor) -> Tensor:
        """Attention's output projection, [tokens, hidden]."""
        return F.linear(attended.flatten(1), layer.o, layer.o_bias)

    def mlp(self, layer: Layer, x: Tensor) -> Tensor:
        """Feed-forward or experts, [tokens, hidden]."""
        run = feed_forward if isinstance(layer.mlp, FeedForward) else experts
        return run(x, layer.mlp, self.kernels)  # type: ignore[arg-type]

    def project(self, hidden: Tensor) -> Tensor:
        """Output layer: logits [rows, vocabulary]."""
        return F.linear(hidden, self.weights.lm_head)
