"""Which layers of a model have experts, a window, or linear attention, from its `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulator.cost.config_fields import count, items, kind_of, unsupported
from traces.errors import InputError

MOST_LAYERS = 10**4
FULL, WINDOWED, LINEAR = ("full_attention", "attention"), ("sliding_attention", "chunked_attention"), "linear_attention"
PATTERNS = {"gemma2": 2, "gemma3": 6, "cohere2": 4}
"""Of so many layers the last attends to the whole context and the others to a window, where the file does not say."""


@dataclass(frozen=True)
class Layers:
    """What each layer of a model has: experts, a window, linear attention; `window`: the tokens in it."""

    has_experts: tuple[bool, ...]
    has_window: tuple[bool, ...]
    is_linear: tuple[bool, ...]
    window: int

    @property
    def count(self) -> int:
        """Of all."""
        return len(self.has_experts)

    @property
    def moe(self) -> int:
        """Of layers with experts."""
        return sum(self.has_experts)

    @property
    def windowed(self) -> int:
        """Of layers that attend to a window."""
        return sum(self.has_window)

    @property
    def linear(self) -> int:
        """Of layers with linear attention."""
        return sum(self.is_linear)


def layers_of(config: Mapping[str, Any]) -> Layers:
    """The layers of a model, from the flat fields of its config. Raises InputError for what is no layer known here."""
    layers = count(config, "num_hidden_layers", most=MOST_LAYERS)
    numbers = range(layers)
    moe = tuple(_is_moe(config, layer) for layer in numbers) if count(config, "num_experts", 1, least=0) > 1 else ()
    named = _layer_types(config, layers)
    linear = tuple(_is_linear(config, named, layer) for layer in numbers)
    window = _window(config)
    windowed = tuple(window > 0 and _is_windowed(config, named, layer) for layer in numbers)
    return Layers(moe or (False,) * layers, windowed, linear, window if any(windowed) else 0)


def _layer_types(config: Mapping[str, Any], layers: int) -> list[Any]:
    """What the file says of the attention of each layer, checked; empty if it says nothing."""
    named = items(config, "layer_types")
    for layer in named:
        if layer not in (*FULL, *WINDOWED, LINEAR):
            raise unsupported(config, "layer_types", layer, "attention of this type")
    if named and len(named) != layers:
        raise InputError(f"model config layer_types has {len(named)} entries of {layers} layers: give one for each")
    widths = config.get("sliding_window") or config.get("attention_chunk_size")
    if any(layer in WINDOWED for layer in named) and not widths:
        raise InputError("model config sliding_window is missing: layer_types names layers that attend to a window")
    return named


def _is_moe(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer's feed-forward is of experts: the rules of Qwen MoE, DeepSeek and Llama 4."""
    frequency = config.get("moe_layer_freq") or 1
    if isinstance(frequency, list):
        return layer < len(frequency) and bool(frequency[layer])
    if named := items(config, "moe_layers"):
        return layer in named
    if kinds := items(config, "mlp_layer_types"):
        return layer < len(kinds) and kinds[layer] == "sparse"
    return (
        layer not in items(config, "mlp_only_layers")
        and layer >= count(config, "first_k_dense_replace", 0, least=0)
        and (layer + 1) % count(config, "decoder_sparse_step", 1) == 0
        and layer % count(config, "moe_layer_freq", 1) == 0
    )


def _is_linear(config: Mapping[str, Any], named: list[Any], layer: int) -> bool:
    if named:
        return bool(named[layer] == LINEAR)
    every = count(config, "full_attention_interval", 4) if config.get("linear_num_key_heads") else 1
    return (layer + 1) % every != 0


def _window(config: Mapping[str, Any]) -> int:
    """Tokens of the window or chunk that some layers attend to; 0 where there is none, or it holds every context."""
    # Qwen's configs name a window that is used only where they say so
    used = config.get("use_sliding_window", not kind_of(config).startswith("qwen"))
    if config.get("attention_chunk_size"):
        window = count(config, "attention_chunk_size")
    elif config.get("sliding_window") and used:
        window = count(config, "sliding_window")
    else:
        return 0
    limit = count(config, "max_position_embeddings", 0)
    return 0 if 0 < limit <= window else window


def _is_windowed(config: Mapping[str, Any], named: list[Any], layer: int) -> bool:
    """Whether a layer attends to the window: as its type says, or by the rule of its family, or as all others do."""
    if named:
        return named[layer] in WINDOWED
    if config.get("attention_chunk_size"):  # Llama 4: layers without rotary positions attend to everything
        rotary = items(config, "no_rope_layers")
        every = count(config, "no_rope_layer_interval", 4)
        return bool(rotary[layer]) if layer < len(rotary) else (layer + 1) % every != 0
    kind = kind_of(config)
    pattern = next((every for family, every in PATTERNS.items() if kind.startswith(family)), 0)
    pattern = count(config, "sliding_window_pattern", pattern, least=0)
    if pattern:
        return (layer + 1) % pattern != 0
    if kind.startswith("gpt_oss"):
        return layer % 2 == 0
    return layer >= count(config, "max_window_layers", 0, least=0)  # Qwen 2 has windows only from there on
