"""Layers of gated delta-rule attention: projections, and the kernels that carry a state from token to token."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.imports.aic_attention import along, prefilling
from calibration.imports.aic_multiplications import Multiplication, Multiplier, attention_share
from calibration.imports.aic_parts import Parts, Timed
from calibration.imports.aic_source import Found, Source
from calibration.imports.attention import WIDTHS
from simulator.cost.attention import Linear
from simulator.cost.operators import Table
from simulator.cost.shape import ModelShape
from simulator.cost.sources import NotMeasuredError

Float64 = npt.NDArray[np.float64]

DECODE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("convolution", ("causal_conv1d_update",)),
    ("delta rule", ("fused_recurrent_gated_delta_rule_packed_decode", "fused_recurrent_gated_delta_rule")),
)
PREFILL: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("convolution", ("causal_conv1d_fn",)),
    ("delta rule", ("chunk_gated_delta_rule", "chunk_gated_delta_rule_flashinfer", "chunk_gated_delta_rule_triton")),
)
"""What runs in each layer, and the names that engines' kernels for it have."""
NOTE = (
    "Layers of linear attention: a further query token of a sequence costs what a further sequence does, as engines keep a state "
    "for each; what lies before a prompt's chunk costs nothing."
)


def linear(source: Source, shape: ModelShape, multiply: Multiplier) -> Parts:
    """All layers of linear attention, their projections included; none where the model has none."""
    form = shape.linear
    if form is None:
        return Parts()
    keys, values, share = form.key_heads * form.key_dim, form.value_heads * form.value_dim, attention_share(shape)
    parts = multiply.parts([
        Multiplication("linear in_proj", 2 * keys + 2 * values, shape.hidden, form.layers, share),
        Multiplication("linear decay and beta", 2 * form.value_heads, shape.hidden, form.layers),
        Multiplication("linear out_proj", shape.hidden, values, form.layers, share),
    ])  # fmt: skip
    state_s = 2 * shape.state_bytes / form.layers / source.figures["mem_bw"]
    timed, versions = [], {}
    for name, kernels in DECODE:
        found = _rows(source, form, "generation", kernels, {"batch_size": "batch"})
        versions["linear attention"] = found.version
        rows = found.rows.sort_values("batch")
        batch, seconds = rows["batch"].to_numpy(np.float64), rows["seconds"].to_numpy(np.float64)
        widths = np.array(WIDTHS)
        table = Table(
            f"linear {name}, decode", ("decode_seqs", "decode_width"), (batch, widths),
            along(batch, seconds, batch[:, None] * widths), form.layers, "any_decode",
        )  # fmt: skip
        timed.append(Timed(table, state_s * batch[:, None] if name == "delta rule" else 0.0))
    for name, kernels in PREFILL:
        rows = _rows(source, form, "context", kernels, {"batch_size": "batch", "seq_len": "tokens"}).rows
        prompts = prefilling(rows)
        table = Table(
            f"linear {name}, prefill", ("prefill_seqs", "prefill_chunk"), (prompts.batch, prompts.tokens), prompts.seconds,
            form.layers, "any_prefill",
        )  # fmt: skip
        timed.append(Timed(table))
    return parts + Parts(timed, notes=[NOTE], versions=versions)


def _rows(source: Source, form: Linear, phase: str, kernels: tuple[str, ...], keep: dict[str, str]) -> Found:
    """Rows of the first of these kernels that was measured for the heads of a GPU."""
    where: dict[str, Any] = {
        "phase": phase, "num_k_heads": form.key_heads, "num_v_heads": form.value_heads, "head_k_dim": form.key_dim,
        "head_v_dim": form.value_dim, "d_conv": form.kernel,
    }  # fmt: skip
    for kernel in kernels if source.has("gdn") else ():
        found = source.rows("gdn", where | {"kernel_source": kernel}, keep)
        if len(found.rows) > 1:
            return found
    heads = f"{form.value_heads} value heads on {form.key_heads} key heads"
    raise NotMeasuredError(
        f"linear attention of {heads} ({phase}) is not measured for {source.engine} {source.version}"
    )
