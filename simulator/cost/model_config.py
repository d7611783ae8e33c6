"""Reads the shape of a model from its Hugging Face `config.json`, and refuses by name what has another shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.cost.shape import ModelShape
from traces.errors import InputError

BYTES_PER_PARAMETER = {"bfloat16": 2, "float16": 2, "float32": 4}
ALIASES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "intermediate_size": ("intermediate_size", "ffn_hidden_size", "n_inner"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_key_value_heads", "n_head_kv", "num_kv_heads"),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"),
    "num_experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "num_experts_per_tok": ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"),
    "moe_intermediate_size": ("moe_intermediate_size",),
    "shared_expert_intermediate_size": ("shared_expert_intermediate_size", "shared_intermediate_size"),
    "n_shared_experts": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    "first_k_dense_replace": ("first_k_dense_replace", "moe_layer_start_index"),
    "decoder_sparse_step": ("decoder_sparse_step", "moe_layer_interval"),
    "torch_dtype": ("torch_dtype", "dtype"),
}
"""Names that engines accept for one number, by the name used here."""

UNSUPPORTED = {
    "kv_lora_rank": "multi-head latent attention",
    "index_topk": "sparse attention",
    "attention_chunk_size": "chunked attention",
    "linear_num_key_heads": "linear attention",
    "linear_attn_config": "linear attention",
    "full_attention_interval": "linear attention",
    "attn_type_list": "linear attention",
    "ssm_cfg": "state-space layers",
    "state_size": "state-space layers",
    "ssm_state_size": "state-space layers",
    "mamba_d_state": "state-space layers",
    "mamba_num_heads": "state-space layers",
    "layers_block_type": "hybrid layers",
    "hybrid_override_pattern": "hybrid layers",
    "attn_layer_period": "hybrid layers",
    "block_configs": "layers of different shapes",
    "num_kv_shared_layers": "keys and values shared between layers",
    "quantization_config": "quantised weights",
    "compression_config": "quantised weights",
    "is_encoder_decoder": "an encoder-decoder",
}
LAYER_TYPES = {
    "sliding_attention": "sliding-window attention",
    "linear_attention": "linear attention",
    "chunked_attention": "chunked attention",
    "mamba": "state-space layers",
}
MOST, MOST_LAYERS = 10**9, 10**4
"""Numbers that no model reaches: above them a config is wrong."""
UNGATED = ("bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "mpt", "opt", "phi")


def model_shape(config: Mapping[str, Any]) -> ModelShape:
    """Shape from the fields of a Hugging Face `config.json`, or of the `text_config` in one.

    A vision or audio tower beside a `text_config` is not counted. Raises InputError for a missing or impossible number,
    and by name for what is no decoder with grouped-query attention and gated feed-forwards in 16 or 32 bits.
    """
    config = _text_config(config)
    _check_supported(config)
    kind = _kind(config)
    hidden, heads, vocabulary = (_count(config, key) for key in ("hidden_size", "num_attention_heads", "vocab_size"))
    layers = _count(config, "num_hidden_layers", most=MOST_LAYERS)
    kv_heads = _count(config, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise InputError(f"model config num_key_value_heads = {kv_heads} does not divide {heads} attention heads")
    if config.get("head_dim") is None and hidden % heads:
        raise InputError(
            f"model config num_attention_heads = {heads} does not divide hidden_size = {hidden}: add head_dim"
        )
    experts = _experts(config, layers)
    moe_layers = experts.get("moe_layers", 0)
    precision = str(_value(config, "torch_dtype") or "bfloat16").removeprefix("torch.")
    if precision not in BYTES_PER_PARAMETER:
        raise InputError(f"model config torch_dtype = {precision[:40]!r}: use one of {', '.join(BYTES_PER_PARAMETER)}")
    bias = bool(config.get("attention_bias"))
    return ModelShape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_count(config, "head_dim", hidden // heads),
        intermediate=_count(config, "intermediate_size") if moe_layers < layers else 0,
        vocabulary=vocabulary,
        tied_embeddings=bool(config.get("tie_word_embeddings")),
        bytes_per_parameter=BYTES_PER_PARAMETER[precision],
        context_limit=_count(config, "max_position_embeddings", 0) or None,
        qkv_bias=bias or kind.startswith("qwen2"),
        output_bias=bias and not kind.startswith("qwen2"),
        mlp_bias=bool(config.get("mlp_bias")),
        qk_norm=kind.startswith("qwen3") or bool(config.get("use_qk_norm")),
        shared_gate=kind.startswith("qwen2") and experts.get("shared_intermediate", 0) > 0,
        **experts,
    )


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's own fields; those that a nested `text_config` leaves out stand around it."""
    for key in ("text_config", "llm_config"):
        nested = config.get(key)
        if isinstance(nested, Mapping):
            return {**config, **{name: value for name, value in nested.items() if value is not None}}
    for key in ("vision_config", "audio_config"):
        if config.get(key):
            raise InputError(f"model config {key}: a multimodal model without text_config is not supported")
    return config


def _check_supported(config: Mapping[str, Any]) -> None:
    """Raise InputError naming the first thing that is not grouped-query attention and a gated feed-forward."""
    for key, what in UNSUPPORTED.items():
        if config.get(key):
            raise _unsupported(key, config[key], what)
    kind = _kind(config)
    if any(word in kind for word in ("mamba", "rwkv", "jamba")):
        raise _unsupported("model_type", kind, "state-space layers")
    if kind.replace("forcausallm", "") in UNGATED:
        raise _unsupported("model_type", kind, "a feed-forward without a gate")
    for key in ("hidden_act", "activation_function", "hidden_activation"):
        if config.get(key) not in (None, "silu", "swish", "swiglu"):
            raise _unsupported(key, config[key], "a feed-forward that is no SwiGLU")
    for layer in _list(config, "layer_types"):
        if layer not in ("full_attention", "attention"):
            raise _unsupported("layer_types", layer, LAYER_TYPES.get(str(layer), "layers of this type"))
    # Qwen's configs name a window that is used only where they say so, and then only from max_window_layers on
    if config.get("sliding_window") and config.get("use_sliding_window", not kind.startswith("qwen")):
        window, limit = _count(config, "sliding_window"), _count(config, "max_position_embeddings", 0)
        windowed_layers = _count(config, "num_hidden_layers") - _count(config, "max_window_layers", 0, least=0)
        longer_than_context = 0 < limit <= window
        if windowed_layers > 0 and not longer_than_context:
            raise _unsupported("sliding_window", window, "sliding-window attention")


def _experts(config: Mapping[str, Any], layers: int) -> dict[str, int]:
    """Fields of ModelShape about experts; none for a dense model."""
    experts = _count(config, "num_experts", 1, least=0)
    if experts <= 1:
        return {}
    per_token = _count(config, "num_experts_per_tok")
    if per_token > experts:
        raise InputError(f"model config num_experts_per_tok = {per_token} of {experts} experts: give at most as many")
    moe_layers = sum(_is_moe(config, layer) for layer in range(layers))
    # Mixtral's family gives the width of its experts as intermediate_size
    family = config.get("num_local_experts") is not None or _kind(config).startswith("olmoe")
    width = _count(config, "moe_intermediate_size", _count(config, "intermediate_size") if family else None)
    shared = _count(config, "n_shared_experts", 0, least=0) * width
    return {
        "experts": experts,
        "experts_per_token": per_token,
        "expert_intermediate": width,
        "shared_intermediate": _count(config, "shared_expert_intermediate_size", shared, least=0),
        "moe_layers": moe_layers,
    }


def _is_moe(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer's feed-forward is of experts: the rules of Qwen MoE and DeepSeek."""
    frequency = config.get("moe_layer_freq") or 1
    if isinstance(frequency, list):
        return layer < len(frequency) and bool(frequency[layer])
    return (
        layer not in _list(config, "mlp_only_layers")
        and layer >= _count(config, "first_k_dense_replace", 0, least=0)
        and (layer + 1) % _count(config, "decoder_sparse_step", 1) == 0
        and layer % _count(config, "moe_layer_freq", 1) == 0
    )


def _kind(config: Mapping[str, Any]) -> str:
    """Model type in lower case, from the architecture if it is not given."""
    architectures = _list(config, "architectures") or [""]
    return str(config.get("model_type") or architectures[0]).lower()


def _list(config: Mapping[str, Any], key: str) -> list[Any]:
    value = config.get(key)
    if value is not None and not isinstance(value, list):
        raise InputError(f"model config {key} = {str(value)[:40]!r}: give the list from the model's config.json")
    return value or []


def _value(config: Mapping[str, Any], key: str) -> Any:
    """Value of a field under any name that engines accept; None if absent."""
    given = {name: config[name] for name in ALIASES.get(key, (key,)) if config.get(name) is not None}
    if len({str(value) for value in given.values()}) > 1:
        shown = ", ".join(f"{name} = {repr(value)[:40]}" for name, value in given.items())
        raise InputError(f"model config {shown}: two names of one field disagree; remove one")
    return next(iter(given.values()), None)


def _count(config: Mapping[str, Any], key: str, default: int | None = None, least: int = 1, most: int = MOST) -> int:
    value = _value(config, key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        limit = f" and <= {most}" if isinstance(value, int) and value > most else ""
        raise InputError(
            f"model config {key} = {repr(value)[:40]}: give the integer >= {least}{limit} from the model's config.json"
        )
    return value


def _unsupported(key: str, value: object, what: str) -> InputError:
    shown = " ".join(str(value).split())[:40]
    return InputError(f"model config {key} = {shown}: {what} is not supported by the roofline: use a measured profile")
