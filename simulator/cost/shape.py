"""What a decoder's step time and memory depend on: its widths and counts, whole or as one GPU's share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from traces.errors import InputError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ModelShape:
    """Widths and counts of a decoder with grouped-query attention and gated feed-forwards, dense or of experts.

    Counts of parameters are exact for Llama, Mistral, Mixtral, Qwen2, Qwen3 and their MoE; other architectures with the
    same fields may have norms and biases beside them (under 0.1 % of the parameters).
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

    @property
    def dense_layers(self) -> int:
        """Layers whose feed-forward is one dense block."""
        return self.layers - self.moe_layers

    @property
    def expert_parameters(self) -> int:
        """Parameters of one routed expert in one layer."""
        return 3 * self.hidden * self.expert_intermediate

    @property
    def routed_parameters(self) -> int:
        """Parameters of all routed experts of all layers."""
        return self.moe_layers * self.experts * self.expert_parameters

    @property
    def parameters(self) -> int:
        """Parameters in all, a tied embedding once."""
        query, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.hidden * (query + kv) + self.qkv_bias * (query + 2 * kv) + self.output_bias * self.hidden
        norms = 2 * self.hidden + self.qk_norm * 2 * self.head_dim
        dense = 3 * self.hidden * self.intermediate + self.mlp_bias * (2 * self.intermediate + self.hidden)
        beside_experts = self.hidden * (self.experts + 3 * self.shared_intermediate + self.shared_gate)
        embeddings = self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)
        layers = self.layers * (attention + norms) + self.dense_layers * dense + self.moe_layers * beside_experts
        return layers + self.routed_parameters + embeddings + self.hidden

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
    def weight_bytes(self) -> int:
        """Bytes of all parameters."""
        return self.parameters * self.bytes_per_parameter

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token, all layers, in the weights' precision."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_parameter

    def expected_experts(self, tokens: npt.ArrayLike) -> FloatArray:
        """Different experts of one layer that this many tokens touch on average, if all are equally likely.

        E (1 - (1 - k/E)^n) for n tokens that choose k of E experts each. Real routing is uneven and touches fewer.
        """
        count = np.asarray(tokens, dtype=np.float64)
        missed = 1 - self.experts_per_token / self.experts if self.experts else 1.0
        return np.asarray(self.experts * (1 - missed**count))

    def shard(self, tp: int) -> ModelShape:
        """Shape of what one of `tp` GPUs holds under tensor parallelism; `parameters` and the others are then per GPU.

        Heads, feed-forwards, experts and vocabulary are divided; router and norms are copied, and so are KV heads when
        there are fewer than GPUs. Raises InputError where engines refuse: a width that `tp` does not divide.
        """
        if isinstance(tp, bool) or not isinstance(tp, int) or tp < 1:
            raise InputError(f"tp = {tp!r}: the tensor-parallel size is an integer >= 1")
        if tp > self.kv_heads and tp % self.kv_heads:
            raise InputError(f"tp = {tp}: {self.kv_heads} KV heads cannot be copied evenly; use a multiple of them")

        def part(what: str, whole: int) -> int:
            if whole % tp:
                raise InputError(f"tp = {tp} does not divide {what} = {whole}: use a divisor of it")
            return whole // tp

        return replace(
            self,
            heads=part("attention heads", self.heads),
            kv_heads=1 if tp > self.kv_heads else part("KV heads", self.kv_heads),
            intermediate=part("intermediate size", self.intermediate),
            expert_intermediate=part("expert intermediate size", self.expert_intermediate),
            shared_intermediate=part("shared expert intermediate size", self.shared_intermediate),
            vocabulary=-(-self.vocabulary // tp),
        )

    def num_gpu_blocks(
        self,
        memory_bytes: float,
        gpu_memory_utilization: float = 0.9,
        block_size: int = 16,
        tp: int = 1,
        overhead_bytes: float = 1.237e9,
    ) -> int:
        """KV blocks of `block_size` tokens that fit on each of `tp` GPUs beside the weights, as vLLM counts them.

        One of them is vLLM's null block. `memory_bytes` is what CUDA reports for one GPU, `overhead_bytes` activations,
        CUDA graphs and the CUDA context: 1.237 GB is what vLLM 0.19 kept for Llama-3.1-8B on an RTX 4090 at 2,048
        batched tokens and 256 sequences (2,588 blocks at 0.9 of 25,250,627,584 bytes).
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
        free_bytes = memory_bytes * gpu_memory_utilization - held.weight_bytes - overhead_bytes
        blocks = int(free_bytes // (block_size * held.kv_bytes_per_token))
        if blocks < 2:
            raise InputError(
                f"memory_bytes = {memory_bytes:.4g} at gpu_memory_utilization = {gpu_memory_utilization:g}: "
                f"{held.weight_bytes:.4g} bytes of weights and {overhead_bytes:.4g} of overhead leave no room for KV "
                f"blocks at tp = {tp}; use a larger tp or GPU"
            )
        return blocks
