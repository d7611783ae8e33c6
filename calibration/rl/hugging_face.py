"""The policy as a model that serving engines load: safetensors, config.json and a tokenizer, in Hugging Face's form.

Of the architectures that engines know, Nemotron's is the policy's: layer norms before attention and a plain two-layer network,
rotary positions by halves, grouped queries, no gate. Its norms scale by 1 + weight and have a bias, which is 0 here.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calibration.rl.policy import Shape, Weights
from calibration.rl.vocabulary import BEGIN, END, ID, PAD, WORDS
from traces.atomic import replacing
from traces.errors import InputError

NORM_EPS = 1e-5
"""What `torch.nn.functional.layer_norm` adds to the variance unless told otherwise."""


def save(weights: Weights, shape: Shape, positions: int, folder: Path) -> None:
    """Write the model into a folder, float32; positions: the longest sequence that it is for, in tokens."""
    from safetensors.torch import save as packed

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}): choose another folder") from error
    tensors = {name: one.detach().cpu().float().contiguous() for name, one in named(weights, shape).items()}
    files = {
        "model.safetensors": packed(tensors, {"format": "pt"}),
        "config.json": _json(config(shape, positions)),
        "generation_config.json": _json({"bos_token_id": ID[BEGIN], "eos_token_id": ID[END], "pad_token_id": ID[PAD]}),
        "tokenizer.json": _json(tokenizer()),
        "tokenizer_config.json": _json(
            {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": END, "pad_token": PAD}
        ),
    }
    for name, content in files.items():
        with replacing(folder / name) as file:
            file.write(content)


def config(shape: Shape, positions: int) -> dict[str, Any]:
    """The model's config.json."""
    return {
        "architectures": ["NemotronForCausalLM"],
        "model_type": "nemotron",
        "hidden_size": shape.d_model,
        "intermediate_size": shape.d_hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "relu",
        "norm_eps": NORM_EPS,
        "rope_theta": shape.rotary_base,
        "partial_rotary_factor": 1.0,
        "max_position_embeddings": positions,
        "vocab_size": len(WORDS),
        "bos_token_id": ID[BEGIN],
        "eos_token_id": ID[END],
        "pad_token_id": ID[PAD],
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
    }


def named(weights: Weights, shape: Shape) -> dict[str, Tensor]:
    """The weights under Nemotron's names; its matrices map rows to columns the other way round."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    found = {"model.embed_tokens.weight": weights["embedding"], "lm_head.weight": weights["head"].T}
    found |= _norm("model.norm", weights["norm"])
    for layer in range(shape.layers):
        here = f"model.layers.{layer}"
        parts = weights[f"{layer}.qkv"].tensor_split([q, q + kv], 1)
        for name, part in zip("qkv", parts, strict=True):
            found[f"{here}.self_attn.{name}_proj.weight"] = part.T
        found |= {
            f"{here}.self_attn.o_proj.weight": weights[f"{layer}.out"].T,
            f"{here}.mlp.up_proj.weight": weights[f"{layer}.up"].T,
            f"{here}.mlp.down_proj.weight": weights[f"{layer}.down"].T,
            **_norm(f"{here}.input_layernorm", weights[f"{layer}.norm_attention"]),
            **_norm(f"{here}.post_attention_layernorm", weights[f"{layer}.norm_hidden"]),
        }
    return found


def tokenizer() -> dict[str, Any]:
    """A token for each word, words apart by spaces, in the form of the library `tokenizers`."""
    special = [
        {"id": ID[word], "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for word in (PAD, BEGIN, END)
    ]  # fmt: skip
    return {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": dict(ID), "unk_token": PAD},
    }


def _norm(name: str, scale: Tensor) -> dict[str, Tensor]:
    return {f"{name}.weight": scale - 1, f"{name}.bias": torch.zeros_like(scale)}


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1) + "\n").encode()
