"""Attention that is not grouped-query attention: a latent that all heads share, and a state in place of keys and values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): what is cached is one latent and one rotary key a token.

    `query_rank` is 0 where queries are not compressed. Decoding absorbs the up-projections: every head's query meets the
    latent itself, which serves as key and as value.
    """

    query_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int

    def projections(self, hidden: int, heads: int) -> list[tuple[int, int]]:
        """Inputs and outputs of the projections of one layer: queries, latents, keys and values from them, output."""
        query_dim, kv_dim = heads * (self.nope_dim + self.rope_dim), heads * (self.nope_dim + self.value_dim)
        compressed = [(hidden, self.query_rank), (self.query_rank, query_dim)]
        queries = compressed if self.query_rank else [(hidden, query_dim)]
        latents = [(hidden, self.kv_rank + self.rope_dim), (self.kv_rank, kv_dim)]
        return [*queries, *latents, (heads * self.value_dim, hidden)]

    def matrices(self, hidden: int, heads: int) -> int:
        """Parameters of the projections of one layer."""
        return sum(inputs * outputs for inputs, outputs in self.projections(hidden, heads))

    @property
    def norms(self) -> int:
        """Parameters of the norms of the compressed queries and of the latents."""
        return self.query_rank + self.kv_rank

    @property
    def cached_values(self) -> int:
        """Numbers cached of one token in one layer, whatever the heads."""
        return self.kv_rank + self.rope_dim

    def pair_operations(self, heads: int) -> int:
        """Operations of one query token and one token of context in one layer, absorbed: scores, then values."""
        return 2 * heads * (self.cached_values + self.kv_rank)

    def expanded_operations(self, heads: int, pairs: FloatArray, before: FloatArray) -> FloatArray:
        """Operations of a prompt's chunk in one layer, with keys and values made anew of the `before` tokens cached.

        Those of the chunk itself are among the projections.
        """
        per_pair = 2 * heads * (self.nope_dim + self.rope_dim + self.value_dim)
        return np.asarray(per_pair * pairs + 2 * self.kv_rank * heads * (self.nope_dim + self.value_dim) * before)


@dataclass(frozen=True)
class Linear:
    """Layers of gated delta-rule attention (arXiv 2412.06464, as in Qwen3-Next): a state per sequence, whatever the context.

    `state_element_bytes` is the width of the recurrent state; that of the convolution has the activations'.
    """

    layers: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int
    state_element_bytes: int

    @property
    def _widths(self) -> tuple[int, int]:
        return self.key_heads * self.key_dim, self.value_heads * self.value_dim

    def projections(self, hidden: int) -> list[tuple[int, int]]:
        """Inputs and outputs of the projections of one layer: queries, keys, values and the output's gate; the output."""
        keys, values = self._widths
        return [(hidden, 2 * keys + 2 * values), (values, hidden)]

    def matrices(self, hidden: int) -> int:
        """Parameters of the projections of one layer."""
        return sum(inputs * outputs for inputs, outputs in self.projections(hidden))

    def others(self, hidden: int) -> int:
        """Parameters of one layer beside them: decay and beta of each head, convolution, and the norm of the output."""
        keys, values = self._widths
        return 2 * hidden * self.value_heads + (2 * keys + values) * self.kernel + 2 * self.value_heads + self.value_dim

    def state_bytes(self, activation_bytes: int) -> int:
        """Bytes of the state of one sequence, all these layers."""
        keys, values = self._widths
        recurrent = self.value_heads * self.key_dim * self.value_dim * self.state_element_bytes
        return self.layers * (recurrent + (self.kernel - 1) * (2 * keys + values) * activation_bytes)

    @property
    def token_operations(self) -> int:
        """Operations of one query token on the states, all these layers: read by its key, update, read by its query."""
        return self.layers * 3 * 2 * self.value_heads * self.key_dim * self.value_dim

    def shard(self, tp: int) -> Linear:
        """One GPU's share; `tp` divides both numbers of heads."""
        return replace(self, key_heads=self.key_heads // tp, value_heads=self.value_heads // tp)
