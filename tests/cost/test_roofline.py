"""The roofline estimate against published parameter counts, crossing points and hand arithmetic."""

import numpy as np
import pytest

from simulator.cost import StepWork, roofline
from simulator.cost.roofline import dense_shape
from traces.errors import InputError

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "max_position_embeddings": 131072,
}  # fmt: skip
QWEN25_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
QWEN3_0_6B = {
    "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip
H100 = {"name": "H100 SXM", "bandwidth_bytes_per_s": 3.35e12, "peak_flops_per_s": 989e12}
H200 = {"name": "H200", "bandwidth_bytes_per_s": 4.8e12, "peak_flops_per_s": 989e12}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(LLAMA, 8_030_261_248), (QWEN25_7B, 7_615_616_512), (QWEN3_0_6B, 596_049_920)],
)
def test_parameter_counts_are_the_published_ones(config, parameters):
    assert dense_shape(config).parameters == parameters


def test_llama_bytes_and_flops_by_hand():
    shape = dense_shape(LLAMA)
    assert shape.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2 == 131072
    assert shape.embedding_parameters == 128256 * 4096
    assert dense_shape(QWEN3_0_6B).embedding_parameters == 0  # tied: the same matrix is the output layer
    work = StepWork.decode(64, 1000, 5)
    read = 8_030_261_248 - 128256 * 4096
    memory = (2 * read + 131072 * 64_000) / 3.35e12
    compute = (2 * read * 320 + 4 * 32 * 32 * 128 * 320 * 1000) / 989e12
    assert roofline(LLAMA, H100).step_time_s(work) == pytest.approx(max(memory, compute), rel=1e-12)
    additive = roofline(LLAMA, H100, mode="additive", overhead_s=1e-3)
    assert additive.step_time_s(work) == pytest.approx(memory + compute + 1e-3, rel=1e-12)
    assert additive.operator_times(work)["memory"] == pytest.approx(memory, rel=1e-12)
    assert roofline(LLAMA, H100, overhead_s=1e-3).step_time_s(work) == pytest.approx(max(memory, compute) + 1e-3)


@pytest.mark.parametrize(("device", "crossing"), [(H100, 295), (H200, 206)])
def test_compute_overtakes_weight_reads_at_the_known_batch(device, crossing):
    tokens = np.arange(1, 400)
    seconds = roofline(LLAMA, device).step_time_s(StepWork(tokens, tokens, 0, 0))
    assert tokens[np.argmax(np.diff(seconds) > 0)] == crossing


def test_an_estimate_says_so_and_knows_the_context_limit():
    profile = roofline(LLAMA, H100, name="guess")
    assert "estimate" in profile.uncertainty
    assert "estimate" in profile.source
    assert (profile.kind, profile.name, profile.device, profile.model) == ("roofline", "guess", "H100 SXM", "llama")
    assert profile.relative_error is None
    assert profile.outside(StepWork.decode(1, [131072, 131073])).tolist() == [False, True]
    assert not roofline(QWEN25_7B, H100).outside(StepWork.decode(1, 10**7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_local_experts": 8}, "num_local_experts = 8: mixture of experts is not supported"),
        ({"num_experts": 128}, "mixture of experts"),
        ({"n_routed_experts": 64}, "mixture of experts"),
        ({"kv_lora_rank": 512}, "multi-head latent attention"),
        ({"quantization_config": {"bits": 4}}, "quantised weights"),
        ({"hidden_size": None}, "hidden_size = None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"vocab_size": "many"}, "vocab_size = 'many'"),
        ({"num_key_value_heads": -8}, "num_key_value_heads = -8"),
        ({"torch_dtype": "int3"}, "torch_dtype = 'int3'"),
    ],
)
def test_models_it_cannot_estimate_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        roofline(LLAMA | changes, H100)


@pytest.mark.parametrize("rate", [None, 0, -1.0, float("inf"), float("nan"), "3 TB/s", True])
def test_impossible_devices_and_modes_are_refused(rate):
    with pytest.raises(InputError, match="device bandwidth_bytes_per_s"):
        roofline(LLAMA, H100 | {"bandwidth_bytes_per_s": rate})
    with pytest.raises(InputError, match="mode 'both' is unknown"):
        roofline(LLAMA, H100, mode="both")
    with pytest.raises(InputError, match="constant = -1"):
        roofline(LLAMA, H100, overhead_s=-1.0)
