"""Shapes and estimates of what is beyond grouped-query attention: latents, windows, states, narrow weights."""

import json
from pathlib import Path

import numpy as np
import pytest

from simulator.catalogue import load_device, load_model
from simulator.cost import StepWork, roofline
from simulator.cost.model_config import model_shape
from simulator.cost.plain import beyond_plain, check_plain
from traces.errors import InputError

H100, A100, B200 = load_device("h100"), load_device("a100-80gb"), load_device("b200")
DEEPSEEK, GPT_OSS, GEMMA = load_model("deepseek-v3"), load_model("gpt-oss-20b"), load_model("gemma-3-27b")
SCOUT, NEXT, LLAMA = load_model("llama-4-scout"), load_model("qwen3-next-80b-a3b"), load_model("llama-3.1-8b")
BANDWIDTH, PEAK, FP8 = 3.35e12, 9.89e14, 1.979e15


def without(config, *keys):
    return {key: value for key, value in config.items() if key not in keys}


def test_a_latent_is_cached_once_for_all_heads_and_on_every_gpu():
    shape = model_shape(DEEPSEEK)
    assert shape.kv_bytes_per_token == 61 * (512 + 64) * 2
    assert shape.shard(8).kv_bytes_per_token == shape.kv_bytes_per_token
    assert shape.shard(8).heads == 16
    # what compresses queries and makes latents is copied, with its norms, and the router with its bias
    copied = 61 * (7168 * (1536 + 576) + 1536 + 512 + 2 * 7168) + 7168 + 58 * (256 * 7168 + 256)
    assert 8 * shape.shard(8).parameters - shape.parameters == 7 * copied
    assert model_shape(load_model("deepseek-v3", "fp8")).kv_bytes_per_token * 2 == shape.kv_bytes_per_token
    with pytest.raises(InputError, match="kv_cache_dtype = 'int4': use auto, bfloat16"):
        model_shape(DEEPSEEK | {"kv_cache_dtype": "int4"})
    whole = model_shape(without(DEEPSEEK, "q_lora_rank"))
    queries = 7168 * 128 * 192
    assert whole.parameters - shape.parameters == 61 * (queries - 1536 * (7168 + 128 * 192) - 1536)


@pytest.mark.parametrize(
    ("config", "architecture"),
    [(DEEPSEEK, "DeepseekV3ForCausalLM"), (GPT_OSS, "GptOssForCausalLM"), (load_model("glm-4.5"), "Glm4MoeForCausalLM"),
     (NEXT, "Qwen3NextForCausalLM"), (GEMMA, "Gemma3ForConditionalGeneration")],
)  # fmt: skip
def test_the_architecture_stands_for_a_missing_model_type(config, architecture):
    assert model_shape(without(config, "model_type") | {"architectures": [architecture]}) == model_shape(config)


def test_absorbed_attention_by_hand():
    """Every head's query of 576 meets the latent, and weighs 512 of its values."""
    shape = model_shape(DEEPSEEK)
    matrices = shape.attention_matrices + shape.feed_forward_matrices
    narrow, wide = matrices, shape.read_parameters - matrices
    for width in (1, 2, 30):
        times = roofline(DEEPSEEK, H100).operator_times(StepWork.decode(64, 4000, width))
        multiplied = 2 * 128 * (576 + 512) * 61 * 64 * width * 4000 / PEAK
        read = 61 * 576 * 2 * 64 * 4000 / BANDWIDTH
        assert times["attention"] == pytest.approx(max(multiplied, read), rel=1e-9)
        compute = 64 * width * 2 * (narrow / FP8 + wide / PEAK)
        memory = (narrow * (1 + 4 / 128**2) + 2 * wide) / BANDWIDTH
        assert times["forward"] == pytest.approx(max(compute, memory), rel=1e-9)
    assert shape.attention_matrices == 61 * (
        7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168
    )


def test_prompts_expand_latents_where_that_is_less():
    """Keys of 192 and values of 128 for every head, and those of the context made anew of their latents."""
    profile, rng = roofline(DEEPSEEK, H100, mode="additive"), np.random.default_rng(6)
    for chunk, before in [(1, 0), (1, 50_000), (2048, 0), *rng.integers(1, 20_000, (30, 2)).tolist()]:
        pairs = (before + np.arange(1, chunk + 1)).sum()
        work = StepWork(1, chunk, before + chunk, pairs, chunk, prefill_kv_tokens=before + chunk, prefill_pairs=pairs)
        expanded = 2 * 128 * (192 + 128) * pairs + 2 * 512 * 128 * (128 + 128) * before
        operations = min(expanded, 2 * 128 * (576 + 512) * pairs)
        expected = 61 * (576 * 2 * (before + chunk) / BANDWIDTH + operations / PEAK)
        assert profile.operator_times(work)["prefill attention"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("config", "windowed", "window"),
    [
        (GPT_OSS, 12, 128),
        (GEMMA, 52, 1024),
        (
            without(GEMMA, "vocab_size", "sliding_window") | {"sliding_window": None, "max_position_embeddings": 9000},
            0,
            0,
        ),
        (SCOUT, 36, 8192),
        (SCOUT | {"no_rope_layers": [1, 0] * 24}, 24, 8192),
        (LLAMA | {"model_type": "mistral", "sliding_window": 4096}, 32, 4096),
        (LLAMA | {"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 28}, 4, 4096),
        (LLAMA | {"model_type": "qwen2", "sliding_window": 4096}, 0, 0),
        (LLAMA | {"sliding_window": 4096, "layer_types": ["sliding_attention", "full_attention"] * 16}, 16, 4096),
        (LLAMA | {"sliding_window": 131_072}, 0, 0),
    ],
)
def test_layers_with_a_window(config, windowed, window):
    shape = model_shape(config)
    assert (shape.windowed_layers, shape.window) == (windowed, window)
    assert shape.full_layers == shape.layers - windowed
    contexts = np.array([0, 100, 10**6])
    assert (shape.attended(contexts) == shape.full_layers * contexts + windowed * np.minimum(contexts, window)).all()


@pytest.mark.parametrize("config", [GPT_OSS, GEMMA, SCOUT], ids=["gpt-oss", "gemma-3", "llama-4"])
def test_no_more_than_the_window_is_read_or_multiplied_with(config):
    shape = model_shape(config)
    context = np.array([1, 100, 127, 128, 129, 1000, 1024, 5000, 8192, 60_000])
    for width in (1, 3, 33, 700):
        times = roofline(config, H100).operator_times(StepWork.decode(17, context, width))["window attention"]
        seen = 17 * shape.windowed_layers * np.minimum(context, shape.window)
        read = 2 * shape.kv_heads * shape.head_dim * 2 * seen / BANDWIDTH
        multiplied = 4 * shape.heads * shape.head_dim * width * seen / PEAK
        assert times == pytest.approx(np.maximum(read, multiplied), rel=1e-9)


@pytest.mark.parametrize("config", [GPT_OSS, GEMMA, SCOUT], ids=["gpt-oss", "gemma-3", "llama-4"])
def test_prompts_in_a_window_are_those_counted_token_by_token(config):
    shape, profile = model_shape(config), roofline(config, H100, mode="additive")
    rng = np.random.default_rng(5)
    for chunk, before in [(1, 0), (128, 0), (2048, 0), *rng.integers(1, 20_000, (30, 2)).tolist()]:
        positions = before + np.arange(1, chunk + 1)
        pairs = np.minimum(positions, shape.window).sum()
        work = StepWork(
            1,
            chunk,
            before + chunk,
            positions.sum(),
            chunk,
            prefill_kv_tokens=before + chunk,
            prefill_pairs=positions.sum(),
        )
        read = 2 * shape.kv_heads * shape.head_dim * 2 * (chunk + min(before, shape.window)) / BANDWIDTH
        seconds = profile.operator_times(work)["prefill window attention"]
        expected = shape.windowed_layers * (read + 4 * shape.heads * shape.head_dim * pairs / PEAK)
        assert seconds == pytest.approx(expected, rel=0.02)


def test_a_window_that_holds_the_context_costs_what_no_window_does():
    """Without overlap, where parts add up: attention of the windowed layers is that of layers that see everything."""
    free = GPT_OSS | {"layer_types": ["full_attention"] * 24}
    work = StepWork.decode([1, 40, 300], [1, 64, 128], 4)
    windowed, full = (roofline(config, H100, mode="additive").step_time_s(work) for config in (GPT_OSS, free))
    assert windowed == pytest.approx(full, rel=1e-9)
    longer = StepWork.decode([40, 300], [4096, 4096])
    windowed, full = (roofline(config, H100, mode="additive").step_time_s(longer) for config in (GPT_OSS, free))
    assert (windowed < full).all()


def test_a_state_costs_the_same_at_any_context():
    shape = model_shape(NEXT)
    assert (shape.linear.layers, shape.full_layers) == (36, 12)
    state = 36 * (32 * 128 * 128 * 2 + 3 * (2 * 16 * 128 + 32 * 128) * 2)
    assert shape.state_bytes == state
    assert shape.kv_bytes_per_token == 12 * 2 * 2 * 256 * 2
    assert model_shape(NEXT | {"mamba_ssm_dtype": "float32"}).state_bytes == state + 36 * 32 * 128 * 128 * 2
    memory = roofline(NEXT, H100, mode="additive").operator_times(StepWork.decode([1, 9, 9], [0, 0, 8000]))["memory"]
    assert memory[1] - memory[0] == pytest.approx(8 * 2 * state / BANDWIDTH, rel=1e-9)
    assert memory[2] - memory[1] == pytest.approx(9 * 8000 * shape.kv_bytes_per_token / BANDWIDTH, rel=1e-9)
    assert 2 * shape.shard(2).state_bytes == state
    with pytest.raises(InputError, match="tp = 32 does not divide heads of linear attention = 16"):
        shape.shard(32)
    with pytest.raises(InputError, match="tp = 4 does not divide heads of linear attention = 6"):
        model_shape(NEXT | {"linear_num_key_heads": 6}).shard(4)
    types = ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 12
    assert model_shape(NEXT | {"layer_types": types}) == shape


def test_windows_and_states_of_every_sequence_are_held_beside_the_blocks():
    shape = model_shape(GEMMA)
    free = 160e9 * 0.9 - shape.weight_bytes - 1.237e9
    every = int(free // (16 * shape.kv_bytes_per_token))
    assert shape.num_gpu_blocks(160e9) == every
    layer = 2 * 16 * 128 * 2
    beside = int((free - 64 * 52 * (1024 + 16) * layer) // (16 * 10 * layer))
    assert shape.num_gpu_blocks(160e9, max_num_seqs=64) == beside > 4 * every
    # so many windows that there would be less room for the rest
    assert shape.num_gpu_blocks(160e9, max_num_seqs=2000) == every
    linear = model_shape(NEXT)
    held = linear.num_gpu_blocks(400e9) - linear.num_gpu_blocks(400e9, max_num_seqs=512)
    assert held == pytest.approx(512 * linear.state_bytes / (16 * linear.kv_bytes_per_token), abs=1)
    plain = model_shape(LLAMA)
    assert plain.num_gpu_blocks(80e9, max_num_seqs=256) == plain.num_gpu_blocks(80e9)


def test_narrow_weights_are_read_and_multiplied_with_faster_where_the_device_can():
    config, work = load_model("qwen3-32b"), StepWork([1, 4096], [1, 4096], 0, 0)
    narrow, shape = load_model("qwen3-32b-fp8"), model_shape(load_model("qwen3-32b-fp8"))
    matrices = shape.attention_matrices + shape.feed_forward_matrices
    rest = shape.parameters - matrices
    assert shape.weight_bytes == pytest.approx(matrices * (1 + 4 / 128**2) + 2 * rest, abs=1)
    for device, units in ((H100, FP8), (A100, 3.12e14)):
        peak, bandwidth = device["peak_flops_per_s"], device["bandwidth_bytes_per_s"]
        wide_s, narrow_s = (roofline(one, device).step_time_s(work) for one in (config, narrow))
        kept = rest - shape.embedding_parameters
        assert narrow_s[1] == pytest.approx(4096 * 2 * (matrices / units + kept / peak), rel=1e-9)
        assert narrow_s[0] == pytest.approx((matrices * (1 + 4 / 128**2) + 2 * kept) / bandwidth, rel=1e-9)
        assert wide_s[0] / narrow_s[0] > 1.9


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"quant_method": "fp8"}, (1.0, "fp8", 1, 1, 1)),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["model.layers.*.self_attn*"]},
            (0.5625, "fp4", 0, 1, 1),
        ),
        ({"quant_algo": "NVFP4", "exclude_modules": ["*.mlp.shared_experts.*"]}, (0.5625, "fp4", 1, 3 / 61, 1)),
        ({"quant_algo": "FP8", "ignore": ["re:.*experts.*"]}, (1.0, "fp8", 1, 3 / 61, 0)),
        (
            {"quant_algo": "FP8", "ignore": ["language_model.model.layers.0*", "mtp.layers.1*"]},
            (1.0, "fp8", 60 / 61, 60 / 61, 1),
        ),
        ({"quant_method": "mxfp4"}, (0.53125, "bf16", 1, 1, 1)),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"type": "float", "num_bits": 8}}},
            },
            (1.0, "fp8", 1, 1, 1),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"type": "float", "num_bits": 4, "group_size": 16}}},
            },
            (0.5625, "bf16", 1, 1, 1),
        ),
    ],
)
def test_what_is_quantised_follows_the_lists_of_modules(section, expected):
    found = model_shape(DEEPSEEK | {"quantization_config": section}).quantised
    shares = (found.bytes_per_parameter, found.operations, found.attention, found.feed_forward, found.experts)
    assert shares == pytest.approx(expected) if expected[1] is None else shares[1] == expected[1]
    assert [shares[0], *shares[2:]] == pytest.approx([expected[0], *expected[2:]])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"quant_method": "awq", "bits": 4}, "awq of 4 bits is not among the quantised weights known here"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes is not among"),
        ({"quant_algo": "MIXED_PRECISION"}, "quant_algo MIXED_PRECISION is not among"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"type": "int", "num_bits": 4}}}},
            "int weights of 4 bits is not among .*config.json of the checkpoint in 16 bits",
        ),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": None}}, "unknown weights of None bits"),
        ({"quant_method": "fp8", "ignore": ["re:("]}, "is no regular expression"),
        ({"quant_method": "fp8", "ignore": 5}, "ignore = '5': give the list"),
        ({"quant_algo": ["FP8"]}, "is not among"),
    ],
)
def test_other_quantisations_are_refused_by_name(section, message):
    with pytest.raises(InputError, match=message):
        model_shape(DEEPSEEK | {"quantization_config": section})


def refusal(config):
    """What is said of a config that is refused; nothing of one that is read."""
    try:
        shape = model_shape(config)
    except InputError as error:
        return str(error)
    assert shape.active_parameters <= shape.parameters
    assert shape.weight_bytes <= shape.bytes_per_parameter * shape.parameters
    return ""


def test_every_published_config_is_read_or_refused_by_the_name_of_its_architecture():
    """Those in the package aiconfigurator-core, as Hugging Face publishes them."""
    package = pytest.importorskip("aiconfigurator_core")
    files = [json.loads(path.read_text()) for path in (Path(package.__file__).parent / "model_configs").glob("*.json")]
    configs = [config for config in files if "architectures" in config]
    refused = 0
    for config in configs:
        said = refusal(config)
        names = [
            *config["architectures"],
            *config.get("text_config", {}).get("architectures", []),
            "quantization_config",
        ]
        assert not said or ("as a profile (docs/formats.md)" in said and any(name in said for name in names)), said
        refused += bool(said)
    assert refused <= 40 < len(configs)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (DEEPSEEK, "multi-head latent attention, quantised weights"),
        (GPT_OSS, "attention windows, attention gates or sinks, norms or biases of its own, quantised weights"),
        (GEMMA, "attention windows, norms or biases of its own"),
        (NEXT, "linear attention, attention gates or sinks"),
    ],
)
def test_what_cannot_be_measured_is_named_with_what_answers(config, what):
    with pytest.raises(
        InputError, match=f"the model has {what}, which that does not have: import .* roofline estimate"
    ):
        check_plain(model_shape(config), "that")
    for name in ("llama-3.1-8b", "qwen3-30b-a3b", "glm-4.5"):
        assert beyond_plain(model_shape(load_model(name))) == []


@pytest.mark.parametrize(
    "name", ["deepseek-v3", "gpt-oss-120b", "gemma-3-27b", "llama-4-scout", "qwen3-next-80b-a3b", "glm-4.5"]
)
def test_a_wider_or_longer_step_never_costs_less(name):
    profile = roofline(load_model(name), B200, tp=2)
    live, context, width = np.meshgrid(
        [1, 8, 64, 256], [1, 127, 128, 1000, 9000, 60_000], [1, 2, 5, 17, 65], indexing="ij"
    )
    seconds = profile.step_time_s(StepWork.decode(live, context, width))
    for axis in range(3):
        assert (np.diff(seconds, axis=axis) >= -1e-15).all()
