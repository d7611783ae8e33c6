"""Kernel measurements of aiconfigurator, as its systems folder or the installed package has them, summed up for one model.

`message_size` of its all-reduces counts elements, not bytes: NCCL takes half as long for int8 as for half at the same size,
and counted as bytes a 512 MB message would reach 159 GB/s of the 450 that NVLink has (2 GPUs), where it reaches 318 counted
as elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from calibration.imports.aic_attention import Measured, attention_tables, decoding, of_heads, prefilling
from calibration.imports.aic_bounds import Timed, held, told
from calibration.imports.aic_gemm import Gemms, gemms
from calibration.imports.aic_source import COLLECTIVES, DISTRIBUTION, Found, Source, open_source, package_version
from calibration.imports.elementwise import ESTIMATE, MemoryKernel, elementwise, sampler
from simulator.cost.held_out import held_out
from simulator.cost.model import Profile
from simulator.cost.model_config import model_shape
from simulator.cost.operators import Affine, Operator, Table, row
from simulator.cost.plain import check_plain
from simulator.cost.shape import ModelShape
from simulator.cost.sources import NotMeasuredError
from traces.errors import InputError

Float64 = npt.NDArray[np.float64]

PRECISION = "bfloat16"
BALANCED = "balanced"
DISTRIBUTIONS = (BALANCED, "power_law_1.01", "power_law_1.2")
"""Routings that are measured, the most even first."""
DERIVATION = (
    "attention with several query tokens per sequence costs what one costs, or the query x context pairs at the best rate of "
    "the prefill kernel, whichever is more; context before a prefill chunk costs its pairs at that rate, and no less than "
    "decoding over it; more KV than measured costs what the last measured batches add, read no faster than the fastest was"
)
RING = "All-reduces among so many GPUs were not measured: a ring at the bandwidth and the latency of the link."
VOCABULARY_MULTIPLE = 64
"""vLLM pads the vocabulary to a multiple of it."""


def import_aiconfigurator(
    folder: Path | None,
    config: Mapping[str, Any],
    system: str = "h200_sxm",
    engine: str = "vllm",
    tp: int = 1,
    ep: int = 1,
    engine_version: str | None = None,
    moe_distribution: str | None = None,
) -> Profile:
    """Profile of one model on `tp` GPUs of a system.

    folder: holds `<system>.yaml`, None the installed package; config: of the model, as Hugging Face publishes it; ep: 1, or tp
    where experts are spread over the GPUs as a whole; engine_version: left out, that which the folder calls current, or the
    newest; moe_distribution: left out, the most even routing that was measured. Raises InputError.
    """
    whole, name = model_shape(config), str(config.get("_name_or_path") or config.get("model_type") or "decoder")
    check_plain(whole, "this importer")
    shape = whole.shard(tp)
    _check_asked(config, whole, tp, ep)
    source = open_source(folder, system, engine, engine_version)
    measured = source.rows("gemm", {"gemm_dtype": PRECISION}, {"m": "m", "n": "n", "k": "k"})
    grid = gemms(measured.rows, source.figures["mem_bw"], source.figures["bfloat16_tc_flops"])
    multiplied, off_grid, apart = _multiplications(grid, shape)
    attended, measured_kv = _attention(source, shape)
    parts = Parts(
        multiplied, versions={"matrix multiplications": measured.version},
        notes=[_listed("Interpolated or extrapolated, because they were not measured: ", off_grid)],
    )  # fmt: skip
    parts += attended
    parts += _experts(source, whole, tp, ep, moe_distribution) if whole.experts else Parts()
    parts += _all_reduce(source, shape, tp) if tp > 1 else Parts()
    parts += _between(source, shape, whole.vocabulary, grid.m)
    tables = [held(one) for one in parts.timed]
    profile = Profile(
        name=f"{name.rpartition('/')[2]} on {system}, tp {tp}" + (f", ep {ep}" if ep > 1 else ""),
        kind="table",
        operators=(*(one.table for one in parts.timed), *parts.estimates),
        model=name,
        device=f"{tp} x {source.device()}" if tp > 1 else source.device(),
        source=_provenance(folder, system, source, parts.versions),
        uncertainty=_uncertainty(grid, off_grid, apart),
        notes=" ".join(filter(None, [*parts.notes, told(tables)])),
        derived={"decode_width": 1.0, "prefill_context": 0.0, "kv_tokens": measured_kv},
        derivation=DERIVATION,
        parallel={"tensor_parallel_size": tp, "expert_parallel_size": ep},
    )
    errors = {name: error for name, error in held_out(profile).items() if not name.endswith(ESTIMATE)}
    return replace(profile, operators=(*(one.table for one in tables), *parts.estimates), held_out=errors)


@dataclass(frozen=True)
class Parts:
    """Operators of a model, measured and estimated; what to know of them, and the version of each table."""

    timed: list[Timed] = field(default_factory=list)
    estimates: list[Operator] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def __add__(self, other: Parts) -> Parts:
        """Both together."""
        return Parts(
            self.timed + other.timed, self.estimates + other.estimates, self.notes + other.notes,
            self.versions | other.versions,
        )  # fmt: skip


def _check_asked(config: Mapping[str, Any], whole: ModelShape, tp: int, ep: int) -> None:
    precision = str(config.get("torch_dtype") or config.get("dtype") or PRECISION).removeprefix("torch.")
    if precision != PRECISION:
        raise NotMeasuredError(
            f"model config torch_dtype = {precision!r}: only {PRECISION} is imported; use a config that has it"
        )
    if ep not in (1, tp) or (ep > 1 and not whole.experts):
        raise InputError(
            f"ep = {ep} at tp = {tp}: experts are spread over 1 or all GPUs of a model that has them; use 1"
        )


def _multiplications(grid: Gemms, shape: ModelShape) -> tuple[list[Timed], list[str], float]:
    """Tables of every matrix multiplication, those whose shape was not measured, and the widest gap in between (a ratio)."""
    query, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    vocabulary = -(-shape.vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    shapes = [
        ("qkv_proj", query + 2 * kv, shape.hidden, shape.layers),
        ("o_proj", shape.hidden, query, shape.layers),
        ("gate_up_proj", 2 * shape.intermediate, shape.hidden, shape.dense_layers),
        ("down_proj", shape.hidden, shape.intermediate, shape.dense_layers),
        ("router", shape.experts, shape.hidden, shape.moe_layers),
        ("shared gate_up_proj", 2 * shape.shared_intermediate, shape.hidden, shape.moe_layers),
        ("shared down_proj", shape.hidden, shape.shared_intermediate, shape.moe_layers),
        ("lm_head", vocabulary, shape.hidden, 1),
    ]
    timed: list[Timed] = []
    off_grid, apart = [], 1.0
    for name, n, k, repeat in shapes:
        if n and k and repeat:
            axis = "sampled_tokens" if name == "lm_head" else "padded_tokens"
            timed.append(Timed(Table(name, (axis,), (grid.m,), grid.time_s(n, k), repeat), grid.roof_s(n, k)))
            if place := grid.place(n, k):
                off_grid.append(f"{name} (n {n}, k {k}: {place})")
                apart = max(apart, grid.apart(n, k))
    return timed, off_grid, apart


def _attention(source: Source, shape: ModelShape) -> tuple[Parts, float]:
    """Decoding and prefilling, and the most KV tokens of a measured decode step."""
    where = {"head_dim": shape.head_dim, "window_size": 0, "attn_dtype": PRECISION, "kv_cache_dtype": PRECISION}
    keep = {"num_heads": "num_heads", "num_key_value_heads": "num_key_value_heads", "batch_size": "batch"}
    found, notes, versions = [], [], {}
    for what, table, tokens in (
        ("decode attention", "generation_attention", "step"), ("prefill attention", "context_attention", "isl"),
    ):  # fmt: skip
        rows, version = source.rows(table, where, keep | {tokens: "tokens"}, {"window_size": 0})
        if rows.empty:
            raise NotMeasuredError(
                f"{what} of head_dim {shape.head_dim} in {PRECISION} is not measured: use another model"
            )
        chosen, note = of_heads(rows, shape.heads, shape.kv_heads, what)
        found.append(chosen)
        versions[what] = version
        notes += [f"Interpolated, because it was not measured: {note}."] if note else []
    # a query's own token is in the KV that it attends to; `step` counts what was there before
    decoded = found[0].assign(tokens=found[0]["tokens"] + 1)
    kv_bytes, bandwidth = shape.kv_bytes_per_token / shape.layers, source.figures["mem_bw"]
    decodes, prompts = decoding(decoded, kv_bytes, bandwidth), prefilling(found[1])
    s_per_pair = 4 * shape.heads * shape.head_dim / source.figures["bfloat16_tc_flops"]
    timed = attention_tables(decodes, prompts, shape.layers, kv_bytes / bandwidth, s_per_pair)
    measured_kv = float((decodes.batch[:, None] * decodes.tokens)[decodes.measured].max())
    return Parts(timed, notes=[*notes, _beyond(decodes, prompts)], versions=versions), measured_kv


def _experts(source: Source, whole: ModelShape, tp: int, ep: int, distribution: str | None) -> Parts:
    """Routed experts of all layers over tokens, the router not included."""
    where = {
        "moe_dtype": PRECISION, "hidden_size": whole.hidden, "inter_size": whole.expert_intermediate,
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
    held_bytes = whole.expert_parameters * whole.bytes_per_parameter / tp
    compute_s = 2 * grid * whole.experts_per_token * whole.expert_parameters / tp / source.figures["bfloat16_tc_flops"]
    even = routing == BALANCED or ep == 1
    least = np.maximum(touched * held_bytes / source.figures["mem_bw"], compute_s) if even else 0.0
    return Parts([Timed(table, least)], notes=[f"Experts: routing is {routing}."], versions={"experts": version})


def _all_reduce(source: Source, shape: ModelShape, tp: int) -> Parts:
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
            where = {"num_gpus": tp, "allreduce_dtype": PRECISION, "backend": backend}
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


def _between(source: Source, shape: ModelShape, vocabulary: int, sampled_tokens: Float64) -> Parts:
    """What runs between the measured kernels, estimated from its bytes."""
    figures = source.figures
    memory = MemoryKernel(
        figures["mem_bw"] * figures["mem_bw_empirical_scaling_factor"], figures["mem_empirical_constant_latency"]
    )
    note = (
        f"Operators marked {ESTIMATE} were not measured: {memory.latency_s * 1e6:g} us a kernel, and its bytes at "
        f"{memory.bytes_per_s:.3g} bytes/s."
    )
    return Parts(estimates=[*elementwise(shape, memory), sampler(vocabulary, memory, sampled_tokens)], notes=[note])


def _provenance(folder: Path | None, system: str, source: Source, versions: Mapping[str, str]) -> str:
    """Package, system, engine and version; and the tables that are of other versions."""
    package = "aiconfigurator" if folder is not None else f"{DISTRIBUTION} {package_version()}"
    others = ", ".join(f"{name} {version}" for name, version in versions.items() if version != source.version)
    of_other = f" ({others})" if others else ""
    return f"{package} {system}, {source.engine} {source.version}{of_other}: kernels measured one by one"


def _uncertainty(grid: Gemms, off_grid: list[str], apart: float) -> str:
    text = "kernels measured apart and summed: gaps between them, and what CUDA graphs or overlap save, are not in it"
    told = [("interpolating multiplications", grid.leave_one_out(apart), apart > 1)]
    told.append(("extrapolating their n", grid.beyond_error(), any("beyond" in place for place in off_grid)))
    for what, errors, asked in told:
        if asked:
            size = np.abs(errors)
            text += (
                f"; {what} is off by {np.median(size):.1%} in the median and by {np.quantile(size, 0.95):.1%} one time in "
                f"twenty ({size.size:,} measured ones left out)"
            )
    return text


def _beyond(decodes: Measured, prompts: Measured) -> str:
    """What follows from smaller measurements, and what the sum of two kernels leaves out."""
    return (
        f"{int((~decodes.measured).sum())} of {decodes.measured.size} points of decode attention and "
        f"{int((~prompts.measured).sum())} of {prompts.measured.size} of prefill attention are too large to have been "
        "measured and follow from smaller ones. A step that both decodes and prefills costs the sum of both attention "
        "kernels. Where mixed kernels were measured (LLMServingSim, two other GPUs) they take longer than that sum, by a "
        "fifth to a half in the median."
    )


def _listed(head: str, parts: list[str]) -> str:
    return f"{head}{'; '.join(parts)}." if parts else ""
