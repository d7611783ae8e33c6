"""An estimate of the step time from a model's configuration and a device's data sheet, where nothing was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from simulator.cost.model import Profile
from simulator.cost.operators import Affine, Bounds, Operator, Roof, row
from traces.errors import InputError

BYTES_PER_PARAMETER = {"bfloat16": 2, "float16": 2, "float32": 4}
NOT_DENSE_GQA = {
    "num_experts": "mixture of experts",
    "num_local_experts": "mixture of experts",
    "moe_num_experts": "mixture of experts",
    "n_routed_experts": "mixture of experts",
    "kv_lora_rank": "multi-head latent attention",
    "quantization_config": "quantised weights",
    "linear_num_key_heads": "linear attention",
    "ssm_cfg": "state-space layers",
}


@dataclass(frozen=True)
class DenseShape:
    """Numbers of a dense decoder with grouped-query attention that its step time depends on."""

    layers: int
    query_width: int
    kv_width: int
    parameters: int
    embedding_parameters: int
    bytes_per_parameter: int

    @property
    def read_parameters(self) -> int:
        """Parameters read, and multiplied with, in each forward pass: all but a separate input embedding."""
        return self.parameters - self.embedding_parameters

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token, all layers, in the weights' precision."""
        return 2 * self.layers * self.kv_width * self.bytes_per_parameter


def dense_shape(config: Mapping[str, Any]) -> DenseShape:
    """Shape from the fields of a Hugging Face `config.json`.

    Raises InputError for a missing or impossible number, and by name for what is not a dense model with GQA.
    """
    for key, what in NOT_DENSE_GQA.items():
        if config.get(key) not in (None, 0, 1, False):
            raise InputError(
                f"model config {key} = {str(config[key])[:40]}: {what} is not supported by the roofline "
                "yet: use a measured profile"
            )
    hidden, inner, layers, heads, vocabulary = (
        _count(config, key)
        for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    )
    kv_heads = _count(config, "num_key_value_heads", heads)
    head_dim = _count(config, "head_dim", hidden // heads)
    query, kv = heads * head_dim, kv_heads * head_dim
    qwen2 = config.get("model_type") == "qwen2"
    biases = query + 2 * kv if qwen2 else (query + 2 * kv + hidden) * bool(config.get("attention_bias"))
    head_norms = 2 * head_dim if config.get("model_type") == "qwen3" else 0
    layer = 2 * hidden * query + 2 * hidden * kv + 3 * hidden * inner + 2 * hidden + biases + head_norms
    embedding = 0 if config.get("tie_word_embeddings") else vocabulary * hidden
    precision = str(config.get("torch_dtype") or config.get("dtype") or "bfloat16").removeprefix("torch.")
    if precision not in BYTES_PER_PARAMETER:
        raise InputError(f"model config torch_dtype = {precision!r}: use one of {', '.join(BYTES_PER_PARAMETER)}")
    return DenseShape(
        layers=layers,
        query_width=query,
        kv_width=kv,
        parameters=layers * layer + hidden + vocabulary * hidden + embedding,
        embedding_parameters=embedding,
        bytes_per_parameter=BYTES_PER_PARAMETER[precision],
    )


def roofline(
    model_config: Mapping[str, Any],
    device: Mapping[str, Any],
    mode: Literal["max", "additive"] = "max",
    overhead_s: float = 0.0,
    name: str = "roofline",
) -> Profile:
    """Profile that prices a step by bytes over bandwidth and operations over peak; an estimate, labelled so.

    Bytes are weights plus KV bytes per token x kv_tokens; operations are 2 x parameters per query token plus
    4 x layers x query heads x head width per query x context pair. `max` takes the larger of the two times (perfect
    overlap), `additive` their sum (none); the published fits are additive. `device` needs `bandwidth_bytes_per_s` and
    `peak_flops_per_s`. Raises InputError for anything missing, impossible or not dense.
    """
    shape = dense_shape(model_config)
    bandwidth, peak = (_rate(device, key) for key in ("bandwidth_bytes_per_s", "peak_flops_per_s"))
    memory = row(
        constant=shape.read_parameters * shape.bytes_per_parameter / bandwidth,
        kv_tokens=shape.kv_bytes_per_token / bandwidth,
    )
    compute = row(
        query_tokens=2 * shape.read_parameters / peak,
        pairs=4 * shape.layers * shape.query_width / peak,
    )
    operators: tuple[Operator, ...]
    if mode == "max":
        operators = (Roof("forward", memory, compute),)
    elif mode == "additive":
        operators = (Affine("memory", memory), Affine("compute", compute))
    else:
        raise InputError(f"roofline mode {mode!r} is unknown: use max or additive")
    if overhead_s:
        operators += (Affine("overhead", row(constant=overhead_s)),)
    longest = model_config.get("max_position_embeddings")
    valid: Bounds = {"context_tokens": (0.0, float(_count(model_config, "max_position_embeddings")))} if longest else {}
    return Profile(
        name=name,
        kind="roofline" if mode == "max" else "affine",
        operators=operators,
        model=str(model_config.get("_name_or_path") or model_config.get("model_type") or "dense decoder"),
        device=str(device.get("name", "device")),
        source=f"roofline estimate ({mode}): {bandwidth:.4g} bytes/s, {peak:.4g} flops/s, from config.json",
        uncertainty="an estimate, not a measurement: kernels reach neither the bandwidth nor the peak of a data sheet",
        valid_range=valid,
        notes=f"{shape.parameters:,} parameters, {shape.kv_bytes_per_token:,} KV bytes per token.",
    )


def _count(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"model config {key} = {value!r}: give the integer >= 1 from the model's config.json")
    return value


def _rate(device: Mapping[str, Any], key: str) -> float:
    value = device.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InputError(f"device {key} = {value!r}: give a number > 0, such as 3.35e12 bytes/s or 9.89e14 flops/s")
    return float(value)
