"""Simple laws of the step time beside the measured table: what they explain, and how far off they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from calibration.grids import errors_of
from simulator.cost.shape import ModelShape
from simulator.cost.work import StepWork

Float64 = npt.NDArray[np.float64]


def fits(
    work: StepWork, seconds: Float64, shape: ModelShape, measured: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Coefficients and errors of laws, fitted to even steps and judged by odd ones.

    das: c_base + c_tok x tokens (arXiv 2511.13841, Eq. 1); additive: that and seconds by KV token and query x context pair;
    roofline: no fit, the larger of bytes over the copy bandwidth and operations over the rate of a large product, both measured.
    """
    even = np.arange(seconds.size) % 2 == 0
    features = {
        "constant_s": np.ones_like(seconds), "per_query_token_s": np.asarray(work.query_tokens),
        "per_kv_token_s": np.asarray(work.kv_tokens), "per_pair_s": np.asarray(work.pairs),
    }  # fmt: skip
    found = {}
    for law, names in (("das", list(features)[:2]), ("additive", list(features))):
        columns = np.stack([features[name] for name in names], 1)
        per, _ = nnls(columns[even] / seconds[even, None], np.ones(int(even.sum())))
        found[law] = dict(zip(names, per.tolist(), strict=True)) | errors_of(columns[~even] @ per, seconds[~even])
    tokens, pairs = np.asarray(work.query_tokens), np.asarray(work.pairs)
    read = shape.read_parameters * shape.bytes_per_parameter + np.asarray(work.kv_tokens) * shape.kv_bytes_per_token
    active = shape.active_parameters - shape.embedding_parameters
    if shape.moe_layers:
        read = (
            read
            + shape.moe_layers * shape.expected_experts(tokens) * shape.expert_parameters * shape.bytes_per_parameter
        )
    flops = 2 * active * tokens + 4 * shape.layers * shape.heads * shape.head_dim * pairs
    # a copy reads and writes: that much can be read in the time
    floor_s = np.maximum(read / measured["copy_bandwidth_bytes_per_s"], flops / measured["matmul_flops_per_s"])
    found["roofline"] = errors_of(floor_s[~even], seconds[~even])
    return found
