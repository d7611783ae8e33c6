"""Kernel profiles of vLLM as LLMServingSim ships them: a folder with `meta.yaml` and, by tensor parallelism, `tp1/`, `tp2/`...

Each holds microseconds: `dense.csv` by layer and tokens, `per_sequence.csv` by sampled tokens, `attention.csv` by prefill
chunk, KV before it, decoding sequences and KV of each, `skew.csv` of batches whose KV is uneven, and of mixture-of-experts
models `moe.csv` by tokens and experts touched.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from calibration.imports.attention import WIDTHS, attention_tables, verification_note
from calibration.imports.skew import skew_tables
from calibration.imports.tiles import stepped
from simulator.cost.model import Profile
from simulator.cost.model_config import model_shape
from simulator.cost.operators import Affine, Operator, Table, row
from simulator.cost.plain import check_plain
from simulator.cost.shape import ModelShape
from traces.errors import InputError

Float64 = npt.NDArray[np.float64]

ONCE = {"embedding", "final_layernorm"}
TWICE_A_LAYER = {"layernorm"}
"""Every other dense layer runs once in each layer of the model; `layernorm` before attention and before the MLP."""
PER_SEQUENCE = {"lm_head", "sampler"}
MICRO = 1e-6
Made = tuple[list[Operator], dict[str, dict[str, float]]]
"""Operators, and the held-out error of each."""


def import_llmservingsim(
    folder: Path,
    config: Mapping[str, Any],
    tp: int = 1,
    link_bandwidth_bytes_per_s: float | None = None,
    link_latency_s: float | None = None,
    skew: Literal["auto", "on", "off"] = "auto",
    ep: int = 1,
) -> Profile:
    """Return the profile of one model on `tp` GPUs; of a mixture of experts whose experts `ep` ranks share, that of one rank.

    folder: the one that holds `tp1`; config: of the model, as Hugging Face publishes it; ep: 1, or as vLLM spreads experts, tp
    times the data-parallel ranks that share them. The link figures price all-reduces, two in a layer, in a ring, and what
    ranks send each other: needed if tp or ep > 1. skew: charge uneven batches what `skew.csv` says; `auto` asks `meta.yaml`
    whether its authors trust it. Raises InputError.
    """
    shape, folder = model_shape(config), folder.resolve()
    check_plain(shape, "these tables")
    tables = _tables(folder, tp, ep, shape)
    meta = _meta(folder / "meta.yaml")
    _check_model(meta, shape)
    attention = _read(tables / "attention.csv", ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"))
    operators: list[Operator] = []
    errors: dict[str, dict[str, float]] = {}
    for made, found in (
        _dense(_read(tables / "dense.csv", ("layer", "tokens", "time_us"), text=("layer",)), shape),
        _per_sequence(_read(tables / "per_sequence.csv", ("layer", "sequences", "time_us"), text=("layer",))),
        attention_tables(attention, shape.layers),
    ):
        operators += made
        errors |= found
    if shape.experts:
        moe = (folder / "tp1" if ep > 1 else tables) / "moe.csv"  # an expert that is on one GPU is there whole
        operators += _experts(_read(moe, ("tokens", "activated_experts", "time_us")), shape, tp, ep)
    trusted = bool(_section(meta, "skew_fit").get("enabled"))
    uneven = skew == "on" or (skew == "auto" and trusted)
    if uneven:
        columns = ("n", "pc", "kp", "kv_big", "kv_mean", "t_mean_us", "t_skew_us")
        operators += skew_tables(_read(tables / "skew.csv", columns), attention, shape.layers)
    operators += _collectives(shape, tp, ep, link_bandwidth_bytes_per_s, link_latency_s)
    ranks = f"tp {tp}, ep {ep}" if ep > 1 else f"tp {tp}"
    return Profile(
        name=f"{folder.parent.name} on {meta.get('hardware', folder.parent.parent.name)}, {ranks}",
        kind="table",
        operators=tuple(operators),
        model=str(meta.get("model") or folder.parent.name),
        device=f"{tp} x {meta['gpu']}" if tp > 1 else str(meta["gpu"]),
        source=f"LLMServingSim profile {folder.parent.parent.name}/{folder.parent.name}/{folder.name}/tp{tp}, "
        f"vLLM {meta.get('vllm_version')}, {meta.get('profiled_at')}",
        uncertainty="kernels timed one by one and summed: launch gaps, and what CUDA graphs save of them, are not in it",
        valid_range=_range(operators, attention, _most_tokens(meta)),
        notes=f"Uneven KV lengths {'cost what skew.csv measured' if uneven else 'cost what their mean does'}"
        f"{'' if uneven or trusted else ': its authors switched the skew fit off'}. Attention of several prefill chunks: "
        "the mixed kernel for one of their mean length, and a prefill kernel for each further one.",
        derived={"decode_width": 1.0},
        derivation=verification_note(attention),
        held_out=errors,
        parallel={"tensor_parallel_size": tp, "expert_parallel_size": ep},
    )


def _tables(folder: Path, tp: int, ep: int, shape: ModelShape) -> Path:
    """The folder of a degree; InputError where it was not measured, or the experts cannot be spread so."""
    if not 1 <= ep <= max(shape.experts, 1) or (ep > 1 and (shape.experts % ep or ep % tp)):
        raise InputError(
            f"ep = {ep} at tp = {tp}: the model has {shape.experts} experts; give a multiple of tp that divides them, or 1"
        )
    tables = folder / f"tp{tp}"
    if not tables.is_dir():
        there = sorted(path.name for path in folder.glob("tp*")) if folder.is_dir() else []
        raise InputError(
            f"{tables}: no such folder: measured are {', '.join(there) or 'none'}; give --tp of one of them"
        )
    return tables


def _most_tokens(meta: dict[str, Any]) -> float:
    """Tokens of the largest step that the profiled engine would run; 0 where it does not say."""
    most = _section(meta, "engine_effective").get("max_num_batched_tokens", 0)
    if not isinstance(most, int | float) or not 0 <= most < np.inf:
        raise InputError(f"meta.yaml: engine_effective.max_num_batched_tokens = {most!r}: give a number of tokens")
    return float(most)


def _dense(table: pd.DataFrame, shape: ModelShape) -> Made:
    needed = {"qkv_proj", "o_proj"} | ({"gate_up_proj", "down_proj"} if shape.dense_layers else set())
    if missing := sorted(needed - set(table["layer"])):
        raise InputError(f"dense.csv: layer {missing[0]} is missing: a step cannot be priced without it")
    tables: list[Operator] = []
    errors = {}
    for layer, rows in table.groupby("layer"):
        name = str(layer)
        one, errors[name] = _by(name, "padded_tokens", rows["tokens"], rows["time_us"], _repeat(name, shape.layers))
        tables.append(one)
    return tables, errors


def _repeat(layer: str, layers: int) -> int:
    return 1 if layer in ONCE else 2 * layers if layer in TWICE_A_LAYER else layers


def _per_sequence(table: pd.DataFrame) -> Made:
    unknown = set(table["layer"]) - PER_SEQUENCE
    if unknown or set(table["layer"]) != PER_SEQUENCE:
        raise InputError(f"per_sequence.csv: layers are {sorted(set(table['layer']))}, expected {sorted(PER_SEQUENCE)}")
    tables: list[Operator] = []
    errors = {}
    for layer, rows in table.groupby("layer"):
        one, errors[str(layer)] = _by(str(layer), "sampled_tokens", rows["sequences"], rows["time_us"])
        tables.append(one)
    return tables, errors


def _by(
    name: str, axis: str, points: "pd.Series[Any]", time_us: "pd.Series[Any]", repeat: int = 1
) -> tuple[Table, dict[str, float]]:
    order = np.argsort(points.to_numpy(np.float64))
    grid, values, error = stepped(points.to_numpy(np.float64)[order], time_us.to_numpy(np.float64)[order])
    return Table(name, (axis,), (grid,), values * MICRO, repeat), error


def _experts(table: pd.DataFrame, shape: ModelShape, tp: int, ep: int) -> list[Operator]:
    """Experts by tokens, at the experts that so many tokens touch if routing is uniform: E(1 - (1 - k/E)^n) of them.

    With expert parallelism a GPU has 1/ep of the experts, whole, and serves the tokens of all ep/tp ranks: as many pairs of
    token and expert as 1/tp of the ranks' mean of tokens makes, on fewer experts that are touched more often. So the axis is
    that mean.
    """
    grid = table.pivot_table(index="tokens", columns="activated_experts", values="time_us")
    touched = grid.columns.to_numpy(np.float64)
    filled = np.array(
        [np.interp(touched, touched[have], line[have]) for line in grid.to_numpy() for have in [~np.isnan(line)]]
    )
    tokens = grid.index.to_numpy(np.float64)
    dense = np.unique(np.round(np.geomspace(tokens[0], tokens[-1], 160))).astype(np.float64)
    ranks, share = (ep // tp, dense / tp) if ep > 1 else (1, dense)
    experts = np.clip(shape.expected_experts(dense * ranks) / ep, touched[0], touched[-1])
    by_touched = np.array([np.interp(share, tokens, column) for column in filled.T]).T
    time_us = np.array([np.interp(n, touched, line) for n, line in zip(experts, by_touched, strict=True)])
    return [Table("experts", ("expert_tokens",), (dense,), time_us * MICRO, shape.moe_layers)]


def _collectives(
    shape: ModelShape, tp: int, ep: int, bandwidth: float | None, latency_s: float | None
) -> list[Operator]:
    if max(tp, ep) == 1:
        return []
    link = _link(bandwidth, latency_s, max(tp, ep))
    all_reduce: list[Operator] = [_all_reduce(shape, tp, *link)] if tp > 1 else []
    return all_reduce + ([_exchange(shape, tp, ep, *link)] if ep > tp else [])


def _link(bandwidth: float | None, latency_s: float | None, gpus: int) -> tuple[float, float]:
    if bandwidth is None or latency_s is None or not (0 < bandwidth < np.inf and 0 <= latency_s < np.inf):
        raise InputError(
            f"{gpus} GPUs, link bandwidth {bandwidth}, latency {latency_s}: the profile has no table of collectives; give "
            "--link-bandwidth in bytes/s (> 0) and --link-latency in s (>= 0)"
        )
    return bandwidth, latency_s


def _all_reduce(shape: ModelShape, tp: int, bandwidth: float, latency_s: float) -> Affine:
    """Two in a layer, each a ring of 2 (tp - 1) messages of 1/tp of the activations."""
    per_token, hops = shape.hidden * shape.bytes_per_parameter / tp / bandwidth, 2 * (tp - 1)
    return Affine("all-reduce", row(constant=hops * latency_s, padded_tokens=hops * per_token), 2 * shape.layers)


def _exchange(shape: ModelShape, tp: int, ep: int, bandwidth: float, latency_s: float) -> Table:
    """All GPUs gather each other's tokens before the experts and reduce-scatter them after: ep - 1 messages each time.

    A message has 1/tp of a rank's tokens, of as many as CUDA graphs make them; of the mean where they differ.
    """
    hops, tokens = ep - 1, np.array([0.0, 1.0])  # a straight line, which goes on
    message_s = latency_s + tokens * (shape.hidden * shape.bytes_per_parameter / tp / bandwidth)
    return Table("expert exchange", ("expert_tokens",), (tokens,), hops * message_s, 2 * shape.moe_layers)


def _range(operators: list[Operator], attention: pd.DataFrame, most_tokens: float) -> dict[str, tuple[float, float]]:
    """What was measured: steps of so many tokens, sequences, and contexts."""

    def most(axis: str) -> float:
        return min(float(one.grid[0][-1]) for one in operators if isinstance(one, Table) and one.axes == (axis,))

    tokens = (1.0, max(most("padded_tokens"), most_tokens))
    experts = any(one.name == "experts" for one in operators)
    return ({"expert_tokens": tokens} if experts else {}) | {
        "padded_tokens": tokens,
        "sampled_tokens": (1.0, most("sampled_tokens")),
        "decode_seqs": (0.0, float(attention["n_decode"].max())),
        "decode_context": (0.0, float(attention["kv_decode"].max())),
        "decode_width": (1.0, WIDTHS[-1]),
        "prefill_chunk": (0.0, float(attention["prefill_chunk"].max())),
        "prefill_context": (0.0, float(attention["kv_prefill"].max())),
    }


def _check_model(meta: dict[str, Any], shape: ModelShape) -> None:
    """Refuse a configuration of another model: what was profiled was one shard of its own, at one of the degrees measured."""
    profiled = _section(_section(meta, "engine_effective"), "hf_overrides")
    degrees = meta.get("tp_degrees") or [1]
    widths = {"num_attention_heads": shape.heads} | (
        {"intermediate_size": shape.intermediate} if shape.dense_layers else {}
    )
    for name, width in widths.items():
        shard = profiled.get(name)
        if isinstance(shard, int) and isinstance(degrees, list) and width not in [shard * tp for tp in degrees]:
            raise InputError(
                f"model config {name} = {width}, and the profile is of a model with {shard} on each GPU (tp {degrees}): "
                f"give the configuration of {meta.get('model', 'the model that was profiled')}"
            )


def _section(meta: dict[str, Any], name: str) -> dict[str, Any]:
    section = meta.get(name) or {}
    if not isinstance(section, dict):
        raise InputError(f"meta.yaml: {name} = {str(section)[:40]!r} is not a mapping: write it as 'key: value' lines")
    return section


def _meta(path: Path) -> dict[str, Any]:
    try:
        meta = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({error}): the profile's folder holds a meta.yaml") from None
    if not isinstance(meta, dict) or not meta.get("gpu"):
        raise InputError(f"{path}: gpu is missing: it names the device that was measured")
    return meta


def _read(path: Path, columns: tuple[str, ...], text: tuple[str, ...] = ()) -> pd.DataFrame:
    """A CSV file with at least these columns, numbers checked."""
    try:
        table = pd.read_csv(path)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}): expected a CSV file with {', '.join(columns)}") from None
    missing = [name for name in columns if name not in table.columns]
    if missing or table.empty:
        raise InputError(f"{path}: {'has no rows' if not missing else 'column ' + missing[0] + ' is missing'}")
    for name in columns:
        if name in text:
            continue
        values = pd.to_numeric(table[name], errors="coerce")
        at_least = "> 0" if name == "time_us" else ">= 0"
        bad = ~(np.isfinite(values) & (values > 0 if name == "time_us" else values >= 0))
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"{path}, line {first + 2}, {name} = {table[name][first]}: give a finite number {at_least}"
            )
        table[name] = values
    return table
