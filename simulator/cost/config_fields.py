"""Reads single fields of a Hugging Face `config.json`, under every name that engines accept for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from traces.errors import InputError

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
    "shared_expert_intermediate_size": ("shared_expert_intermediate_size", "shared_intermediate_size"),
    "n_shared_experts": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    "first_k_dense_replace": ("first_k_dense_replace", "moe_layer_start_index"),
    "decoder_sparse_step": ("decoder_sparse_step", "moe_layer_interval", "interleave_moe_layer_step"),
    "torch_dtype": ("torch_dtype", "dtype"),
}
"""Names that engines accept for one number, by the name used here."""
MOST = 10**9
"""Number that no model reaches: above it a config is wrong."""


NESTED = ("thinker_config", "text_config", "llm_config", "language_config")
"""Where the configs of multimodal models keep the language model's, from the outside in."""


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's own fields; those that a nested `text_config` leaves out stand around it."""
    found = False
    for key in NESTED:
        nested = config.get(key)
        if isinstance(nested, Mapping):
            config = {**config, **{name: value for name, value in nested.items() if value is not None}}
            found = True
    for key in ("vision_config", "audio_config"):
        if config.get(key) and not found:
            raise InputError(f"model config {key}: a multimodal model without text_config is not supported")
    return config


def kind_of(config: Mapping[str, Any]) -> str:
    """Model type in lower case; where it is not given, as the architecture's name would have it (Glm4Moe: glm4_moe)."""
    if config.get("model_type"):
        return str(config["model_type"]).lower()
    architecture = re.sub("For(CausalLM|ConditionalGeneration)$", "", str((items(config, "architectures") or [""])[0]))
    return re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", architecture).lower()


def items(config: Mapping[str, Any], key: str) -> list[Any]:
    """A list, empty if absent."""
    value = config.get(key)
    if value is not None and not isinstance(value, list):
        raise InputError(f"model config {key} = {str(value)[:40]!r}: give the list from the model's config.json")
    return value or []


def value_of(config: Mapping[str, Any], key: str) -> Any:
    """Value of a field under any name that engines accept; None if absent."""
    given = {name: config[name] for name in ALIASES.get(key, (key,)) if config.get(name) is not None}
    if len({str(value) for value in given.values()}) > 1:
        shown = ", ".join(f"{name} = {repr(value)[:40]}" for name, value in given.items())
        raise InputError(f"model config {shown}: two names of one field disagree; remove one")
    return next(iter(given.values()), None)


def count(config: Mapping[str, Any], key: str, default: int | None = None, least: int = 1, most: int = MOST) -> int:
    """A whole number within these limits; the default, if there is one, where the field is absent."""
    value = value_of(config, key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        limit = f" and <= {most}" if isinstance(value, int) and value > most else ""
        raise InputError(
            f"model config {key} = {repr(value)[:40]}: give the integer >= {least}{limit} from the model's config.json"
        )
    return value


def unsupported(config: Mapping[str, Any], key: str, value: object, what: str) -> InputError:
    """The error that names an architecture, the field that gives it away, and what to do."""
    shown = " ".join(str(value).split())[:40]
    name = str((items(config, "architectures") or [config.get("model_type") or "this architecture"])[0])[:60]
    return InputError(
        f"model config {key} = {shown}: {what} is not supported, so {name} can be neither estimated nor measured here: "
        "write its costs as a profile (docs/formats.md) and name that without model and device"
    )
