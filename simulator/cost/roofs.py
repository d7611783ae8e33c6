"""The least that a decode step can take on a device: its bytes at full bandwidth, its operations at full speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.cost.device_rates import compute_s
from simulator.cost.model import Profile
from simulator.cost.shape import ModelShape
from simulator.cost.work import StepWork

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Roofs:
    """Decode steps by batch and context, one query token each: what they cost, and the least that the device allows.

    All of shape (batches, contexts); `inside` says which steps the profile is valid for.
    """

    live: Float64
    context_tokens: Float64
    seconds: Float64
    memory_s: Float64
    compute_s: Float64
    inside: npt.NDArray[np.bool_]

    @property
    def ratio(self) -> Float64:
        """Cost over the higher roof; below 1 it is impossible."""
        return np.asarray(self.seconds / np.maximum(self.memory_s, self.compute_s))


def roofs(
    profile: Profile, shape: ModelShape, device: Mapping[str, Any], live: npt.ArrayLike, context_tokens: npt.ArrayLike
) -> Roofs:
    """Every batch with every context, beside the roofs of one GPU that holds `shape`.

    device: bandwidth_bytes_per_s and peak_flops_per_s, and its peaks for quantised weights if it has them. A step reads once
    every weight but the input embedding, the experts that uniform routing touches, and of each sequence the KV, within the
    window where a layer has one, or the state; it multiplies with all that a token uses. What GPUs tell each other is left out.
    """
    batch, context = np.meshgrid(
        np.asarray(live, dtype=np.float64), np.asarray(context_tokens, dtype=np.float64), indexing="ij"
    )
    experts = shape.moe_layers * shape.expected_experts(batch) * shape.expert_bytes
    per_sequence = shape.kv_layer_bytes * shape.attended(context) + 2 * shape.state_bytes
    moved = shape.read_bytes + experts + per_sequence * batch
    token_s = compute_s(shape.read_operations, device) + compute_s(shape.routed_operations, device)
    pairs_s = shape.pair_operations * shape.attended(context) / device["peak_flops_per_s"]
    work = StepWork.decode(batch, context)
    return Roofs(
        live=batch,
        context_tokens=context,
        seconds=profile.step_time_s(work),
        memory_s=np.asarray(moved / device["bandwidth_bytes_per_s"]),
        compute_s=np.asarray((token_s + pairs_s) * batch),
        inside=~profile.outside(work),
    )
