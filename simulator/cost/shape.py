"""What a decoder's step time and memory depend on: its widths and counts, whole or as one GPU's share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from simulator.cost.attention import Latent, Linear
from simulator.cost.low_rank import Factors
from simulator.cost.precision import Operations, Quantised
from traces.errors import InputError

FloatArray = npt.NDArray[np.float64]

OVERHEAD_BYTES = 1.237e9
"""Activations, CUDA graphs and the CUDA context, as vLLM 0.19 kept for Llama-3.1-8B on an RTX 4090 at 2,048 batched tokens and
256 sequences (2,588 blocks at 0.9 of 25,250,627,584 bytes)."""


@dataclass(frozen=True)
class ModelShape:
    """Widths and counts of a decoder with gated feed-forwards, dense or of experts.

    Every layer attends to the whole context with grouped queries but for `windowed_layers`, which attend to the last `window`
    tokens, those with `linear` attention, and where `latent` says that what is cached is a latent: `kv_heads` and `head_dim`
    are then those of the latent as decoding uses it, one head of its rank and the rotary part. `bytes_per_parameter` is the
    width of activations, of weights that are not `quantised`, and of the low-rank `factors` beside them; `kv_element_bytes` that
    of a cached number, if it differs.

    Counts of parameters are exact for the families in `simulator.cost.model_config`; other architectures with the same
    fields may have norms and biases beside them (under 0.1 % of the parameters). Heads that predict further tokens (MTP)
    and towers for images are not counted.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied_embeddings: bool
    bytes_per_parameter: int
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0
    moe_layers: int = 0
    context_limit: int | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    shared_gate: bool = False
    window: int = 0
    windowed_layers: int = 0
    latent: Latent | None = None
    linear: Linear | None = None
    quantised: Quantised | None = None
    factors: Factors | None = None
    kv_element_bytes: int | None = None
    norms_per_layer: int = 2
    norm_all_heads: bool = False
    output_gate: bool = False
    sinks: bool = False
    router_bias: bool = False
    expert_bias: bool = False

    @property
    def dense_layers(self) -> int:
        """Layers whose feed-forward is one dense block."""
        return self.layers - self.moe_layers

    @property
    def cached_layers(self) -> int:
        """Layers that keep keys and values."""
        return self.layers - (self.linear.layers if self.linear else 0)

    @property
    def full_layers(self) -> int:
        """Layers that attend to the whole context."""
        return self.cached_layers - self.windowed_layers

    @property
    def expert_parameters(self) -> int:
        """Parameters of one routed expert in one layer."""
        biases = self.expert_bias * (2 * self.expert_intermediate + self.hidden)
        return 3 * self.hidden * self.expert_intermediate + biases

    @property
    def routed_parameters(self) -> int:
        """Parameters of all routed experts of all layers."""
        return self.moe_layers * self.experts * self.expert_parameters

    @property
    def attention_matrices(self) -> int:
        """Parameters of the projections of attention, all layers."""
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        one = self.hidden * ((2 + self.output_gate) * query + 2 * kv)
        if self.latent:
            one = self.latent.matrices(self.hidden, self.heads)
        linear = self.linear.layers * self.linear.matrices(self.hidden) if self.linear else 0
        return self.cached_layers * one + linear

    @property
    def feed_forward_matrices(self) -> int:
        """Parameters of the dense and the shared feed-forwards, all layers, biases left out."""
        return 3 * self.hidden * (self.dense_layers * self.intermediate + self.moe_layers * self.shared_intermediate)

    @property
    def parameters(self) -> int:
        """Parameters in all, a tied embedding once."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)
        matrices = self.attention_matrices + self.feed_forward_matrices + self.routed_parameters
        return matrices + self._small_parameters + embeddings + self.hidden

    @property
    def _small_parameters(self) -> int:
        """Parameters of norms, biases, sinks, routers and gates, all layers."""
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.qkv_bias * (query + 2 * kv) + self.output_bias * self.hidden + self.sinks * self.heads
        attention += self.qk_norm * (query + kv if self.norm_all_heads else 2 * self.head_dim)
        if self.latent:
            attention = self.latent.norms
        linear = self.linear.layers * self.linear.others(self.hidden) if self.linear else 0
        dense = self.mlp_bias * (2 * self.intermediate + self.hidden)
        beside_experts = self.hidden * (self.experts + self.shared_gate) + self.router_bias * self.experts
        layers = self.layers * self.norms_per_layer * self.hidden + self.cached_layers * attention + linear
        return layers + self.dense_layers * dense + self.moe_layers * beside_experts

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses: all but the experts it is not routed to."""
        unused = self.experts - self.experts_per_token
        return self.parameters - self.moe_layers * unused * self.expert_parameters

    @property
    def embedding_parameters(self) -> int:
        """Parameters of an input embedding that is not the output layer too; a step reads single rows of it."""
        return 0 if self.tied_embeddings else self.vocabulary * self.hidden

    @property
    def read_parameters(self) -> int:
        """Parameters read, and multiplied with, in each forward pass whatever the tokens: all but the routed experts."""
        return self.parameters - self.embedding_parameters - self.routed_parameters

    @property
    def quantised_read_parameters(self) -> float:
        """Those of them that are quantised."""
        if self.quantised is None:
            return 0.0
        return (
            self.quantised.attention * self.attention_matrices
            + self.quantised.feed_forward * self.feed_forward_matrices
        )

    @property
    def read_bytes(self) -> float:
        """Bytes read in each forward pass whatever the tokens: all weights but the routed experts'."""
        factors = self.factors.read_parameters if self.factors else 0
        return self._bytes(self.read_parameters + factors, self.quantised_read_parameters)

    @property
    def expert_bytes(self) -> float:
        """Bytes of one routed expert in one layer."""
        share = self.quantised.experts if self.quantised else 0.0
        factors = self.factors.expert_parameters if self.factors else 0
        return self._bytes(self.expert_parameters + factors, share * self.expert_parameters)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters."""
        embedding = self.embedding_parameters * self.bytes_per_parameter
        return round(self.read_bytes + self.moe_layers * self.experts * self.expert_bytes + embedding)

    def _bytes(self, parameters: int, quantised: float) -> float:
        saved = self.bytes_per_parameter - self.quantised.bytes_per_parameter if self.quantised else 0.0
        return parameters * self.bytes_per_parameter - quantised * saved

    @property
    def read_operations(self) -> dict[Operations, float]:
        """Operations of a query token by the arithmetic that does them: 2 a parameter; neither routed experts nor context."""
        factors = self.factors.read_parameters if self.factors else 0
        operations = self._operations(self.read_parameters + factors, self.quantised_read_parameters)
        operations["bf16"] += self.linear.token_operations if self.linear else 0
        return operations

    @property
    def routed_operations(self) -> dict[Operations, float]:
        """Operations of a query token in the experts that it is routed to, all layers, by the arithmetic that does them."""
        used = self.moe_layers * self.experts_per_token * self.expert_parameters
        factors = self.moe_layers * self.experts_per_token * self.factors.expert_parameters if self.factors else 0
        return self._operations(used + factors, self.quantised.experts * used if self.quantised else 0.0)

    def _operations(self, parameters: int, quantised: float) -> dict[Operations, float]:
        found: dict[Operations, float] = {"bf16": 2 * (parameters - quantised)}
        if self.quantised and quantised:
            found[self.quantised.operations] = found.get(self.quantised.operations, 0.0) + 2 * quantised
        return found

    @property
    def pair_operations(self) -> int:
        """Operations of one query token and one token of context in one layer: scores, then values."""
        return self.latent.pair_operations(self.heads) if self.latent else 4 * self.heads * self.head_dim

    def prompt_operations(self, pairs: FloatArray, before: FloatArray) -> FloatArray:
        """Operations of a prompt's chunk after `before` tokens in one layer, with so many query x context pairs.

        Latents are expanded to keys and values of every head, or absorbed where that is less.
        """
        absorbed = np.asarray(self.pair_operations * pairs)
        if self.latent is None:
            return absorbed
        return np.minimum(absorbed, self.latent.expanded_operations(self.heads, pairs, before))

    @property
    def kv_layer_bytes(self) -> int:
        """Bytes that one layer caches of one token."""
        values = self.latent.cached_values if self.latent else 2 * self.kv_heads * self.head_dim
        return values * (self.kv_element_bytes or self.bytes_per_parameter)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes cached of one token, all layers; an engine that drops what has left a window keeps less."""
        return self.cached_layers * self.kv_layer_bytes

    @property
    def state_bytes(self) -> int:
        """Bytes of the state that one sequence keeps in layers of linear attention, whatever its context."""
        return self.linear.state_bytes(self.bytes_per_parameter) if self.linear else 0

    def attended(self, context_tokens: npt.ArrayLike) -> FloatArray:
        """Tokens that a query token attends to at this context, summed over layers."""
        context = np.asarray(context_tokens, dtype=np.float64)
        return np.asarray(self.full_layers * context + self.windowed_layers * np.minimum(context, self.window))

    def expected_experts(self, tokens: npt.ArrayLike) -> FloatArray:
        """Different experts of one layer that this many tokens touch on average, if all are equally likely.

        E (1 - (1 - k/E)^n) for n tokens that choose k of E experts each. Real routing is uneven and touches fewer.
        """
        count = np.asarray(tokens, dtype=np.float64)
        missed = 1 - self.experts_per_token / self.experts if self.experts else 1.0
        return np.asarray(self.experts * (1 - missed**count))

    def shard(self, tp: int) -> ModelShape:
        """Shape of what one of `tp` GPUs holds under tensor parallelism; `parameters` and the others are then per GPU.

        Heads, feed-forwards, experts and vocabulary are divided; router and norms are copied, and so are latents, and KV
        heads when there are fewer than GPUs. Raises InputError where engines refuse: a width that `tp` does not divide.
        """
        if isinstance(tp, bool) or not isinstance(tp, int) or tp < 1:
            raise InputError(f"tp = {tp!r}: the tensor-parallel size is an integer >= 1")
        if tp > self.kv_heads and tp % self.kv_heads:
            raise InputError(f"tp = {tp}: {self.kv_heads} KV heads cannot be copied evenly; use a multiple of them")

        def part(what: str, whole: int) -> int:
            if whole % tp:
                raise InputError(f"tp = {tp} does not divide {what} = {whole}: use a divisor of it")
            return whole // tp

        if self.linear:
            part("heads of linear attention", self.linear.key_heads)
            part("heads of linear attention", self.linear.value_heads)
        held = replace(
            self,
            heads=part("attention heads", self.heads),
            kv_heads=1 if tp > self.kv_heads else part("KV heads", self.kv_heads),
            intermediate=part("intermediate size", self.intermediate),
            expert_intermediate=part("expert intermediate size", self.expert_intermediate),
            shared_intermediate=part("shared expert intermediate size", self.shared_intermediate),
            vocabulary=-(-self.vocabulary // tp),
            linear=self.linear and self.linear.shard(tp),
        )
        return replace(held, factors=self.factors.held(self, held)) if self.factors else held

    def num_gpu_blocks(
        self,
        memory_bytes: float,
        gpu_memory_utilization: float = 0.9,
        block_size: int = 16,
        tp: int = 1,
        overhead_bytes: float = OVERHEAD_BYTES,
        max_num_seqs: int = 0,
        ranks: int = 1,
    ) -> int:
        """KV blocks of `block_size` tokens that fit on each of `tp` GPUs beside the weights, as vLLM counts them.

        The states and, if that leaves more blocks, the windows of `max_num_seqs` sequences are held beside the blocks, which
        are then those of the layers that see the whole context; else every layer that caches keeps every token.
        One of them is vLLM's null block. `memory_bytes` is what CUDA reports for one GPU. So many data-parallel `ranks` share
        the routed experts.
        Raises InputError for an impossible setting, or if fewer than two blocks fit.
        """
        for name, value, most in (
            ("memory_bytes", memory_bytes, np.inf),
            ("gpu_memory_utilization", gpu_memory_utilization, 1.0),
            ("block_size", block_size, np.inf),
        ):
            if not (0 < value <= most and np.isfinite(value)):
                limit = "" if most == np.inf else f" and <= {most:g}"
                raise InputError(f"{name} = {value!r}: give a number > 0{limit}")
        if not 0 <= overhead_bytes < np.inf:
            raise InputError(f"overhead_bytes = {overhead_bytes!r}: give a number >= 0")
        held = self.shard(tp)
        weight_bytes = held.weight_bytes - held.moe_layers * held.experts * held.expert_bytes * (ranks - 1) / ranks
        free_bytes = memory_bytes * gpu_memory_utilization - weight_bytes - overhead_bytes
        free_bytes -= max_num_seqs * held.state_bytes
        blocks = int(free_bytes // (block_size * held.kv_bytes_per_token))
        if held.windowed_layers and held.full_layers and max_num_seqs:
            windows_bytes = max_num_seqs * held.windowed_layers * (held.window + block_size) * held.kv_layer_bytes
            beside = (free_bytes - windows_bytes) // (block_size * held.full_layers * held.kv_layer_bytes)
            blocks = max(blocks, int(beside))
        if blocks < 2:
            raise InputError(
                f"memory_bytes = {memory_bytes:.4g} at gpu_memory_utilization = {gpu_memory_utilization:g}: "
                f"{weight_bytes:.4g} bytes of weights and {overhead_bytes:.4g} of overhead leave no room for KV "
                f"blocks at tp = {tp}; use a larger tp or GPU"
            )
        return blocks
