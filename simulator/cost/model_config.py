"""Reads the shape of a model from its Hugging Face `config.json`, and refuses by name what has another shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.cost.attention import Latent, Linear
from simulator.cost.config_fields import count, items, kind_of, text_config, unsupported, value_of
from simulator.cost.layer_kinds import Layers, layers_of
from simulator.cost.quantisation import kv_element_bytes, quantised
from simulator.cost.shape import ModelShape
from simulator.cost.weight_bits import with_weight_bits
from traces.errors import InputError

BYTES_PER_PARAMETER = {"bfloat16": 2, "float16": 2, "float32": 4}
UNSUPPORTED = {
    "index_topk": "sparse attention",
    "sparse_attention_config": "sparse attention",
    "linear_attn_config": "this kind of linear attention",
    "ssm_cfg": "state-space layers",
    "state_size": "state-space layers",
    "ssm_state_size": "state-space layers",
    "mamba_d_state": "state-space layers",
    "mamba_num_heads": "state-space layers",
    "layers_block_type": "hybrid layers",
    "hybrid_override_pattern": "hybrid layers",
    "attn_layer_period": "hybrid layers",
    "block_configs": "layers of different shapes",
    "hybrid_layer_pattern": "windowed layers of other widths",
    "global_head_dim": "windowed layers of other widths",
    "num_kv_shared_layers": "keys and values shared between layers",
    "use_cla": "keys and values shared between layers",
    "cross_attention_layers": "cross-attention",
    "zero_expert_num": "experts without weights",
    "ffn_config": "a feed-forward described by ffn_config",
    "is_encoder_decoder": "an encoder-decoder",
}
UNGATED = (
    "bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "mpt", "nemotron", "opt", "phi", "starcoder2",
)  # fmt: skip
GATED, GEMMA_GATED = (None, "silu", "swish", "swiglu"), ("gelu", "gelu_pytorch_tanh")
OTHER_LAYERS = ("gemma3n", "gemma4", "mimo_v2")
"""Families whose layers differ from each other in ways that their fields do not all say."""
GEMMA3 = {
    "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096,
    "max_position_embeddings": 131_072,
}  # fmt: skip
"""What Gemma 3 leaves out of its files, as `Gemma3TextConfig` of transformers fills it in."""
CORRECTED = ("deepseek_v3", "kimi_k2", "glm4_moe", "minimax_m2")
"""Families whose routers add a learned number to each expert's score."""


def model_shape(config: Mapping[str, Any]) -> ModelShape:
    """Shape from the fields of a Hugging Face `config.json`, or of the `text_config` in one.

    A field `kv_cache_dtype`, which no checkpoint has, says what keys and values are cached in (`fp8`, `auto`: as
    activations) in place of what the checkpoint says, and one of `weight_bits` brings its weights down to so many
    (`weight_bits.WeightBits`). Known are decoders with gated feed-forwards, dense or of experts (Qwen 2 and 3, GLM-4.5,
    DeepSeek-V3, Llama 4), and grouped-query attention, with windows (Gemma 3, gpt-oss) or linear layers beside it
    (Qwen3-Next), or multi-head latent attention; weights in 16 or 32 bits, FP8, NVFP4 or MXFP4.
    A vision or audio tower beside a `text_config` is not counted. Raises InputError for a missing or impossible number,
    and by name for anything else.
    """
    config = text_config(config)
    kind = kind_of(config)
    if kind.startswith("gemma3"):
        config = {**GEMMA3, **config}
    _check_supported(config)
    hidden, vocabulary = count(config, "hidden_size"), count(config, "vocab_size")
    layers = layers_of(config)
    precision = str(value_of(config, "torch_dtype") or "bfloat16").removeprefix("torch.")
    if precision not in BYTES_PER_PARAMETER:
        raise InputError(f"model config torch_dtype = {precision[:40]!r}: use one of {', '.join(BYTES_PER_PARAMETER)}")
    qwen3_next = kind.startswith(("qwen3_next", "qwen3_5"))
    experts = _experts(config, layers)
    shape = ModelShape(
        layers=layers.count,
        hidden=hidden,
        intermediate=_dense_width(config) if layers.moe < layers.count else 0,
        vocabulary=vocabulary,
        tied_embeddings=bool(config.get("tie_word_embeddings", kind.startswith(("gemma", "cohere")))),
        bytes_per_parameter=BYTES_PER_PARAMETER[precision],
        context_limit=count(config, "max_position_embeddings", 0) or None,
        mlp_bias=bool(config.get("mlp_bias")),
        norms_per_layer=4 if kind.startswith(("gemma2", "gemma3", "glm4")) and not kind.startswith("glm4_moe") else 2,
        window=layers.window,
        windowed_layers=layers.windowed,
        linear=_linear(config, layers, BYTES_PER_PARAMETER[precision]),
        quantised=quantised(config, layers),
        kv_element_bytes=kv_element_bytes(config),
        output_gate=qwen3_next,
        shared_gate=(kind.startswith("qwen2") or qwen3_next) and experts.get("shared_intermediate", 0) > 0,
        **_attention(config, kind),
        **experts,
    )
    return with_weight_bits(shape, config)


def _attention(config: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Fields of ModelShape about heads, and biases and norms of their projections."""
    hidden, heads = count(config, "hidden_size"), count(config, "num_attention_heads")
    if config.get("kv_lora_rank"):
        latent = Latent(
            count(config, "q_lora_rank", 0, least=0),
            *(count(config, key) for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")),
        )
        return {"heads": heads, "kv_heads": 1, "head_dim": latent.cached_values, "latent": latent}
    kv_heads = count(config, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise InputError(f"model config num_key_value_heads = {kv_heads} does not divide {heads} attention heads")
    if config.get("head_dim") is None and hidden % heads:
        raise InputError(
            f"model config num_attention_heads = {heads} does not divide hidden_size = {hidden}: add head_dim"
        )
    bias, whole = bool(config.get("attention_bias")), kind.startswith(("minimax_m2", "olmo2", "olmo3", "olmoe"))
    without_output_bias = kind.startswith(("qwen2", "glm4", "mimo"))
    named = bool(config.get("use_qk_norm")) and not kind.startswith("llama4")  # Llama 4's norm has no parameters
    return {
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": count(config, "head_dim", hidden // heads),
        "qkv_bias": bias or kind.startswith("qwen2") or kind == "dream",
        "output_bias": bias and not without_output_bias,
        "qk_norm": kind.startswith(("qwen3", "gemma3")) or whole or named,
        "norm_all_heads": whole,
        "sinks": kind.startswith("gpt_oss"),
    }


def _dense_width(config: Mapping[str, Any]) -> int:
    """Width of dense feed-forwards: Llama 4 gives it a name of its own."""
    return count(config, "intermediate_size_mlp" if config.get("intermediate_size_mlp") else "intermediate_size")


def _experts(config: Mapping[str, Any], layers: Layers) -> dict[str, Any]:
    """Fields of ModelShape about experts; none for a dense model."""
    experts, kind = count(config, "num_experts", 1, least=0), kind_of(config)
    if experts <= 1:
        return {}
    per_token = count(config, "num_experts_per_tok")
    if per_token > experts:
        raise InputError(f"model config num_experts_per_tok = {per_token} of {experts} experts: give at most as many")
    # Mixtral's family gives the width of its experts as intermediate_size
    family = config.get("num_local_experts") is not None or kind.startswith("olmoe")
    width = count(config, "moe_intermediate_size", count(config, "intermediate_size") if family else None)
    shared = count(config, "n_shared_experts", int(kind.startswith("llama4")), least=0) * width
    return {
        "experts": experts,
        "experts_per_token": per_token,
        "expert_intermediate": width,
        "shared_intermediate": count(config, "shared_expert_intermediate_size", shared, least=0),
        "moe_layers": layers.moe,
        "router_bias": kind.startswith(("gpt_oss", *CORRECTED)),
        "expert_bias": kind.startswith("gpt_oss"),
    }


def _linear(config: Mapping[str, Any], layers: Layers, activation_bytes: int) -> Linear | None:
    """The layers of gated delta-rule attention."""
    if not layers.linear:
        return None
    state = str(config.get("mamba_ssm_dtype") or "").removeprefix("torch.")
    return Linear(
        layers.linear,
        count(config, "linear_num_key_heads"),
        count(config, "linear_num_value_heads"),
        count(config, "linear_key_head_dim"),
        count(config, "linear_value_head_dim"),
        count(config, "linear_conv_kernel_dim"),
        BYTES_PER_PARAMETER.get(state, activation_bytes),
    )


def _check_supported(config: Mapping[str, Any]) -> None:
    """Raise InputError naming the first thing that no shape describes."""
    for key, what in UNSUPPORTED.items():
        if config.get(key):
            raise unsupported(config, key, config[key], what)
    kind = kind_of(config)
    if any(word in kind for word in ("mamba", "rwkv", "jamba")):
        raise unsupported(config, "model_type", kind, "state-space layers")
    if any(one != 1 for one in items(config, "attn_type_list")):
        raise unsupported(config, "attn_type_list", config["attn_type_list"], "this kind of linear attention")
    linear = config.get("linear_num_key_heads") or "linear_attention" in items(config, "layer_types")
    if linear and not kind.startswith(("qwen3_next", "qwen3_5")):
        raise unsupported(config, "model_type", kind or None, "linear attention of this family")
    if kind.startswith(OTHER_LAYERS):
        raise unsupported(config, "model_type", kind, "layers of different shapes")
    if kind in UNGATED:
        raise unsupported(config, "model_type", kind, "a feed-forward without a gate")
    for key in ("hidden_act", "activation_function", "hidden_activation"):
        if config.get(key) not in (*GATED, *(GEMMA_GATED if kind.startswith("gemma") else ())):
            raise unsupported(config, key, config[key], "a feed-forward that is no SwiGLU")
