"""Kernel measurements of aiconfigurator, as its `systems/data` folder has them, summed up to a profile of one model.

A folder holds `h200_sxm.yaml`, the figures of the device, beside `h200_sxm/<table>/<engine>/<version>/*_perf.parquet`, in
milliseconds. `message_size` of its all-reduces counts elements, not bytes: NCCL takes half as long for int8 as for half
at the same size, and counted as bytes a 512 MB message would reach 159 GB/s of the 450 that NVLink has (2 GPUs), where it
reaches 318 counted as elements.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from calibration.imports.aic_attention import Measured, attention_tables, decoding, of_heads, prefilling
from calibration.imports.aic_gemm import Gemms, gemms
from calibration.imports.elementwise import ESTIMATE, MemoryKernel, elementwise, sampler
from simulator.cost.held_out import held_out
from simulator.cost.model import Profile
from simulator.cost.model_config import model_shape
from simulator.cost.operators import Operator, Table
from simulator.cost.plain import check_plain
from simulator.cost.shape import ModelShape
from simulator.strict_yaml import load_mapping
from traces.errors import InputError

Float64 = npt.NDArray[np.float64]

MILLI = 1e-3
PRECISION = "bfloat16"
KINDS = {
    "gemm": "gemm", "context_attention": "attention", "generation_attention": "attention", "moe": "moe",
    "custom_allreduce": "comm", "nccl": "comm",
}  # fmt: skip
"""Folder of each table."""
DERIVATION = (
    "attention with several query tokens per sequence costs what one costs, or the query x context pairs at the best rate of "
    "the prefill kernel, whichever is more; context before a prefill chunk costs its pairs at that rate, and no less than "
    "decoding over it; more KV than measured costs what the last measured batches add, read no faster than the fastest was"
)
VOCABULARY_MULTIPLE = 64
"""vLLM pads the vocabulary to a multiple of it."""
FIGURES = (
    "mem_bw", "mem_bw_empirical_scaling_factor", "mem_empirical_constant_latency", "bfloat16_tc_flops",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """The measurements of one system and engine version, and the device's figures by their name in the YAML file."""

    folder: Path
    engine: str
    version: str
    figures: Mapping[str, float]

    def rows(self, table: str, where: Mapping[str, Any], keep: Mapping[str, str]) -> pd.DataFrame:
        """Rows of `<table>_perf.parquet` that hold these values; `keep` renames the columns to keep. Adds `seconds`.

        Repeated measurements of one point count as their median. Raises InputError for what cannot be read or used.
        """
        path = self._path(table)
        columns = [*dict.fromkeys([*where, *keep, "latency", "device"])]
        try:
            found = pq.read_table(path, columns=columns, filters=[(name, "==", value) for name, value in where.items()])
        except FileNotFoundError:
            raise InputError(f"{path}: no such file: give another --engine-version, or a folder that has it") from None
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:100]
            raise InputError(f"{path}: cannot be read ({reason}): expected columns {', '.join(columns)}") from None
        rows = found.select([*keep, "latency"]).to_pandas().rename(columns=dict(keep))
        values = rows.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        bad = ~(np.isfinite(values).all(axis=1) & (values >= 0).all(axis=1) & (values[:, -1] > 0))
        if bad.any():
            told = dict(rows.iloc[int(np.argmax(bad))])
            raise InputError(
                f"{path}: {told}: a point is of finite numbers >= 0 and its latency > 0; correct or remove it"
            )
        rows["seconds"] = rows.pop("latency").astype(float) * MILLI
        return rows.groupby(list(keep.values()), as_index=False).median() if len(rows) else rows

    def device(self) -> str:
        """The name that the measured device gives itself."""
        return str(pq.ParquetFile(self._path("gemm")).read_row_group(0, columns=["device"]).column("device")[0])

    def _path(self, table: str) -> Path:
        """NCCL has versions of its own, of which the newest counts."""
        folder = self.folder / KINDS[table] / ("nccl" if table == "nccl" else self.engine)
        return folder / (newest(folder) if table == "nccl" else self.version) / f"{table}_perf.parquet"


def import_aiconfigurator(
    folder: Path,
    config: Mapping[str, Any],
    system: str = "h200_sxm",
    engine: str = "vllm",
    tp: int = 1,
    ep: int = 1,
    engine_version: str | None = None,
    moe_distribution: str = "balanced",
) -> Profile:
    """Profile of one model on `tp` GPUs of a system.

    folder: holds `<system>.yaml`; config: of the model, as Hugging Face publishes it; ep: 1, or tp where experts are
    spread over the GPUs as a whole; engine_version: the newest if left out. Raises InputError.
    """
    whole, name = model_shape(config), str(config.get("_name_or_path") or config.get("model_type") or "decoder")
    check_plain(whole, "this importer")
    shape = whole.shard(tp)
    _check_asked(config, whole, tp, ep)
    source = _source(folder, system, engine, engine_version)
    figures = source.figures
    memory = MemoryKernel(
        figures["mem_bw"] * figures["mem_bw_empirical_scaling_factor"], figures["mem_empirical_constant_latency"]
    )
    grid = gemms(
        source.rows("gemm", {"gemm_dtype": PRECISION}, {"m": "m", "n": "n", "k": "k"}),
        figures["mem_bw"], figures["bfloat16_tc_flops"],
    )  # fmt: skip
    decodes, prompts, interpolated = _attention(source, shape)
    operators, off_grid, apart = _multiplications(grid, shape)
    operators += attention_tables(decodes, prompts, shape.layers)
    if whole.experts:
        operators.append(_experts(source, whole, tp, ep, moe_distribution))
    if tp > 1:
        operators.append(_all_reduce(source, shape, tp))
    operators += [*elementwise(shape, memory), sampler(whole.vocabulary, memory, grid.m)]
    measured_kv = float((decodes.batch[:, None] * decodes.tokens)[decodes.measured].max())
    profile = Profile(
        name=f"{name.rpartition('/')[2]} on {system}, tp {tp}" + (f", ep {ep}" if ep > 1 else ""),
        kind="table",
        operators=tuple(operators),
        model=name,
        device=f"{tp} x {source.device()}" if tp > 1 else source.device(),
        source=f"aiconfigurator {system}, {engine} {source.version}: kernels measured one by one",
        uncertainty=_uncertainty(grid, off_grid, apart),
        notes=" ".join(filter(None, [
            _listed("Interpolated or extrapolated, because they were not measured: ", [*off_grid, *interpolated]),
            _beyond(decodes, prompts),
            f"Experts: routing is {moe_distribution}." if whole.experts else "",
            f"Operators marked (estimate) were not measured: {memory.latency_s * 1e6:g} us a kernel, and its bytes at "
            f"{memory.bytes_per_s:.3g} bytes/s.",
        ])),
        derived={"decode_width": 1.0, "prefill_context": 0.0, "kv_tokens": measured_kv},
        derivation=DERIVATION,
        parallel={"tensor_parallel_size": tp, "expert_parallel_size": ep},
    )  # fmt: skip
    errors = {name: error for name, error in held_out(profile).items() if not name.endswith(ESTIMATE)}
    return replace(profile, held_out=errors)


def _check_asked(config: Mapping[str, Any], whole: ModelShape, tp: int, ep: int) -> None:
    precision = str(config.get("torch_dtype") or config.get("dtype") or PRECISION).removeprefix("torch.")
    if precision != PRECISION:
        raise InputError(
            f"model config torch_dtype = {precision!r}: only {PRECISION} is imported; use a config that has it"
        )
    if ep not in (1, tp) or (ep > 1 and not whole.experts):
        raise InputError(
            f"ep = {ep} at tp = {tp}: experts are spread over 1 or all GPUs of a model that has them; use 1"
        )


def newest(folder: Path) -> str:
    """Name of the folder with the highest version number in `folder`."""
    versions = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    if not versions:
        raise InputError(f"{folder}: no measurements there: give another system or engine")
    return max(versions, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _source(folder: Path, system: str, engine: str, version: str | None) -> Source:
    path = folder / f"{system}.yaml"
    try:
        document = load_mapping(path.read_text("utf-8"), "data_dir: ...")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        there = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) if folder.is_dir() else ""
        raise InputError(f"{path}: cannot be read ({error}): systems there are {there or 'none'}; give one") from None
    gpu = document.get("gpu")
    figures = {}
    for name in FIGURES:
        value = gpu.get(name) if isinstance(gpu, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
            raise InputError(f"{path}: gpu.{name} = {value!r}: give a number > 0")
        figures[name] = float(value)
    data = folder / system
    return Source(data, engine, version or newest(data / KINDS["gemm"] / engine), figures)


def _multiplications(grid: Gemms, shape: ModelShape) -> tuple[list[Operator], list[str], float]:
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
    operators: list[Operator] = []
    off_grid, apart = [], 1.0
    for name, n, k, repeat in shapes:
        if n and k and repeat:
            axis = "sampled_tokens" if name == "lm_head" else "padded_tokens"
            operators.append(Table(name, (axis,), (grid.m,), grid.time_s(n, k), repeat))
            if place := grid.place(n, k):
                off_grid.append(f"{name} (n {n}, k {k}: {place})")
                apart = max(apart, grid.apart(n, k))
    return operators, off_grid, apart


def _attention(source: Source, shape: ModelShape) -> tuple[Measured, Measured, list[str]]:
    where = {"head_dim": shape.head_dim, "window_size": 0, "attn_dtype": PRECISION, "kv_cache_dtype": PRECISION}
    keep = {"num_heads": "num_heads", "num_key_value_heads": "num_key_value_heads", "batch_size": "batch"}
    decodes = source.rows("generation_attention", where, keep | {"step": "tokens"})
    prompts = source.rows("context_attention", where, keep | {"isl": "tokens"})
    notes = []
    found = []
    for what, table in (("decode attention", decodes), ("prefill attention", prompts)):
        if table.empty:
            raise InputError(f"{what} of head_dim {shape.head_dim} in {PRECISION} is not measured: use another model")
        rows, note = of_heads(table, shape.heads, shape.kv_heads, what)
        found.append(rows)
        notes += [note] if note else []
    # a query's own token is in the KV that it attends to; `step` counts what was there before
    decoded = found[0].assign(tokens=found[0]["tokens"] + 1)
    kv_bytes_per_token = 2 * shape.kv_heads * shape.head_dim * shape.bytes_per_parameter
    return decoding(decoded, kv_bytes_per_token), prefilling(found[1]), notes


def _experts(source: Source, whole: ModelShape, tp: int, ep: int, distribution: str) -> Table:
    """Routed experts of all layers over tokens, the router not included."""
    where = {
        "moe_dtype": PRECISION, "hidden_size": whole.hidden, "inter_size": whole.expert_intermediate,
        "topk": whole.experts_per_token, "num_experts": whole.experts,
    }  # fmt: skip
    keep = {"num_tokens": "tokens", "moe_tp_size": "tp", "moe_ep_size": "ep"}
    rows = source.rows("moe", where | {"distribution": distribution}, keep)
    if rows.empty:
        sizes = ", ".join(f"{key} {value}" for key, value in where.items())
        raise InputError(
            f"moe: {sizes} with {distribution} routing is not measured: use another model, or --moe-distribution balanced"
        )
    split = (tp // ep, ep)
    chosen = rows[(rows["tp"] == split[0]) & (rows["ep"] == split[1])].sort_values("tokens")
    if len(chosen) < 2:
        known = sorted({(int(a), int(b)) for a, b in zip(rows["tp"], rows["ep"], strict=True)})
        raise InputError(
            f"moe: tp {split[0]} x ep {split[1]} is not measured, of {known}: choose --tp and --ep among them"
        )
    grid = chosen["tokens"].to_numpy(np.float64)
    return Table("experts", ("padded_tokens",), (grid,), chosen["seconds"].to_numpy(np.float64), whole.moe_layers)


def _all_reduce(source: Source, shape: ModelShape, tp: int) -> Table:
    """Two in a layer, of the hidden states: vLLM's own in a CUDA graph, and NCCL's where that was not measured."""
    keep = {"message_size": "elements"}
    own = source.rows("custom_allreduce", {"num_gpus": tp, "backend": "vllm_graph", "allreduce_dtype": PRECISION}, keep)
    if len(own) < 2:
        raise InputError(f"all-reduce among {tp} GPUs is not measured: use another --tp")
    larger = source.rows("nccl", {"num_gpus": tp, "op_name": "all_reduce", "nccl_dtype": "half"}, keep)
    both = pd.concat([own, larger[larger["elements"] > own["elements"].max()]])
    tokens, seconds = both["elements"].to_numpy(np.float64) / shape.hidden, both["seconds"].to_numpy(np.float64)
    grid = np.array([1.0, *tokens[tokens > 1]])
    return Table("all-reduce", ("padded_tokens",), (grid,), np.interp(grid, tokens, seconds), 2 * shape.layers)


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
