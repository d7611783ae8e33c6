"""An estimate of the step time from a model's configuration and a device's data sheet, where nothing was measured."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from simulator.cost.device_rates import compute_s, rate
from simulator.cost.errors import HOST
from simulator.cost.model import Profile, kind_of
from simulator.cost.model_config import model_shape
from simulator.cost.operators import Affine, Bounds, Operator, Roof, Table, row
from simulator.cost.shape import ModelShape
from traces.errors import InputError

FloatArray = npt.NDArray[np.float64]
Mode = Literal["max", "additive"]

ESTIMATED = "roofline estimate"
"""Sources of profiles made here begin so."""
MEASURED = {"max": "1.11 to 1.30", "additive": "0.87 to 1.21"}
"""Time of a decode step, summed from kernels measured with vLLM 0.19, over its bytes and operations alone: Llama-3.1-8B on an RTX
4090, and it and Qwen3-30B-A3B on an RTX PRO 6000, 1 to 256 sequences of 1,024 or 4,096 tokens."""
TOO_FAST = {"dense": 2.1, "moe": 2.3}
"""How many times as long as the estimate, kernels' and host's time included, a whole step of an engine takes, at most.

Dense: 1.1 to 2.0 times in the fit of vLLM published for Llama-3.1-8B on an H100 (arXiv 2601.11580) within its range, 1 to 8
query tokens a sequence; 1.3 to 1.4 for Qwen3-1.7B and 1.5 to 1.8 for Qwen3-14B, one sequence on an A100
(tenstorrent/tt-inference-server 340). Experts: 1.6 to 1.7 for Qwen3-30B-A3B there, 1.0 to 1.5 at 1 to 8 sequences on two H100
(sgl-project/SpecForge 339), 2.2 for gpt-oss-120b on an A100 (vllm-project/vllm 22331). Bytes and operations alone are up to 4.5
times too fast there.
"""
HOST_STEP_S = 1.1e-3
"""Time of a step that no kernel accounts for: 1.0 ms in a run of vLLM 0.19 on an RTX PRO 6000 held to its request log, 1.207 ms
in the fit of vLLM V1 published for an H100 (arXiv 2601.11580)."""
KERNEL_S = 2.5e-6
"""Time of a kernel beside its bytes and operations: bf16 products of at most 4 rows, 512 columns and a depth of 1,024 take
2.2 to 3.6 us in the median on six GPUs from A100 to B200 under vLLM (tables of aiconfigurator-core 0.12.0), 1.7 to 2.5 at
least."""
ATTENTION_KERNELS, LATENT_KERNELS, DENSE_KERNELS, EXPERT_KERNELS = 7, 10, 4, 9
"""Kernels of a part of a layer, as we count those of vLLM with its compiler's fusions. Attention: norm, queries with keys and
values, rotation, cache, attention and what combines its splits, output; with latents, 3 products more. Feed-forward: norm, gate
and up, activation, down; of experts: norm, router, choice, 2 to sort, gate and up, activation, down, sum."""
MOST_TOKENS = 2**24
GRID_RATIO = 1.2
"""Step of the grid over tokens; between two points the curve of touched experts bends by less than 0.5 %."""
CHUNK_RATIO = 1.25
MOST_CONTEXT = 2**20
"""Of a model that states no limit."""


def roofline(
    model_config: Mapping[str, Any],
    device: Mapping[str, Any],
    mode: Mode = "max",
    overhead_s: float = 0.0,
    name: str = "roofline",
    tp: int = 1,
    kernel_s: float = 0.0,
    ranks: int = 1,
) -> Profile:
    """Profile that prices a step by bytes over bandwidth and operations over peak; an estimate, labelled so.

    Bytes are weights plus KV bytes per token x kv_tokens; operations are 2 x parameters per query token plus
    4 x layers x query heads x head width per query x context pair. `max` takes the larger of the two times (perfect
    overlap), `additive` their sum (none); the published fits are additive. Priced apart are routed experts, latents and
    windows (`_experts`, `_attention`). Under tensor parallelism every GPU has its share of both, and each layer two
    all-reduces over the link: a latency plus 2 (tp - 1) / tp x tokens x hidden bytes over its bandwidth (a ring).
    Data-parallel `ranks` share the routed experts, and exchange tokens in a ring (`_exchange`).
    `device`: `bandwidth_bytes_per_s`, `peak_flops_per_s`, for tp > 1 or ranks `link_bandwidth_bytes_per_s` (one direction) and
    `link_latency_s`; without `peak_fp8_flops_per_s` or `peak_fp4_flops_per_s` weights of that width are multiplied with in
    16 bits. `kernel_s` is what each kernel of a step takes besides, `overhead_s` the step. Raises InputError for anything
    missing, impossible or unsupported.
    """
    if mode not in ("max", "additive"):
        raise InputError(f"roofline mode {mode!r} is unknown: use max or additive")
    whole = model_shape(model_config)
    shape = whole.shard(tp)
    bandwidth, peak = (rate(device, key) for key in ("bandwidth_bytes_per_s", "peak_flops_per_s"))
    operators = _forward(shape, device, mode, ranks) + _collectives(shape, device, tp, ranks)
    if kernel_s:
        operators += (Affine("kernels", row(constant=kernel_s * _kernels(shape))),)
    if overhead_s:
        operators += (Affine(HOST, row(constant=overhead_s)),)
    valid: Bounds = {"context_tokens": (0.0, float(whole.context_limit))} if whole.context_limit else {}
    gpus = f"{tp} x " if tp > 1 else ""
    uncertainty = (
        "an estimate, not a measurement: kernels reach neither the bandwidth nor the peak of a data sheet; decode steps, "
        f"summed from kernels measured on two GPUs, took {MEASURED[mode]} times as long as bytes and operations say, and whole "
        f"steps of engines up to {TOO_FAST['moe' if whole.moe_layers else 'dense']:g} times as long as this"
    )
    active = f" ({whole.active_parameters:,} active)" if whole.moe_layers else ""
    kept = f", {whole.quantised.kind} weights" if whole.quantised else ""
    return Profile(
        name=name,
        kind=kind_of(operators),
        operators=operators,
        model=str(model_config.get("_name_or_path") or model_config.get("model_type") or "decoder"),
        device=gpus + str(device.get("name", "device")),
        source=f"{ESTIMATED} ({mode}): {gpus}{bandwidth:.4g} bytes/s, {peak:.4g} flops/s, from config.json",
        uncertainty=uncertainty + ("; routing is taken to be uniform" if whole.moe_layers else ""),
        valid_range=valid,
        error_factors=(1.0, TOO_FAST["moe" if whole.moe_layers else "dense"]),
        parallel={"tensor_parallel_size": tp, "expert_parallel_size": tp * ranks if ranks > 1 else 1},
        notes=f"{whole.parameters:,} parameters{active}{kept}, {whole.kv_bytes_per_token:,} KV bytes per token.",
    )


def _forward(shape: ModelShape, device: Mapping[str, Any], mode: Mode, ranks: int) -> tuple[Operator, ...]:
    """What one GPU computes."""
    operators = _always_read(shape, device, mode)
    if shape.latent:
        operators += _attention(shape, device, mode)
    if shape.windowed_layers:
        operators += _attention(shape, device, mode, shape.window)
    return operators + (_experts(shape, device, mode, ranks) if shape.moe_layers else ())


def _collectives(shape: ModelShape, device: Mapping[str, Any], tp: int, ranks: int) -> tuple[Operator, ...]:
    """What GPUs send each other."""
    if ranks > 1 and not shape.moe_layers:
        raise InputError(f"data_parallel_size = {ranks}: the model has no experts to share: give 1")
    exchange = (_exchange(shape, device, tp, ranks),) if ranks > 1 else ()
    return exchange + ((_all_reduce(shape, device, tp),) if tp > 1 else ())


def with_host(kernels: Profile, host_s: float) -> Profile:
    """The costs of kernels that were measured one by one, and the host's time of a step besides."""
    if host_s == 0:
        return kernels
    return replace(kernels, operators=(*kernels.operators, Affine(HOST, row(constant=host_s))))


def _kernels(shape: ModelShape) -> int:
    """Kernels of a step, all layers; those that multiply with the output layer and sample are left out."""
    attention = shape.layers * (LATENT_KERNELS if shape.latent else ATTENTION_KERNELS)
    shared = DENSE_KERNELS - 1 if shape.shared_intermediate else 0
    others = shape.dense_layers * DENSE_KERNELS + shape.moe_layers * (EXPERT_KERNELS + shared)
    return attention + others + _factor_kernels(shape)


def _factor_kernels(shape: ModelShape) -> int:
    """Kernels that multiply with low-rank factors, all layers: one with V and one with U beside each product."""
    if shape.factors is None:
        return 0
    attention = shape.layers * (2 + 3 * (shape.latent is not None))
    beside = shape.dense_layers + shape.moe_layers * bool(shape.shared_intermediate)
    read = (attention + 2 * beside) * bool(shape.factors.rank)
    return 2 * (read + 2 * shape.moe_layers * bool(shape.factors.sparse_rank))


def _always_read(shape: ModelShape, device: Mapping[str, Any], mode: Mode) -> tuple[Operator, ...]:
    """Everything but routed experts, latents and windows: weights, KV and states that every step moves, and operations.

    Layers of linear attention read and write the state of each sequence once.
    """
    bandwidth, peak = rate(device, "bandwidth_bytes_per_s"), rate(device, "peak_flops_per_s")
    layers = 0 if shape.latent else shape.full_layers
    memory = row(
        constant=shape.read_bytes / bandwidth,
        live=2 * shape.state_bytes / bandwidth,
        kv_tokens=layers * shape.kv_layer_bytes / bandwidth,
    )
    compute = row(query_tokens=compute_s(shape.read_operations, device), pairs=layers * shape.pair_operations / peak)
    if mode == "max":
        return (Roof("forward", memory, compute),)
    return Affine("memory", memory), Affine("compute", compute)


def _attention(shape: ModelShape, device: Mapping[str, Any], mode: Mode, window: float = math.inf) -> tuple[Table, ...]:
    """Attention of the layers with a window, or of those without: of sequences that decode or verify, and of prompts.

    A query token meets min(context, window) tokens. A chunk (Llama 4) counts as a window of its length, and contexts that
    differ as equal ones. Latents are absorbed where sequences decode or verify, and expanded in prompts. Between two grid
    points of a prompt's chunk the curve bends by less than 2 %.
    """
    layers, most, named = shape.full_layers, float(shape.context_limit or MOST_CONTEXT), ""
    if window < math.inf:
        layers, most, named = shape.windowed_layers, float(MOST_TOKENS), "window "
    read_s = layers * shape.kv_layer_bytes / rate(device, "bandwidth_bytes_per_s")
    operation_s = layers / rate(device, "peak_flops_per_s")
    together = np.maximum if mode == "max" else np.add

    overtaken = read_s / (
        operation_s * shape.pair_operations
    )  # query tokens whose operations take as long as the bytes
    width = np.array([1.0, overtaken, MOST_TOKENS] if 1 < overtaken < MOST_TOKENS else [1.0, MOST_TOKENS])
    context = np.unique([0.0, min(window, most), most])
    seen = np.minimum(context, window)
    decode = together(read_s * seen + 0 * width[:, None], operation_s * shape.pair_operations * seen * width[:, None])

    points = 2 + math.ceil(math.log(min(window, most)) / math.log(CHUNK_RATIO))
    chunk = np.unique([*np.rint(np.geomspace(1, min(window, most), points)), most])
    before = np.concatenate([[0.0], chunk])
    pairs = _pairs(chunk[:, None], before, window)
    operations = shape.prompt_operations(pairs, before + 0 * pairs)
    prompts = together(read_s * (chunk[:, None] + np.minimum(before, window)), operation_s * operations)
    return (
        Table(f"{named}attention", ("decode_width", "decode_context"), (width, context), decode, 1, "any_decode", "decode_seqs"),
        Table(
            f"prefill {named}attention", ("prefill_chunk", "prefill_context"), (chunk, before), prompts, 1, "any_prefill",
            "prefill_seqs",
        ),
    )  # fmt: skip


def _pairs(chunk: FloatArray, before: FloatArray, window: float) -> FloatArray:
    """Query x context pairs of a chunk after so many tokens, each query token seeing at most the window."""
    growing = np.clip(window - before, 0, chunk)  # query tokens that still see everything
    past = np.where(chunk > growing, window, 0.0)  # what each of the others sees
    return growing * before + growing * (growing + 1) / 2 + (chunk - growing) * past


def _experts(shape: ModelShape, device: Mapping[str, Any], mode: Mode, ranks: int) -> tuple[Operator, ...]:
    """Routed experts of all layers, over the mean of the ranks' tokens: bytes of the touched ones, operations of k.

    Of a GPU's 1 / ranks of E, n tokens of all touch as many of E (1 - (1 - k/E)^n).
    """
    bandwidth = rate(device, "bandwidth_bytes_per_s")
    token_s = compute_s(shape.routed_operations, device)

    def memory_s(tokens: npt.ArrayLike) -> FloatArray:
        touched = shape.expected_experts(np.asarray(tokens) * ranks) / ranks
        return shape.moe_layers * touched * shape.expert_bytes / bandwidth

    # beyond this, all experts are touched but for one part in 10^5
    saturated = math.log(1e-5) / math.log1p(-shape.experts_per_token / (shape.experts + 1))
    if mode == "additive":
        grid = _token_grid(saturated)
        memory, compute = (("experts memory", memory_s(grid)), ("experts compute", grid * token_s))
        return tuple(Table(name, ("expert_tokens",), (grid,), seconds) for name, seconds in (memory, compute))
    # the curve has a kink where operations overtake bytes and is a straight line beyond
    overtaken = 1 + bisect_left(range(1, MOST_TOKENS), True, key=lambda count: bool(count * token_s >= memory_s(count)))
    grid = _token_grid(max(overtaken, saturated), overtaken - 1, overtaken)
    return (Table("experts", ("expert_tokens",), (grid,), np.maximum(memory_s(grid), grid * token_s)),)


def _token_grid(curved_to: float, *stops: float) -> FloatArray:
    """Whole numbers of tokens from 1 on, close together up to `curved_to`, with `stops` among them, then far apart."""
    points = 2 + math.ceil(math.log(curved_to) / math.log(GRID_RATIO))
    grid = np.unique(np.rint([*np.geomspace(1, curved_to + 1, points), *stops, MOST_TOKENS]))
    return grid[(grid >= 1) & (grid <= MOST_TOKENS)]


def _all_reduce(shape: ModelShape, device: Mapping[str, Any], tp: int) -> Affine:
    """Two ring all-reduces of the hidden states in each layer."""
    link = rate(device, "link_bandwidth_bytes_per_s")
    latency = rate(device, "link_latency_s", may_be_zero=True)
    moved_bytes = 2 * (tp - 1) / tp * shape.hidden * shape.bytes_per_parameter
    return Affine("all-reduce", row(constant=latency, query_tokens=moved_bytes / link), repeat=2 * shape.layers)


def _exchange(shape: ModelShape, device: Mapping[str, Any], tp: int, ranks: int) -> Table:
    """Tokens of all ranks, gathered before each layer's experts and scattered after; a message has 1/tp of a rank's."""
    link = rate(device, "link_bandwidth_bytes_per_s")
    latency_s = rate(device, "link_latency_s", may_be_zero=True)
    tokens, messages = np.array([0.0, MOST_TOKENS]), tp * ranks - 1
    message_s = latency_s + tokens * (shape.hidden * shape.bytes_per_parameter / tp / link)
    return Table("expert exchange", ("expert_tokens",), (tokens,), messages * message_s, 2 * shape.moe_layers)
