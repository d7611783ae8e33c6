"""Reads from a `config.json` which weights are quantised and how, and refuses other quantisations by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

from simulator.cost.config_fields import items
from simulator.cost.layer_kinds import Layers
from simulator.cost.precision import Quantised
from traces.errors import InputError

NVFP4_GROUP, MXFP4_GROUP, SCALE_BYTES = 16, 32, 4
MODELOPT = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_NVFP4": "w4a16 nvfp4",
}
"""Names that ModelOpt has for quantisations, by those used here."""
LEFT_OUT = ("modules_to_not_convert", "ignore", "exclude_modules", "ignored_layers")
"""Names of the list of modules that keep their precision."""
KV_BYTES: dict[str, int | None] = {
    "auto": None,
    "bfloat16": 2,
    "float16": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
}
SCHEMES = {
    "fp8": Quantised("fp8", 1.0, "fp8"),
    "nvfp4": Quantised("nvfp4", 0.5 + 1 / NVFP4_GROUP, "fp4"),
    "w4a16 nvfp4": Quantised("w4a16 nvfp4", 0.5 + 1 / NVFP4_GROUP, "bf16"),
    "mxfp4": Quantised("mxfp4", 0.5 + 1 / MXFP4_GROUP, "bf16"),
}
"""A number of 4 bits has a share of its group's scale of 8 bits. MXFP4 weights meet activations in 16 bits."""


def quantised(config: Mapping[str, Any], layers: Layers) -> Quantised | None:
    """What of the weights is quantised, None where nothing is. Raises InputError by name for other quantisations.

    Known are FP8 (with or without scales by block), MXFP4, and what ModelOpt and compressed-tensors write as FP8 or NVFP4.
    """
    section = _section(config)
    if section is None:
        return None
    scheme = SCHEMES[_kind(section)]
    block = section.get("weight_block_size")
    if scheme.kind == "fp8" and isinstance(block, list) and len(block) == 2 and all(isinstance(n, int) for n in block):
        scheme = replace(scheme, bytes_per_parameter=1.0 + SCALE_BYTES / max(block[0] * block[1], 1))
    patterns = [str(one) for key in LEFT_OUT for one in items(section, key)]
    linear, moe = layers.is_linear, layers.has_experts
    attention = [
        f"{n}.linear_attn.out_proj" if linear[n] else f"{n}.self_attn.{projection}"
        for n in range(layers.count)
        for projection in ("q_proj", "o_proj")
    ]
    dense = [f"{n}.mlp.down_proj" for n in range(layers.count) if not moe[n]]
    shared = [f"{n}.mlp.shared_experts.down_proj" for n in range(layers.count) if moe[n]]
    experts = [f"{n}.mlp.experts.0.down_proj" for n in range(layers.count) if moe[n]]
    return replace(
        scheme,
        attention=_share(attention, patterns),
        feed_forward=_share(dense + shared, patterns),
        experts=_share(experts, patterns),
    )


def kv_element_bytes(config: Mapping[str, Any]) -> int | None:
    """Bytes of a cached number: as asked for, or as the checkpoint says; None for the precision of activations."""
    asked = config.get("kv_cache_dtype")
    if asked is not None:
        if str(asked) not in KV_BYTES:
            raise InputError(f"kv_cache_dtype = {repr(asked)[:40]}: use {', '.join(KV_BYTES)}")
        return KV_BYTES[str(asked)]
    section = _section(config) or {}
    scheme = section.get("kv_cache_quant_algo") or section.get("kv_cache_scheme")
    eight = scheme == "FP8" or (isinstance(scheme, Mapping) and scheme.get("num_bits") == 8)
    return 1 if eight else None


def _section(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the config says about quantisation, ModelOpt's nested part brought up."""
    found = config.get("quantization_config") or config.get("compression_config")
    if not found:
        return None
    if not isinstance(found, Mapping):
        raise InputError(f"model config quantization_config = {str(found)[:40]!r}: give the mapping of config.json")
    nested = found.get("quantization")
    return {**found, **nested} if isinstance(nested, Mapping) else found


def _kind(section: Mapping[str, Any]) -> str:
    """Key of SCHEMES."""
    algorithm, method = section.get("quant_algo"), str(section.get("quant_method") or "").lower()
    if algorithm is not None:
        if str(algorithm) in MODELOPT:
            return MODELOPT[str(algorithm)]
        raise _refused(f"quant_algo {algorithm}")
    if method in ("fp8", "mxfp4"):
        return method
    if method in ("compressed-tensors", "modelopt") and isinstance(groups := section.get("config_groups"), Mapping):
        kinds = {_group_kind(group) for group in groups.values()}
        if len(kinds) == 1:
            return kinds.pop()
        raise _refused(f"{method} with {len(kinds)} schemes in one model")
    bits = f" of {section['bits']} bits" if "bits" in section else ""
    raise _refused(f"{method or 'an unnamed method'}{bits}")


def _group_kind(group: Any) -> str:
    """Key of SCHEMES for one group of compressed-tensors."""
    weights = group.get("weights") if isinstance(group, Mapping) else None
    weights = weights if isinstance(weights, Mapping) else {}
    form = (weights.get("type"), weights.get("num_bits"))
    if form == ("float", 8):
        return "fp8"
    if form == ("float", 4) and weights.get("group_size") == NVFP4_GROUP:
        return "nvfp4" if group.get("input_activations") else "w4a16 nvfp4"
    if form == ("float", 4) and weights.get("group_size") == MXFP4_GROUP:
        return "mxfp4"
    raise _refused(f"{form[0] or 'unknown'} weights of {form[1]} bits")


def _refused(what: str) -> InputError:
    known = "FP8, NVFP4 and MXFP4"
    return InputError(
        f"model config quantization_config: {what[:60]} is not among the quantised weights known here ({known}): give the "
        "config.json of the checkpoint in 16 bits, or write the costs of this one as a profile (docs/formats.md)"
    )


def _share(modules: Iterable[str], patterns: list[str]) -> float:
    """Share of these modules that no pattern leaves out; modules are named from the number of their layer on."""
    names = list(modules)
    kept = sum(not any(_matches(pattern, name) for pattern in patterns) for name in names)
    return kept / len(names) if names else 0.0


def _matches(pattern: str, module: str) -> bool:
    """Whether a pattern names a module or one around it: part by part, with wildcards, or as a regular expression.

    What stands before `layers` differs between checkpoints and does not count, but for heads that predict further tokens.
    """
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], f"model.layers.{module}") is not None
        except re.error:
            raise InputError(
                f"model config quantization_config: {pattern[:60]!r} is no regular expression: correct the list of modules"
            ) from None
    if pattern.startswith("mtp"):
        return False
    parts, found = pattern.split("."), ["layers", *module.split(".")]
    parts = parts[parts.index("layers") :] if "layers" in parts else parts
    return any(
        all(fnmatch(one, part) for one, part in zip(found[at:], parts, strict=False))
        for at in range(len(found) - len(parts) + 1)
    )
