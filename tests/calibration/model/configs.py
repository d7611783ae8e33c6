"""Configurations of tiny models, one for each thing that decoders differ in."""

from typing import Any

PLAIN: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 97, "max_position_embeddings": 4096, "torch_dtype": "float32",
}  # fmt: skip
KINDS = {
    "llama": PLAIN,
    "biases everywhere": PLAIN | {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 6},
    "qwen2, tied": PLAIN | {"model_type": "qwen2", "tie_word_embeddings": True, "num_key_value_heads": 1},
    "qwen3": PLAIN | {"model_type": "qwen3", "head_dim": 16},
    "experts": PLAIN | {"model_type": "qwen3_moe", "num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "experts beside a shared one": PLAIN | {
        "model_type": "qwen2_moe", "num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 40,
    },
    "one dense layer, then experts": PLAIN | {
        "model_type": "deepseek", "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
        "first_k_dense_replace": 1, "n_shared_experts": 1,
    },
}  # fmt: skip
