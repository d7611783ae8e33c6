"""Routed experts, measured as a whole for one model's sizes and one way of spreading them over GPUs."""

from __future__ import annotations

import numpy as np

from calibration.imports.aic_parts import Parts, Timed
from calibration.imports.aic_precision import BFLOAT16, precision_of
from calibration.imports.aic_source import Source
from simulator.cost.operators import Table
from simulator.cost.shape import ModelShape
from simulator.cost.sources import NotMeasuredError

BALANCED = "balanced"
DISTRIBUTIONS = (BALANCED, "power_law_1.01", "power_law_1.2")
"""Routings that are measured, the most even first."""


def experts(source: Source, whole: ModelShape, tp: int, ep: int, distribution: str | None) -> Parts:
    """Routed experts of all layers over tokens, the router not included.

    whole: the model, not one GPU's share; distribution: of tokens over experts, None the most even that was measured.
    """
    precision = precision_of(whole.quantised) if whole.quantised and whole.quantised.experts else BFLOAT16
    where = {
        "moe_dtype": precision.name, "hidden_size": whole.hidden, "inter_size": whole.expert_intermediate,
        "topk": whole.experts_per_token, "num_experts": whole.experts,
    }  # fmt: skip
    keep = {"num_tokens": "tokens", "moe_tp_size": "tp", "moe_ep_size": "ep"}
    for routing in DISTRIBUTIONS if distribution is None else (distribution,):
        rows, version = source.rows("moe", where | {"distribution": routing}, keep)
        if not rows.empty:
            break
    else:
        sizes = ", ".join(f"{key} {value}" for key, value in where.items())
        how = (
            f"with {distribution} routing is not measured: leave --moe-distribution out"
            if distribution
            else "is not measured"
        )
        raise NotMeasuredError(f"moe: {sizes} {how}, or use another model")
    split = (tp // ep, ep)
    chosen = rows[(rows["tp"] == split[0]) & (rows["ep"] == split[1])].sort_values("tokens")
    if len(chosen) < 2:
        known = sorted({(int(a), int(b)) for a, b in zip(rows["tp"], rows["ep"], strict=True)})
        raise NotMeasuredError(
            f"moe: tp {split[0]} x ep {split[1]} is not measured, of {known}: choose --tp and --ep among them"
        )
    grid = chosen["tokens"].to_numpy(np.float64)
    table = Table("experts", ("padded_tokens",), (grid,), chosen["seconds"].to_numpy(np.float64), whole.moe_layers)
    # routed evenly, tokens touch more experts than at random; routed unevenly, nobody can say how few
    touched = whole.expected_experts(grid) if routing == BALANCED else np.full(grid.size, whole.experts_per_token)
    operations = 2 * grid * whole.experts_per_token * whole.expert_parameters / tp
    read_s = touched * whole.expert_bytes / tp / source.figures["mem_bw"]
    even = routing == BALANCED or ep == 1
    least = np.maximum(read_s, operations / precision.flops_per_s(source.figures)) if even else 0.0
    return Parts([Timed(table, least)], notes=[f"Experts: routing is {routing}."], versions={"experts": version})
