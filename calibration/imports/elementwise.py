"""What the kernels between the measured ones cost, where nobody measured them: estimates from the bytes that they move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.cost.operators import Affine, Table, row
from simulator.cost.shape import ModelShape

Float64 = npt.NDArray[np.float64]

ESTIMATE = "(estimate)"
"""Ends the name of an operator that was not measured."""
SAMPLER_KERNELS, SAMPLER_BYTES_PER_LOGIT = 8, 8
"""Measured by LLMServingSim on an RTX 4090 and an RTX PRO 6000: 10 to 25 us for one sequence; 5 to 8 bytes a logit."""


@dataclass(frozen=True)
class MemoryKernel:
    """How long a kernel takes that only moves bytes: a latency, and the bytes over a share of the bandwidth."""

    bytes_per_s: float
    latency_s: float

    def operator(self, name: str, feature: str, moved_bytes: float, kernels: int, repeat: int = 1) -> Affine:
        """`kernels` of them that together move so many bytes per unit of the feature."""
        seconds = {"constant": kernels * self.latency_s, feature: moved_bytes / self.bytes_per_s}
        return Affine(f"{name} {ESTIMATE}", row(**seconds), repeat)


def elementwise(shape: ModelShape, memory: MemoryKernel) -> list[Affine]:
    """Norms, rotary embedding, writing the KV cache, activation and embedding of one GPU's share of a model.

    Each reads and writes its operands once. Activations that stay in the cache are faster, which is not counted.
    """
    width, query, kv = shape.bytes_per_parameter, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norm = 4 * shape.hidden * width  # reads input and residual, writes their sum and the normalised
    operators = [
        memory.operator("layernorm", "padded_tokens", norm, 1, shape.norms_per_layer * shape.layers),
        memory.operator("rotary_emb", "padded_tokens", 2 * (query + kv) * width, 1, shape.cached_layers),
        memory.operator("kv_write", "padded_tokens", 4 * kv * width, 1, shape.cached_layers),
        memory.operator("embedding", "padded_tokens", 2 * shape.hidden * width, 1),
        memory.operator("final_layernorm", "padded_tokens", norm, 1),
    ]
    if shape.qk_norm:
        operators.append(memory.operator("qk_norm", "padded_tokens", 2 * (query + kv) * width, 1, shape.cached_layers))
    if shape.dense_layers:
        activation = 3 * shape.intermediate * width
        operators.append(memory.operator("act_fn", "padded_tokens", activation, 1, shape.dense_layers))
    if shape.shared_intermediate:
        activation = 3 * shape.shared_intermediate * width
        operators.append(memory.operator("shared act_fn", "padded_tokens", activation, 1, shape.moe_layers))
    return operators


def sampler(vocabulary: int, memory: MemoryKernel, sampled_tokens: Float64) -> Table:
    """Sampling from the logits of the whole vocabulary, tabulated at these numbers of sampled tokens.

    Exact for one sequence on the GPUs that it is taken from, and off by 10 to 40 % in the median over all they measured.
    """
    moved_bytes = SAMPLER_BYTES_PER_LOGIT * vocabulary * sampled_tokens
    seconds = SAMPLER_KERNELS * memory.latency_s + moved_bytes / memory.bytes_per_s
    return Table(f"sampler {ESTIMATE}", ("sampled_tokens",), (sampled_tokens,), seconds)
