"""Grouped-query attention of a model, to the whole context and to a window, from the tables of one source."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from calibration.imports.aic_attention import Kernel, Measured, attention_tables, capped, decoding, of_heads, prefilling
from calibration.imports.aic_parts import Parts
from calibration.imports.aic_precision import Precision
from calibration.imports.aic_source import Source
from simulator.cost.shape import ModelShape
from simulator.cost.sources import NotMeasuredError

WINDOWED = "window attention"
TABLES = {"decode attention": ("generation_attention", "step"), "prefill attention": ("context_attention", "isl")}
"""Table of each, and its column of tokens."""
ARITHMETIC = {"bfloat16": ("bfloat16",), "fp8": ("bfloat16", "fp8")}
"""What attention of prompts is computed in over each precision of KV, that which is preferred first."""


class Attended(NamedTuple):
    """Decoding and prompts as they were measured; the peak of the prompts' arithmetic, versions, and interpolated heads."""

    decodes: Measured
    prompts: Measured
    prefill_flops_per_s: float
    versions: dict[str, str]
    off_grid: list[str]


def grouped(source: Source, shape: ModelShape) -> Parts:
    """Attention of all layers; where no kernel with the window was measured, one without it as far as the window."""
    kv_s = shape.kv_layer_bytes / source.figures["mem_bw"]
    pair_s = shape.pair_operations / source.figures["bfloat16_tc_flops"]
    parts = Parts()
    if shape.full_layers:
        parts += _parts(_attended(source, shape, 0), shape, Kernel("attention", shape.full_layers, kv_s, pair_s))
    if shape.windowed_layers:
        kernel = Kernel(WINDOWED, shape.windowed_layers, kv_s, pair_s, shape.window)
        try:
            parts += _parts(_attended(source, shape, shape.window), shape, kernel)
        except NotMeasuredError:
            whole, window = _attended(source, shape, 0), float(shape.window)
            found = whole._replace(
                decodes=capped(whole.decodes, window), prompts=capped(whole.prompts, window, prompts=True)
            )
            parts += _parts(found, shape, kernel)
            parts.notes.append(
                f"Attention to {shape.window:,} tokens was not measured: it costs what that to so many does."
            )
    return parts


def _parts(found: Attended, shape: ModelShape, kernel: Kernel) -> Parts:
    kernel = replace(kernel, prefill_pair_s=shape.pair_operations / found.prefill_flops_per_s)
    measured = (found.decodes.batch[:, None] * found.decodes.tokens)[found.decodes.measured]
    # a kernel with a window reads no more than that of any context
    most = float(measured.max()) if np.isinf(kernel.window) else np.inf
    notes = [beyond(found.decodes, found.prompts, kernel.name)]
    return Parts(attention_tables(found.decodes, found.prompts, kernel), notes=notes, off_grid=found.off_grid,
                 versions=found.versions, kv_tokens=most)  # fmt: skip


def _attended(source: Source, shape: ModelShape, window: int) -> Attended:
    kv = kv_precision(shape)
    where = {"head_dim": shape.head_dim, "window_size": window, "kv_cache_dtype": kv}
    decoded = _chosen(source, shape, "decode attention", where, ("bfloat16",))
    prompted = _chosen(source, shape, "prefill attention", where, ARITHMETIC[kv])
    # a query's own token is in the KV that it attends to; `step` counts what was there before
    rows = decoded.rows.assign(tokens=decoded.rows["tokens"] + 1)
    return Attended(
        decoding(rows, shape.kv_layer_bytes, source.figures["mem_bw"], window or np.inf), prefilling(prompted.rows),
        Precision(prompted.arithmetic, 0, 0, f"{prompted.arithmetic}_tc_flops").flops_per_s(source.figures),
        {"decode attention": decoded.version, "prefill attention": prompted.version},
        [one.interpolated for one in (decoded, prompted) if one.interpolated],
    )  # fmt: skip


class _Chosen(NamedTuple):
    rows: pd.DataFrame
    interpolated: str
    version: str
    arithmetic: str


def _chosen(
    source: Source, shape: ModelShape, what: str, where: dict[str, Any], arithmetics: tuple[str, ...]
) -> _Chosen:
    """Rows for the heads of a GPU in the first arithmetic that was measured for them."""
    *preferred, last = arithmetics
    for one in preferred:
        with suppress(NotMeasuredError):
            return _chosen(source, shape, what, where, (one,))
    table, tokens = TABLES[what]
    keep = {name: name for name in ("num_heads", "num_key_value_heads")} | {"batch_size": "batch", tokens: "tokens"}
    rows, version = source.rows(table, where | {"attn_dtype": last}, keep, {"window_size": 0})
    if rows.empty:
        seen = f" and {where['window_size']:,} tokens" if where["window_size"] else ""
        raise NotMeasuredError(
            f"{what} of head_dim {shape.head_dim}{seen} with KV in {where['kv_cache_dtype']} is not measured: use another model"
        )
    return _Chosen(*of_heads(rows, shape.heads, shape.kv_heads, what), version, last)


def kv_precision(shape: ModelShape) -> str:
    """What the tables call the precision of a cached number."""
    names = {1: "fp8", 2: "bfloat16"}
    width = shape.kv_element_bytes or shape.bytes_per_parameter
    if width not in names:
        raise NotMeasuredError(f"keys and values of {width} bytes are not measured: there are those of 1 and 2")
    return names[width]


def beyond(decodes: Measured, prompts: Measured, what: str) -> str:
    """What follows from smaller measurements, and what the sum of two kernels leaves out."""
    note = (
        f"{int((~decodes.measured).sum())} of {decodes.measured.size} points of decode {what} and "
        f"{int((~prompts.measured).sum())} of {prompts.measured.size} of prefill {what} were not measured and follow from "
        "smaller ones."
    )
    if what == WINDOWED:
        return note
    return note + (
        " A step that both decodes and prefills costs the sum of both attention kernels. Where mixed kernels were measured "
        "(LLMServingSim, two other GPUs) they take longer than that sum, by a fifth to a half in the median."
    )
