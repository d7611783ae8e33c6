"""The least that a step can take by the data sheet, whatever its batch, context and queries of each sequence."""

from collections.abc import Mapping

import numpy as np

from simulator.cost.device_rates import compute_s
from simulator.cost.shape import ModelShape

PEAKS = {
    "peak_flops_per_s": "bfloat16_tc_flops",
    "peak_fp8_flops_per_s": "fp8_tc_flops",
    "peak_fp4_flops_per_s": "fp4_tc_flops",
}


def roof_s(shape: ModelShape, figures: Mapping[str, float], live, context, width, even: bool = True):
    """Seconds; figures: by their names in aiconfigurator's files. Of experts those that uniform routing touches are read, of
    uneven routing one token's.
    """  # fmt: skip
    device = {ours: figures[theirs] for ours, theirs in PEAKS.items() if theirs in figures}
    tokens, attended = live * width, shape.attended(context)
    touched = shape.expected_experts(tokens) if even else shape.experts_per_token
    weights = shape.read_bytes + shape.moe_layers * touched * shape.expert_bytes
    moved = weights + (shape.kv_layer_bytes * attended + 2 * shape.state_bytes) * live
    token_s = compute_s(shape.read_operations, device) + compute_s(shape.routed_operations, device)
    pair_s = shape.pair_operations / device["peak_flops_per_s"]
    return np.maximum(moved / figures["mem_bw"], tokens * (token_s + pair_s * attended))
