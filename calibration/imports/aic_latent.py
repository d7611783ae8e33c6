"""Multi-head latent attention: from kernels measured one by one, or where an engine's were not, from its block as a whole.

Decoding absorbs the up-projections (two multiplications by head, `mla_bmm`, around a kernel that reads latents); prompts expand
the latents and attend as usual. A block holds the projections too, so that a step which does both counts them twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.imports.aic_attention import (
    Kernel,
    Measured,
    along,
    attention_tables,
    decoding,
    prefilling,
)
from calibration.imports.aic_grouped import beyond, kv_precision
from calibration.imports.aic_multiplications import PREFILLED, Multiplication, Multiplier, attention_share
from calibration.imports.aic_parts import Parts, Timed
from calibration.imports.aic_precision import BFLOAT16
from calibration.imports.aic_source import Source
from calibration.imports.attention import WIDTHS
from simulator.cost.attention import Latent
from simulator.cost.operators import Table
from simulator.cost.shape import ModelShape
from simulator.cost.sources import NotMeasuredError

Float64 = npt.NDArray[np.float64]

NAME = "latent attention"
MEASURED = Latent(query_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128)
"""Of DeepSeek-V3, whose sizes all tables are of; those of the kernels alone do not depend on the query's rank."""
HIDDEN = 7168
KERNELS = ("generation_mla", "context_mla", "mla_bmm")
BLOCKS = ("mla_generation_module", "mla_context_module")


def latent(source: Source, shape: ModelShape, multiply: Multiplier) -> Parts:
    """Attention of all layers, its projections included."""
    form = shape.latent
    assert form is not None
    sizes = (form.kv_rank, form.nope_dim, form.rope_dim, form.value_dim)
    if sizes != (MEASURED.kv_rank, MEASURED.nope_dim, MEASURED.rope_dim, MEASURED.value_dim):
        raise NotMeasuredError(f"latent attention of rank {sizes[0]} and heads of {sizes[1:]} is not measured")
    if all(source.has(table) for table in KERNELS):
        return _kernels(source, shape, form, multiply)
    if not all(source.has(table) for table in BLOCKS):
        raise NotMeasuredError(
            f"latent attention is not measured for {source.engine} {source.version}: use another engine"
        )
    if form != MEASURED or shape.hidden != HIDDEN:
        raise NotMeasuredError(
            f"blocks of latent attention are measured for hidden size {HIDDEN} and query rank {MEASURED.query_rank}, not for "
            f"{shape.hidden} and {form.query_rank}: use another engine"
        )
    return _blocks(source, shape, form, multiply)


def _kernels(source: Source, shape: ModelShape, form: Latent, multiply: Multiplier) -> Parts:
    """Projections, absorbed multiplications, and attention itself."""
    heads, share, layers = shape.heads, attention_share(shape), shape.layers
    query = heads * (form.nope_dim + form.rope_dim)
    kept = form.kv_rank + form.rope_dim
    parts = multiply.parts([
        Multiplication("q_a, kv_a_proj", form.query_rank + kept, shape.hidden, layers, share),
        Multiplication("q_b_proj", query, form.query_rank, layers, share),
        *([] if form.query_rank else [Multiplication("q_proj", query, shape.hidden, layers, share)]),
        Multiplication("kv_b_proj", heads * (form.nope_dim + form.value_dim), form.kv_rank, layers, share, PREFILLED),
        Multiplication("o_proj", shape.hidden, heads * form.value_dim, layers, share),
    ])  # fmt: skip
    decodes, prompts, versions = _measured(source, shape, KERNELS[0], KERNELS[1], {}, 1)
    timed = attention_tables(decodes, prompts, _kernel(source, shape, form))
    for name in ("mla_gen_pre", "mla_gen_post"):
        timed.append(_absorbed(source, shape, form, name, multiply.precision.name.startswith("fp8")))
    return parts + Parts(timed, notes=[beyond(decodes, prompts, NAME)], versions=versions, kv_tokens=_most(decodes))


def _blocks(source: Source, shape: ModelShape, form: Latent, multiply: Multiplier) -> Parts:
    """Blocks over batch and context; further query tokens cost the projections of so many, and their pairs."""
    narrow = attention_share(shape) == 1
    precision = multiply.precision if narrow else BFLOAT16
    if attention_share(shape) not in (0, 1):
        raise NotMeasuredError("blocks of latent attention are measured with all of their weights in one precision")
    decodes, prompts, versions = _measured(source, shape, BLOCKS[0], BLOCKS[1], {"gemm_type": precision.name}, 0)
    kernel = _kernel(source, shape, form)
    pair_s = 1 / kernel.decoded_pairs_per_s(prompts)
    prefill = attention_tables(decodes, prompts, kernel)[1]
    decodes = decodes.from_one()
    batch, context, widths = decodes.batch[:, None, None], decodes.tokens[None, :, None], np.array(WIDTHS)
    alone = along(decodes.batch, decodes.seconds[:, 0], batch * widths)
    attention_s = np.maximum(decodes.seconds - decodes.seconds[:, :1], 0.0)[:, :, None]
    pairs = batch * context * widths
    values = alone + np.maximum(attention_s, np.where(widths > 1, pairs * pair_s, 0.0))
    weights_s = form.matrices(shape.hidden, shape.heads) * precision.weight_bytes / source.figures["mem_bw"]
    table = Table(
        f"{NAME} block, decode", ("decode_seqs", "decode_context", "decode_width"), (decodes.batch, decodes.tokens, widths),
        values, shape.layers, "any_decode",
    )  # fmt: skip
    least = weights_s + np.maximum(kernel.kv_s * batch * context, kernel.pair_s * pairs)
    note = "Blocks of latent attention hold its projections; a step that both decodes and prefills counts them twice."
    return Parts(
        [Timed(table, np.maximum(weights_s + 0 * pairs, least - weights_s)), prefill],
        notes=[note, beyond(decodes, prompts, NAME)], versions=versions, kv_tokens=_most(decodes),
    )  # fmt: skip


def _measured(
    source: Source, shape: ModelShape, decode: str, prefill: str, where: dict[str, Any], own: int
) -> tuple[Measured, Measured, dict[str, str]]:
    """Decoding, with `own` tokens beside those that the table counts, and prompts; and the versions."""
    where = where | {"mla_dtype": "bfloat16", "kv_cache_dtype": kv_precision(shape), "num_heads": shape.heads}
    keep = {"batch_size": "batch"}
    decoded, version = source.rows(decode, where, keep | {"step": "tokens"})
    prompted, other = source.rows(prefill, where, keep | {"isl": "tokens"})
    if decoded.empty or prompted.empty:
        told = ", ".join(f"{key} {value}" for key, value in where.items())
        raise NotMeasuredError(f"latent attention: {told} is not measured: use another tensor-parallel size")
    decodes = decoding(decoded.assign(tokens=decoded["tokens"] + own), shape.kv_layer_bytes, source.figures["mem_bw"])
    return decodes, prefilling(prompted), {"decode attention": version, "prefill attention": other}


def _kernel(source: Source, shape: ModelShape, form: Latent) -> Kernel:
    peak = source.figures["bfloat16_tc_flops"]
    expanded = 2 * shape.heads * (form.nope_dim + form.rope_dim + form.value_dim)
    kv_s = shape.kv_layer_bytes / source.figures["mem_bw"]
    return Kernel(NAME, shape.layers, kv_s, shape.pair_operations / peak, prefill_pair_s=expanded / peak)


def _absorbed(source: Source, shape: ModelShape, form: Latent, name: str, narrow: bool) -> Timed:
    """One of the multiplications by head, over what is decoded."""
    width = form.nope_dim if name.endswith("pre") else form.value_dim
    for precision in ("fp8", "bfloat16") if narrow else ("bfloat16",):
        where = {"bmm_dtype": precision, "num_heads": shape.heads, "op_name": name}
        rows, _ = source.rows("mla_bmm", where, {"num_tokens": "tokens"})
        if len(rows) > 1:
            break
    else:
        raise NotMeasuredError(f"mla_bmm of {shape.heads} heads is not measured: use another tensor-parallel size")
    rows = rows.sort_values("tokens")
    tokens, seqs, widths = rows["tokens"].to_numpy(np.float64), rows["tokens"].to_numpy(np.float64), np.array(WIDTHS)
    count = seqs[:, None] * widths
    values = along(tokens, rows["seconds"].to_numpy(np.float64), count)
    parameters = shape.heads * width * form.kv_rank
    size = 1 if precision == "fp8" else 2
    least = np.maximum(
        parameters * size / source.figures["mem_bw"],
        2 * parameters * count / source.figures.get("fp8_tc_flops", source.figures["bfloat16_tc_flops"]),
    )
    table = Table(
        f"absorbed {name}", ("decode_seqs", "decode_width"), (seqs, widths), values, shape.layers, "any_decode"
    )
    return Timed(table, least)


def _most(decodes: Measured) -> float:
    return float((decodes.batch[:, None] * decodes.tokens)[decodes.measured].max())
