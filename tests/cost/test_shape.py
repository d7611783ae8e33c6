"""Shapes of models against published totals, tensors listed one by one, and what vLLM found to fit."""

import json
from math import prod

import numpy as np
import pytest

from simulator.catalogue import load_model
from simulator.cost.model_config import model_shape
from traces.errors import InputError

QWEN_MOE = {
    "model_type": "qwen2_moe", "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16,
    "num_key_value_heads": 16, "intermediate_size": 5632, "moe_intermediate_size": 1408, "num_experts": 60,
    "shared_expert_intermediate_size": 5632, "num_experts_per_tok": 4, "vocab_size": 151936,
}  # fmt: skip
DEEPSEEK_MOE = {
    "model_type": "deepseek", "hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 16, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_shared_experts": 2,
    "n_routed_experts": 64, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "vocab_size": 102400,
}  # fmt: skip
TINY_MOE = {
    "model_type": "qwen3_moe", "hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 160, "moe_intermediate_size": 24, "num_experts": 10,
    "num_experts_per_tok": 3, "decoder_sparse_step": 2, "mlp_only_layers": [3], "vocab_size": 1000,
    "tie_word_embeddings": True, "max_position_embeddings": 4096, "torch_dtype": "float32",
}  # fmt: skip
LLAMA, MIXTRAL = load_model("llama-3.1-8b"), load_model("mixtral-8x7b")


def tensors_of_tiny_moe() -> dict[str, tuple[int, ...]]:
    """Weights of TINY_MOE by name, as a checkpoint of Qwen3MoeForCausalLM lists them; layers 1 and 5 have experts."""
    tensors: dict[str, tuple[int, ...]] = {"embed_tokens": (1000, 48), "norm": (48,)}
    for layer in range(6):
        at = f"layers.{layer}"
        tensors |= {f"{at}.self_attn.q_proj": (96, 48), f"{at}.self_attn.o_proj": (48, 96)}
        tensors |= {f"{at}.self_attn.k_proj": (32, 48), f"{at}.self_attn.v_proj": (32, 48)}
        tensors |= {f"{at}.self_attn.q_norm": (16,), f"{at}.self_attn.k_norm": (16,)}
        tensors |= {f"{at}.input_layernorm": (48,), f"{at}.post_attention_layernorm": (48,)}
        blocks, width = ([f"{at}.mlp"], 160) if layer not in (1, 5) else ([f"{at}.experts.{e}" for e in range(10)], 24)
        for block in blocks:
            tensors |= {f"{block}.gate_proj": (width, 48), f"{block}.up_proj": (width, 48)}
            tensors |= {f"{block}.down_proj": (48, width)}
        if layer in (1, 5):
            tensors[f"{at}.gate"] = (10, 48)
    return tensors


def test_parameters_are_those_of_the_tensors_listed_one_by_one():
    shape, tensors = model_shape(TINY_MOE), tensors_of_tiny_moe()
    assert shape.moe_layers == 2
    assert shape.dense_layers == 4
    assert shape.parameters == sum(map(prod, tensors.values()))
    experts = {name: prod(size) for name, size in tensors.items() if ".experts." in name}
    assert shape.routed_parameters == sum(experts.values())
    used = sum(size for name, size in experts.items() if int(name.split(".")[3]) < 3)
    assert shape.active_parameters == shape.parameters - sum(experts.values()) + used
    assert shape.weight_bytes == 4 * shape.parameters
    assert shape.kv_bytes_per_token == 4 * 6 * 2 * (2 * 16)
    assert shape.embedding_parameters == 0


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [(QWEN_MOE, 14_315_784_192, 2.7e9), (DEEPSEEK_MOE, 16_375_728_128, 2.8e9)],
    ids=["Qwen1.5-MoE-A2.7B", "deepseek-moe-16b"],
)
def test_shared_experts_and_dense_layers_among_experts_are_counted(config, total, active):
    shape = model_shape(config)
    assert shape.parameters == total
    assert shape.active_parameters == pytest.approx(active, rel=0.02)


def test_layers_of_experts_follow_every_rule():
    def moe_layers(**changes):
        return model_shape(DEEPSEEK_MOE | changes).moe_layers

    assert moe_layers() == 27
    assert moe_layers(first_k_dense_replace=3) == 25
    assert moe_layers(moe_layer_freq=2) == 13  # 2, 4, ..., 26
    assert moe_layers(moe_layer_freq=[0, 0, *[1] * 26]) == 26
    assert moe_layers(mlp_only_layers=[0, 5, 6]) == 25
    assert moe_layers(mlp_layer_types=["dense"] * 5 + ["sparse"] * 23) == 23
    assert moe_layers(moe_layers=[1, 3, 5]) == 3
    assert moe_layers(first_k_dense_replace=None, interleave_moe_layer_step=2) == 14
    dense = model_shape(DEEPSEEK_MOE | {"n_routed_experts": 1})
    assert dense.moe_layers == dense.routed_parameters == 0
    assert dense.active_parameters == dense.parameters


def test_expected_experts_are_what_random_routing_touches():
    shape = model_shape(load_model("qwen3-30b-a3b"))
    rng = np.random.default_rng(7)
    for tokens in (1, 4, 16, 64):
        scores = rng.random((400, tokens, 128))
        chosen = np.argpartition(scores, 8, axis=2)[:, :, :8]
        touched = np.array([np.unique(one).size for one in chosen])
        error = touched.std() / 20
        # four standard errors: a right formula fails once in 16,000 runs, and the seed is fixed
        assert abs(float(shape.expected_experts(tokens)) - touched.mean()) <= 4 * error + 1e-9
    assert shape.expected_experts([0, 10**6]).tolist() == [0, 128]
    assert model_shape(LLAMA).expected_experts([1, 9]).tolist() == [0, 0]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-8b", "deepseek-r1-distill-qwen-7b", "mixtral-8x7b"])
def test_shards_add_up_to_the_whole(name):
    whole = model_shape(load_model(name))
    shard = whole.shard(4)
    assert whole.shard(1) == whole
    assert (shard.heads, shard.kv_heads) == (whole.heads / 4, whole.kv_heads / 4)
    assert 4 * shard.kv_bytes_per_token == whole.kv_bytes_per_token
    assert 4 * shard.routed_parameters == whole.routed_parameters
    # norms and router are copied, and nothing else
    copied = whole.hidden * (2 * whole.layers + 1 + whole.moe_layers * whole.experts)
    copied += 2 * whole.qk_norm * whole.head_dim * whole.layers
    assert 4 * shard.parameters - whole.parameters == 3 * copied


def test_kv_heads_are_copied_when_there_are_fewer_than_gpus():
    whole = model_shape(load_model("qwen3-30b-a3b"))
    assert whole.kv_heads == 4
    assert whole.shard(8).kv_heads == 1
    assert whole.shard(8).kv_bytes_per_token == whole.shard(4).kv_bytes_per_token == whole.kv_bytes_per_token / 4


@pytest.mark.parametrize(
    ("tp", "message"),
    [
        (0, "tp = 0: the tensor-parallel size is an integer >= 1"),
        (2.0, "tp = 2.0"),
        (True, "tp = True"),
        (3, "tp = 3 does not divide attention heads = 32"),
        (12, "tp = 12: 8 KV heads cannot be copied evenly"),
        (64, "tp = 64 does not divide attention heads = 32"),
    ],
)
def test_tensor_parallel_sizes_that_engines_refuse_are_refused(tp, message):
    with pytest.raises(InputError, match=message):
        model_shape(LLAMA).shard(tp)


def test_kv_blocks_by_hand():
    shape = model_shape(LLAMA)
    # 20 GB - 2 x 8,030,261,248 - 0.5 GB = 3,439,477,504 bytes; a block is 16 x 131,072 = 2,097,152 bytes
    assert shape.num_gpu_blocks(20e9, 1.0, 16, 1, 0.5e9) == 1640
    # two GPUs: half the weights but for 266,240 copied parameters of norms, half the KV
    half = (8_030_261_248 + 266_240) // 2
    assert shape.num_gpu_blocks(20e9, 0.9, 32, 2, 1e9) == int((18e9 - 2 * half - 1e9) // (32 * 65536))


def test_kv_blocks_are_those_that_vllm_found(shared_data):
    meta = json.loads((shared_data / "vllm_runs/RTX4090-Llama-3.1-8B/meta.json").read_text())
    cache = meta["kv_cache"]
    found = model_shape(LLAMA).num_gpu_blocks(
        meta["hardware"]["device_total_memory_bytes"], cache["gpu_memory_utilization"], cache["block_size"]
    )
    assert found == cache["num_gpu_blocks"] == 2588


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory_bytes": 16e9}, "leave no room for KV blocks at tp = 1; use a larger tp or GPU"),
        ({"memory_bytes": 0}, "memory_bytes = 0"),
        ({"memory_bytes": float("nan")}, "memory_bytes = nan"),
        ({"gpu_memory_utilization": 1.1}, "gpu_memory_utilization = 1.1: give a number > 0 and <= 1"),
        ({"block_size": 0}, "block_size = 0"),
        ({"overhead_bytes": -1}, "overhead_bytes = -1"),
        ({"tp": 5}, "tp = 5 does not divide"),
    ],
)
def test_memory_that_cannot_be_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        model_shape(LLAMA).num_gpu_blocks(**{"memory_bytes": 80e9} | settings)


def test_names_that_engines_accept_are_read_alike():
    renamed = {
        "n_embd": 4096, "n_inner": 14336, "n_layer": 32, "n_head": 32, "n_head_kv": 8, "padded_vocab_size": 128256,
        "n_positions": 131072, "dtype": "torch.bfloat16", "architectures": ["LlamaForCausalLM"],
    }  # fmt: skip
    assert model_shape(renamed) == model_shape(LLAMA)
    nested = {"model_type": "some_vl", "vision_config": {"hidden_size": 1}, "text_config": {**LLAMA, "dtype": None}}
    assert model_shape(nested) == model_shape({"thinker_config": nested}) == model_shape(LLAMA)
    assert model_shape(
        {"architectures": ["Qwen3ForCausalLM"], **_without(load_model("qwen3-8b"), "model_type")}
    ).qk_norm
    windowed = {"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 32}
    for harmless in (windowed, {"sliding_window": 131072}, {"sliding_window": None}, {"num_experts": 1}):
        assert model_shape(LLAMA | harmless) == model_shape(LLAMA)
    with pytest.raises(InputError, match="hidden_size = 4096, n_embd = 2048: two names of one field disagree"):
        model_shape(LLAMA | {"n_embd": 2048})


def _without(config, key):
    return {name: value for name, value in config.items() if name != key}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_lora_rank": 512}, "qk_nope_head_dim = None: give the integer"),
        ({"index_topk": 2048}, "index_topk = 2048: sparse attention is not supported"),
        ({"quantization_config": {"bits": 4}}, "an unnamed method of 4 bits is not among the quantised weights known"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "gptq of 4 bits is not among .*FP8, NVFP4 and MXFP4",
        ),
        ({"quantization_config": "fp8"}, "quantization_config = 'fp8': give the mapping"),
        ({"linear_num_key_heads": 16}, "model_type = llama: linear attention of this family is not supported"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear attention of this family"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries of 32 layers: give one for each"),
        ({"layer_types": ["sliding_attention"] * 32}, "sliding_window is missing: layer_types names layers"),
        ({"layer_types": ["ring"]}, "layer_types = ring: attention of this type is not supported"),
        ({"layer_types": [{"a": 1}]}, "attention of this type is not supported"),
        ({"layer_types": "full"}, "layer_types = 'full': give the list"),
        ({"ssm_cfg": {"layer": 1}}, "state-space layers"),
        ({"model_type": "mamba2"}, "model_type = mamba2: state-space layers"),
        ({"attn_layer_period": 8}, "hybrid layers"),
        ({"hybrid_layer_pattern": [0, 1]}, "windowed layers of other widths is not supported"),
        (
            {"architectures": ["NemotronHForCausalLM"], "ssm_state_size": 128},
            "ssm_state_size = 128: state-space layers is not supported, so NemotronHForCausalLM can be neither",
        ),
        ({"is_encoder_decoder": True}, "an encoder-decoder"),
        ({"vision_config": {"depth": 32}}, "multimodal model without text_config"),
        ({"hidden_act": "gelu_new"}, "hidden_act = gelu_new: a feed-forward that is no SwiGLU"),
        ({"hidden_act": "gelu_pytorch_tanh"}, "hidden_act = gelu_pytorch_tanh: a feed-forward that is no SwiGLU"),
        ({"model_type": "opt"}, "a feed-forward without a gate"),
        ({"model_type": "gemma3n"}, "model_type = gemma3n: layers of different shapes"),
        ({"cross_attention_layers": [3, 8]}, "cross-attention is not supported"),
        ({"hidden_size": None}, "hidden_size = None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000: give the integer >= 1 and <= 10000"),
        ({"hidden_size": 10**400}, "hidden_size = 10000"),
        ({"vocab_size": "many"}, "vocab_size = 'many'"),
        ({"num_key_value_heads": -8}, "num_key_value_heads = -8"),
        ({"num_key_value_heads": 5}, "num_key_value_heads = 5 does not divide 32 attention heads"),
        ({"head_dim": None, "hidden_size": 4100}, "does not divide hidden_size = 4100: add head_dim"),
        ({"torch_dtype": "int3"}, "torch_dtype = 'int3'"),
        ({"num_experts": 8}, "num_experts_per_tok = None"),
        ({"num_experts": 8, "num_experts_per_tok": 9}, "num_experts_per_tok = 9 of 8 experts"),
        ({"num_experts": 8, "num_experts_per_tok": 2}, "moe_intermediate_size = None"),
    ],
)
def test_models_of_another_shape_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        model_shape(LLAMA | changes)
