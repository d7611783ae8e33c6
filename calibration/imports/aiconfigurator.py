"""Kernel measurements of aiconfigurator, as its systems folder or the installed package has them, summed up for one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.imports.aic_bounds import held, told
from calibration.imports.aic_comm import all_reduce
from calibration.imports.aic_experts import experts
from calibration.imports.aic_grouped import grouped
from calibration.imports.aic_latent import latent
from calibration.imports.aic_linear import linear
from calibration.imports.aic_multiplications import feed_forwards, multiplier, projections
from calibration.imports.aic_parts import Parts
from calibration.imports.aic_source import DISTRIBUTION, Source, open_source, package_version
from calibration.imports.elementwise import ESTIMATE, MemoryKernel, elementwise, sampler
from simulator.cost.held_out import held_out
from simulator.cost.model import Profile
from simulator.cost.model_config import model_shape
from simulator.cost.shape import ModelShape
from simulator.cost.sources import NotMeasuredError
from traces.errors import InputError

Float64 = npt.NDArray[np.float64]

PRECISION = "bfloat16"
MEASURED = {"decode_width": 1.0, "prefill_context": 0.0}
"""Query tokens of a decoding sequence and context before a chunk, as they were measured."""
UNCERTAINTY = (
    "kernels measured apart and summed: gaps between them, and what CUDA graphs or overlap save, are not in it"
)
DERIVATION = (
    "attention with several query tokens per sequence costs what one costs, or the query x context pairs at the best rate of "
    "the prefill kernel, whichever is more; context before a prefill chunk costs its pairs at that rate, and no less than "
    "decoding over it; more KV than measured costs what the last measured batches add, read no faster than the fastest was"
)


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
    newest; moe_distribution: left out, the most even routing that was measured. Raises
    InputError, and NotMeasuredError for what there are no tables of.
    """
    whole, name = (
        model_shape(config),
        str(config.get("_name_or_path") or config.get("model_type") or "decoder"),
    )
    _check_asked(config, whole, tp, ep)
    shape, source = whole.shard(tp), open_source(folder, system, engine, engine_version)
    multiply = multiplier(source, shape)
    parts = (
        latent(source, shape, multiply) if shape.latent else multiply.parts(projections(shape)) + grouped(source, shape)
    )
    parts += linear(source, shape, multiply) + multiply.parts(feed_forwards(shape))
    parts += experts(source, whole, tp, ep, moe_distribution) if whole.experts else Parts()
    parts += all_reduce(source, shape, tp) if tp > 1 else Parts()
    parts += _between(source, shape, whole.vocabulary, multiply.plain.m)
    tables = [held(one) for one in parts.timed]
    off_grid = "; ".join(dict.fromkeys(parts.off_grid))
    profile = Profile(
        name=f"{name.rpartition('/')[2]} on {system}, tp {tp}" + (f", ep {ep}" if ep > 1 else ""),
        kind="table",
        operators=(*(one.table for one in parts.timed), *parts.estimates),
        model=name,
        device=f"{tp} x {source.device()}" if tp > 1 else source.device(),
        source=_provenance(folder, system, source, parts.versions),
        uncertainty=UNCERTAINTY + multiply.uncertainty(),
        notes=" ".join(filter(None, [
            off_grid and f"Interpolated or extrapolated, because they were not measured: {off_grid}.",
            *parts.notes, told(tables),
        ])),
        derived=MEASURED | ({"kv_tokens": parts.kv_tokens} if np.isfinite(parts.kv_tokens) else {}),
        derivation=DERIVATION,
        parallel={"tensor_parallel_size": tp, "expert_parallel_size": ep},
    )  # fmt: skip
    errors = {name: error for name, error in held_out(profile).items() if not name.endswith(ESTIMATE)}
    return replace(profile, operators=(*(one.table for one in tables), *parts.estimates), held_out=errors)


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
