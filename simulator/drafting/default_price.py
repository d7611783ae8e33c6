"""What a draft model costs where nobody says: its passes by the operators that price the target, and the host's time."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from simulator.cost.config_fields import text_config
from simulator.cost.draft_cost import Forward
from simulator.cost.model_config import model_shape
from simulator.cost.shape import ModelShape
from simulator.cost.weight_bits import FIELD as WEIGHT_BITS
from simulator.drafting.cost import load_draft_cost
from simulator.drafting.drafter import Target
from simulator.drafting.pricing import Found, entry_of
from traces.errors import InputError

Kind = Literal["eagle", "eagle3", "draft_model", "mtp", "parallel", "diffusion"]
AT_ONCE: tuple[Kind, ...] = ("parallel", "diffusion")
"""Kinds that draft all tokens in one pass."""
MODELS: tuple[Kind, ...] = ("draft_model", "diffusion")
"""Kinds that are models of their own, not heads of the target."""

HOST = "vllm-draft-model"
"""The measured cost (`cost.load_draft_cost`) of the host's part: what passes and proposals take beyond their kernels."""
EAGLE3_VOCABULARY = 32_000
"""Output tokens of an EAGLE-3 head, as its authors train it (github.com/SafeAILab/EAGLE)."""
LAYERS = {"eagle": 1, "eagle3": 1, "mtp": 1, "parallel": 5}
"""Layers of a head as published; of a block drafter, those of DFlash (arXiv 2602.06036)."""
PATTERNS = (
    "first_k_dense_replace", "moe_layer_start_index", "mlp_only_layers", "decoder_sparse_step", "moe_layer_interval",
    "interleave_moe_layer_step", "moe_layer_freq", "moe_layers", "layer_types", "full_attention_interval", "text_config",
)  # fmt: skip
"""What says in a config which layers are unlike others."""
HEAD_DIM, KV_HEADS = 128, 8
"""Of a head's attention where the target's own is not of grouped queries; fewer where 8 do not divide its heads."""
COLUMNS = 256
"""Widths are rounded to a multiple, so that every tensor-parallel size divides them."""


def default_price(kind: Kind, model: Mapping[str, Any] | None, layers: int | None, target: Target) -> Found:
    """Return the price of a draft model of this kind for the target.

    An entry of the target's profile of this name, else passes of `model` (a draft model's config) or of a head of so many
    layers, estimated as the target is, and the measured time of the host. Raises InputError where that needs to be told more.
    """
    if kind in target.profile.drafter_costs:
        return entry_of(target, kind)
    if kind in MODELS and model is None:
        raise InputError(
            f"drafter {kind}: model is missing: name the draft model (a catalogue name or the path of its config.json) for a "
            "default price, or give cost"
        )
    if target.config is None or target.estimate is None:
        raise InputError(
            f"drafter {kind}: cost is missing: profile {target.profile.name} has no entry {kind!r} in drafter_costs, and for a "
            "default price the model and the device must be named, too; or give cost, such as {per_pass_s: 0.0007}"
        )
    config = model or head_config(kind, target.config, layers or LAYERS[kind])
    forward = target.estimate(config)
    forward = replace(forward, name=f"passes of {'a head' if model is None else forward.model}")
    host = {word: cost for word, cost in load_draft_cost(HOST).rates.items() if cost}
    at_once = kind in AT_ONCE
    where = f"{forward.source}; host: {HOST}"
    return Found(host, Forward(forward, passes=int(at_once), at_once=at_once), where)


def head_config(kind: Kind, target: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Return a config of the head that drafts for a target of this config.

    mtp of a model with experts: a layer of the target's own kind, in 16 bits where a system quantises the target. Others: dense
    layers as wide as the target's, grouped-query attention where the target has latents; eagle3 reads two hidden states at once
    and has an output vocabulary of its own.
    What joins hidden state and embedding, 2h x h parameters, is counted as 2h/3 more columns of the feed-forward.
    """
    shape = model_shape(target)
    if kind == "mtp" and shape.moe_layers:
        return {name: value for name, value in text_config(target).items() if name not in (*PATTERNS, WEIGHT_BITS)} | {
            "num_hidden_layers": layers
        }
    heads, kv_heads, head_dim = shape.heads, shape.kv_heads, shape.head_dim
    if shape.latent:
        heads, head_dim = shape.hidden // HEAD_DIM, HEAD_DIM
        kv_heads = math.gcd(heads, KV_HEADS)
    return {
        "model_type": "llama",
        "_name_or_path": f"{kind} head",
        "hidden_size": shape.hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": _columns(kind, shape, head_dim * (heads + 2 * kv_heads)),
        "vocab_size": min(shape.vocabulary, EAGLE3_VOCABULARY) if kind == "eagle3" else shape.vocabulary,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def _columns(kind: Kind, shape: ModelShape, second_input: int) -> int:
    """Columns of a head's feed-forward: the target's, and those that stand for what joins its inputs.

    second_input: columns of queries, keys and values, which eagle3 has for both.
    """
    own = shape.intermediate or shape.experts_per_token * shape.expert_intermediate
    joining = 0 if kind == "parallel" else 2 * shape.hidden + (second_input if kind == "eagle3" else 0)
    return -(-(own + joining // 3) // COLUMNS) * COLUMNS
