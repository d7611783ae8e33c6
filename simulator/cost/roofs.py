"""The least that a decode step can take on a device: its bytes at full bandwidth, its operations at full speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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

    device: bandwidth_bytes_per_s and peak_flops_per_s. A step reads once every weight but the input embedding, the experts
    that uniform routing touches, and the KV of each sequence; it multiplies with all that a token uses. What GPUs tell each
    other is left out.
    """
    batch, context = np.meshgrid(
        np.asarray(live, dtype=np.float64), np.asarray(context_tokens, dtype=np.float64), indexing="ij"
    )
    experts = shape.moe_layers * shape.expected_experts(batch) * shape.expert_parameters
    moved = shape.bytes_per_parameter * (shape.read_parameters + experts) + shape.kv_bytes_per_token * batch * context
    used = shape.read_parameters + shape.moe_layers * shape.experts_per_token * shape.expert_parameters
    operations = 2 * used * batch + 4 * shape.layers * shape.heads * shape.head_dim * batch * context
    work = StepWork.decode(batch, context)
    return Roofs(
        live=batch,
        context_tokens=context,
        seconds=profile.step_time_s(work),
        memory_s=np.asarray(moved / device["bandwidth_bytes_per_s"]),
        compute_s=np.asarray(operations / device["peak_flops_per_s"]),
        inside=~profile.outside(work),
    )
