"""All-reduces among the GPUs that share a model: an engine's own, a library's, or a ring where nobody measured.

`message_size` counts elements, not bytes: NCCL takes half as long for int8 as for half at the same size, and counted as bytes
a 512 MB message would reach 159 GB/s of the 450 that NVLink has (2 GPUs), where it reaches 318 counted as elements.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from calibration.imports.aic_parts import Parts, Timed
from calibration.imports.aic_precision import BFLOAT16
from calibration.imports.aic_source import COLLECTIVES, Found, Source
from calibration.imports.elementwise import ESTIMATE
from simulator.cost.operators import Affine, Table, row
from simulator.cost.shape import ModelShape
from simulator.cost.sources import NotMeasuredError

RING = "All-reduces among so many GPUs were not measured: a ring at the bandwidth and the latency of the link."


def all_reduce(source: Source, shape: ModelShape, tp: int) -> Parts:
    """Two in a layer, of the hidden states: the engine's own, and the library's for messages beyond those.

    Where neither was measured, a ring over the link that the device's file gives.
    """
    pieces, versions, largest = [], {}, 0.0
    for name, found in _reductions(source, tp):
        beyond = found.rows[found.rows["elements"] > largest]
        if not beyond.empty:
            pieces.append(beyond)
            versions[name], largest = found.version, float(beyond["elements"].max())
    both = pd.concat(pieces) if pieces else pd.DataFrame()
    if len(both) < 2:
        return Parts(estimates=[_ring(source, shape, tp)], notes=[RING])
    tokens, seconds = both["elements"].to_numpy(np.float64) / shape.hidden, both["seconds"].to_numpy(np.float64)
    grid = np.array([1.0, *tokens[tokens > 1]])
    values = np.interp(grid, tokens, seconds)
    return Parts([Timed(Table("all-reduce", ("padded_tokens",), (grid,), values, 2 * shape.layers))], versions=versions)


def _reductions(source: Source, tp: int) -> Iterator[tuple[str, Found]]:
    """All-reduces among so many GPUs: the engine's, in a CUDA graph if it was measured so, and the library's."""
    keep = {"message_size": "elements"}
    if source.has("custom_allreduce"):
        for backend in (f"{source.engine}_graph", f"{source.engine}_eager"):
            where = {"num_gpus": tp, "allreduce_dtype": BFLOAT16.name, "backend": backend}
            found = source.rows("custom_allreduce", where, keep, {"backend": backend})
            if not found.rows.empty:
                yield "all-reduce", found
                break
    for library in COLLECTIVES:
        if source.has(library):
            where = {"num_gpus": tp, "op_name": "all_reduce", "nccl_dtype": "half"}
            yield library, source.rows(library, where, keep)


def _ring(source: Source, shape: ModelShape, tp: int) -> Affine:
    if not source.link:
        raise NotMeasuredError(f"all-reduce among {tp} GPUs is not measured, and no link is given: use another --tp")
    moved_bytes = 2 * (tp - 1) / tp * shape.hidden * shape.bytes_per_parameter
    seconds = {"constant": source.link["p2p_latency"], "padded_tokens": moved_bytes / source.link["intra_node_bw"]}
    return Affine(f"all-reduce {ESTIMATE}", row(**seconds), 2 * shape.layers)
