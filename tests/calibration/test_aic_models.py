"""Models beyond dense and routed ones: narrow weights and KV, windows, latents; each from the tables of its kind."""

import numpy as np
import pandas as pd
import pytest

from calibration.imports.aic_attention import Kernel, Measured, capped, window_pairs
from calibration.imports.aiconfigurator import import_aiconfigurator
from calibration.imports.attention import WIDTHS
from simulator.cost import StepWork, Table
from simulator.cost.model_config import model_shape
from simulator.cost.sources import NotMeasuredError
from tests.calibration import aiconfigurator_folder as toy

PATH = f"{toy.ENGINE}/{toy.VERSION}/"
GEMM, MOE = f"gemm/{PATH}gemm", f"moe/{PATH}moe"
DECODE, PREFILL = f"attention/{PATH}generation_attention", f"attention/{PATH}context_attention"
FIGURES = toy.FIGURES | {"fp8_tc_flops": int(2 * toy.PEAK)}
FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
LATENT = {
    "model_type": "deepseek_v3", "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "num_key_value_heads": 8,
}  # fmt: skip


def imported(folder, config=toy.CONFIG, **settings):
    return import_aiconfigurator(folder, config, toy.SYSTEM, **settings)


def operator(profile, name) -> Table:
    return next(one for one in profile.operators if one.name == name)


def narrower(path, **changes) -> pd.DataFrame:
    """Rows of a table beside the same ones in a narrow precision, which take half as long."""
    rows = toy.tables()[path]
    return pd.concat([rows, rows.assign(latency=rows["latency"] / 2, **changes)])


def test_quantised_weights_are_multiplied_with_in_their_own_precision(tmp_path):
    folder = toy.write_folder(tmp_path, {GEMM: narrower(GEMM, gemm_dtype="fp8_block")}, FIGURES)
    wide, narrow = imported(folder), imported(folder, toy.CONFIG | FP8)
    for name in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"):
        np.testing.assert_allclose(operator(narrow, name).values_s, operator(wide, name).values_s / 2, rtol=1e-12)
    np.testing.assert_array_equal(operator(narrow, "lm_head").values_s, operator(wide, "lm_head").values_s)
    plain = {"quantization_config": {"quant_method": "fp8"}}  # without scales by block these are other kernels
    with pytest.raises(NotMeasuredError, match="gemm in fp8 is not measured"):
        imported(folder, toy.CONFIG | plain)


def test_layers_that_keep_their_precision_are_apart(tmp_path):
    folder = toy.write_folder(tmp_path, {GEMM: narrower(GEMM, gemm_dtype="fp8_block")}, FIGURES)
    kept = {"modules_to_not_convert": ["model.layers.0.mlp"]}
    profile = imported(folder, toy.CONFIG | {"quantization_config": FP8["quantization_config"] | kept})
    whole = operator(imported(folder), "down_proj")
    assert operator(profile, "down_proj, fp8_block").repeat == 3
    assert operator(profile, "down_proj, bfloat16").repeat == 1
    np.testing.assert_allclose(operator(profile, "down_proj, fp8_block").values_s, whole.values_s / 2, rtol=1e-12)


def test_a_device_without_units_for_a_precision_multiplies_at_its_peak_in_16_bits(tmp_path):
    rows = toy.tables()[GEMM]
    fast = pd.concat([rows, rows.assign(gemm_dtype="fp8_block", latency=1e-6)])
    for figures, peak in ((FIGURES, 2 * toy.PEAK), (toy.FIGURES, toy.PEAK)):
        folder = toy.write_folder(tmp_path / f"{peak:g}", {GEMM: fast}, figures)
        found = operator(imported(folder, toy.CONFIG | FP8), "o_proj").values_s[-1]
        assert found == pytest.approx(2 * 4096 * 1024 * 1024 / peak, rel=1e-9)


def test_a_precision_of_which_the_host_was_timed_counts_as_16_bits(tmp_path):
    rows = toy.tables()[GEMM]
    slow = pd.concat([rows, rows.assign(gemm_dtype="fp8_block", latency=rows["latency"] + 0.05)])
    folder = toy.write_folder(tmp_path, {GEMM: slow}, FIGURES)
    wide, narrow = imported(folder), imported(folder, toy.CONFIG | FP8)
    np.testing.assert_array_equal(operator(narrow, "o_proj").values_s, operator(wide, "o_proj").values_s)
    assert narrow.notes.count("Multiplications in fp8_block took 52 us or more whatever their size") == 1


def test_experts_in_narrow_weights(tmp_path):
    changed = {MOE: narrower(MOE, moe_dtype="fp8_block"), GEMM: narrower(GEMM, gemm_dtype="fp8_block")}
    folder = toy.write_folder(tmp_path, changed, FIGURES)
    wide, narrow = imported(folder, toy.MOE), imported(folder, toy.MOE | FP8)
    np.testing.assert_allclose(operator(narrow, "experts").values_s, operator(wide, "experts").values_s / 2, rtol=1e-12)
    kept = {"modules_to_not_convert": ["model.layers.*.self_attn"]}
    with pytest.raises(NotMeasuredError, match="moe: moe_dtype w4a16_mxfp4"):
        imported(folder, toy.MOE | {"quantization_config": {"quant_method": "mxfp4"} | kept})
    four = {"quantization_config": {"quant_algo": "W4A16_NVFP4"}}
    with pytest.raises(NotMeasuredError, match="weights in w4a16 nvfp4 are not measured"):
        imported(folder, toy.MOE | four)


def test_keys_and_values_in_8_bits(tmp_path):
    changed = {path: narrower(path, kv_cache_dtype="fp8") for path in (DECODE, PREFILL)}
    folder = toy.write_folder(tmp_path, changed)
    wide, narrow = imported(folder), imported(folder, toy.CONFIG | {"kv_cache_dtype": "fp8"})
    half = operator(wide, "attention, decode").values_s[:, :, 0] / 2
    np.testing.assert_allclose(operator(narrow, "attention, decode").values_s[:-1, :, 0], half[:-1], rtol=1e-12)
    with pytest.raises(NotMeasuredError, match="with KV in fp8 is not measured"):
        imported(toy.write_folder(tmp_path / "without"), toy.CONFIG | {"kv_cache_dtype": "fp8"})


WINDOW = 256
WINDOWED = toy.CONFIG | {"model_type": "mistral", "sliding_window": WINDOW, "max_position_embeddings": 32768,
                         "layer_types": ["sliding_attention", "full_attention"] * 2}  # fmt: skip


def test_a_window_that_was_measured_has_its_own_tables(tmp_path):
    rows = toy.tables()[DECODE]
    seen = rows.assign(window_size=WINDOW, latency=1e3 * toy.decode_s(rows["batch_size"], WINDOW, 8, 2))
    prompts = toy.tables()[PREFILL]
    changed = {DECODE: pd.concat([rows, seen]), PREFILL: pd.concat([prompts, prompts.assign(window_size=WINDOW)])}
    profile = imported(toy.write_folder(tmp_path, changed), WINDOWED)
    full, near = operator(profile, "attention, decode"), operator(profile, "window attention, decode")
    assert (full.repeat, near.repeat) == (2, 2)
    assert near.values_s[2, -1, 0] == pytest.approx(toy.decode_s(4, WINDOW, 8, 2), rel=1e-12)
    assert "was not measured: it costs" not in profile.notes


def test_a_window_that_was_not_costs_what_so_many_tokens_do(tmp_path):
    profile = imported(toy.write_folder(tmp_path), WINDOWED)
    assert "Attention to 256 tokens was not measured: it costs what that to so many does." in profile.notes
    times = {context: profile.operator_times(StepWork.decode(4, context)) for context in (16, WINDOW, 1000, 4096)}
    near = {context: float(each["window attention, decode"]) for context, each in times.items()}
    full = {context: float(each["attention, decode"]) for context, each in times.items()}
    assert near[WINDOW] == near[1000] == near[4096]
    assert near[16] == pytest.approx(full[16], rel=1e-12)
    assert near[WINDOW] == pytest.approx(full[WINDOW], rel=1e-12)
    # a prompt of twelve windows: its pairs at the rate of one of a single window
    chunk = 12 * WINDOW
    pairs = chunk * (chunk + 1) / 2
    seconds = profile.operator_times(StepWork(1, chunk, chunk, pairs, chunk))
    within = window_pairs(chunk, 0.0, WINDOW)
    assert within == WINDOW * (WINDOW + 1) / 2 + 11 * WINDOW**2
    expected = 2 * toy.prefill_s(1, WINDOW, 8) * within / window_pairs(WINDOW, 0.0, WINDOW)
    assert float(seconds["window attention, prefill"]) == pytest.approx(expected, rel=0.05)


def test_pairs_of_a_window_are_those_counted_one_by_one():
    for chunk, before, window in ((1, 0, 4), (7, 0, 4), (7, 3, 4), (3, 9, 4), (5, 2, 100)):
        counted = sum(min(before + 1 + query, window) for query in range(chunk))
        assert window_pairs(chunk, before, window) == counted
    assert window_pairs(5, 2, np.inf) == sum(2 + query for query in range(1, 6))


def test_a_cap_keeps_what_lies_within_the_window_and_says_what_does_not():
    seconds = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])
    whole = Measured(np.array([1.0, 2.0]), np.array([10.0, 100.0, 1000.0]), seconds, np.ones((2, 3), bool))
    found = capped(whole, 100.0)
    np.testing.assert_array_equal(found.seconds, [[1, 2, 2], [2, 4, 4]])
    np.testing.assert_array_equal(found.measured, [[True, True, False]] * 2)
    assert capped(whole, 55.0).seconds[0].tolist() == [1, 1.5, 1.5, 1.5]


def latent_tables(engine_path=PATH, heads=8) -> dict[str, pd.DataFrame]:
    """Kernels of latent attention: decoding reads 576 numbers a token, prompts expand to 320 a head."""
    batches, lengths = (1, 2, 4, 64), (16, 256, 4096)
    common = {"mla_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "num_heads": heads, "device": "NVIDIA Toy"}
    decode = [
        common | {"batch_size": b, "step": c - 1, "latency": 1e3 * latent_s(b, c)} for b in batches for c in lengths
    ]
    prefill = [
        common | {"batch_size": b, "isl": c, "latency": 1e3 * (5e-6 + 2 * heads * 320 * b * c * (c + 1) / 2 / (0.6 * toy.PEAK))}
        for b in batches for c in lengths
    ]  # fmt: skip
    bmm = [
        {"bmm_dtype": "bfloat16", "num_heads": heads, "op_name": name, "num_tokens": tokens, "latency": 1e3 * bmm_s(tokens),
         "device": "NVIDIA Toy"}
        for name in ("mla_gen_pre", "mla_gen_post") for tokens in toy.TOKENS
    ]  # fmt: skip
    return {
        f"mla/{engine_path}generation_mla": pd.DataFrame(decode), f"mla/{engine_path}context_mla": pd.DataFrame(prefill),
        f"mla_bmm/{engine_path}mla_bmm": pd.DataFrame(bmm),
    }  # fmt: skip


def latent_s(batch, context):
    return 6e-6 + 2 * 576 * batch * context / (0.9 * toy.BANDWIDTH)


def bmm_s(tokens):
    return 2e-6 + 2 * 8 * 128 * 512 * tokens / (0.5 * toy.PEAK)


def test_latent_attention_from_its_kernels(tmp_path):
    config = toy.CONFIG | LATENT
    profile = imported(toy.write_folder(tmp_path, latent_tables()), config)
    m = np.array(toy.M)
    for name, n, k in (("q_a, kv_a_proj", 1536 + 576, 1024), ("q_b_proj", 8 * 192, 1536), ("o_proj", 1024, 8 * 128)):
        np.testing.assert_allclose(operator(profile, name).values_s, toy.gemm_s(m, n, k), rtol=1e-12)
    expand = operator(profile, "kv_b_proj")
    assert (expand.axes, expand.when) == (("prefill_tokens",), "any_prefill")
    decode = operator(profile, "latent attention, decode")
    assert decode.values_s[2, 2, 0] == pytest.approx(latent_s(4, 256), rel=1e-12)
    absorbed = operator(profile, "absorbed mla_gen_pre")
    assert (absorbed.axes, absorbed.when, absorbed.repeat) == (("decode_seqs", "decode_width"), "any_decode", 4)
    step = profile.operator_times(StepWork.decode(64, 256, 5))
    assert float(step["absorbed mla_gen_post"]) == pytest.approx(4 * bmm_s(64 * 5), rel=0.2)
    # absorbed, a pair takes 2 x 8 x (576 + 512) operations, and expanded, as in prompts, 2 x 8 x 320
    shape = model_shape(config)
    assert shape.latent is not None
    rate = max(b * c * (c + 1) / 2 / (5e-6 + 2 * 8 * 320 * b * c * (c + 1) / 2 / (0.6 * toy.PEAK))
               for b in (1, 2, 4, 64) for c in (16, 256, 4096))  # fmt: skip
    pair_s = shape.pair_operations / (2 * 8 * 320) / rate
    assert decode.values_s[3, 3, -1] == pytest.approx(max(latent_s(64, 4096), 64 * 4096 * 33 * pair_s), rel=1e-9)


def test_prompts_that_may_have_been_absorbed_tell_the_rate_of_decoding_as_it_is():
    """SGLang's on H200 reach 188 TFLOPS as expanded, which is 640 of 989 absorbed; TensorRT-LLM's 609, which cannot be."""
    batch, tokens, peak = np.array([1.0, 2.0]), np.array([16.0, 4096.0]), 1e15
    kernel = Kernel("latent", 1, 0.0, 3.4 * 640 / peak, prefill_pair_s=640 / peak)
    for share, absorbed in ((0.19, True), (0.62, False)):
        pairs = batch[:, None] * tokens * (tokens + 1) / 2
        prompts = Measured(batch, tokens, pairs * 640 / (share * peak), np.ones((2, 2), bool))
        rate = share * peak / 640
        assert kernel.decoded_pairs_per_s(prompts) == pytest.approx(rate if absorbed else rate / 3.4, rel=1e-12)


def test_latent_attention_from_blocks_where_kernels_were_not_measured(tmp_path):
    heads, batches, lengths = 8, (1, 4, 16, 64), (16, 256, 4096)
    weights_s = 3e-5
    config = toy.CONFIG | LATENT | {"hidden_size": 7168}
    common = {"mla_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "gemm_type": "bfloat16", "num_heads": heads,
              "device": "NVIDIA Toy"}  # fmt: skip

    def block_s(batch, context):
        return weights_s + 1e-7 * batch + 2 * 576 * batch * context / (0.5 * toy.BANDWIDTH)

    decode = [common | {"batch_size": b, "step": c, "latency": 1e3 * block_s(b, c)} for b in batches for c in lengths]
    prefill = [common | {"batch_size": b, "isl": c, "latency": 1.0 * b * c / 16} for b in batches for c in lengths]
    changed = {
        f"mla/{PATH}mla_generation_module": pd.DataFrame(decode),
        f"mla/{PATH}mla_context_module": pd.DataFrame(prefill),
    }
    folder = toy.write_folder(tmp_path, changed)
    profile = imported(folder, config)
    block = operator(profile, "latent attention block, decode")
    np.testing.assert_array_equal(block.grid[2], WIDTHS)
    assert block.values_s[1, 2, 0] == pytest.approx(block_s(4, 256), rel=1e-9)
    assert not {"q_b_proj", "o_proj", "qkv_proj"} & {one.name for one in profile.operators}
    # four queries of one sequence cost the projections of four tokens, and no less than reading its latents once
    assert block.values_s[0, 3, 3] >= block_s(1, 4096) + 1e-7 * 4 - 1e-12
    with pytest.raises(
        NotMeasuredError, match="measured for hidden size 7168 and query rank 1536, not for 1024 and 1536"
    ):
        imported(folder, toy.CONFIG | LATENT)


def test_latents_of_other_sizes_and_without_tables(tmp_path):
    folder = toy.write_folder(tmp_path, latent_tables())
    with pytest.raises(NotMeasuredError, match="latent attention of rank 256"):
        imported(folder, toy.CONFIG | LATENT | {"kv_lora_rank": 256})
    with pytest.raises(NotMeasuredError, match=r"latent attention is not measured for vllm 0\.10\.0"):
        imported(toy.write_folder(tmp_path / "none"), toy.CONFIG | LATENT)
    with pytest.raises(NotMeasuredError, match="num_heads 16 is not measured: use another tensor-parallel size"):
        imported(folder, toy.CONFIG | LATENT | {"num_attention_heads": 16, "num_key_value_heads": 16})


LINEAR = {
    "model_type": "qwen3_next", "linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "full_attention_interval": 2,
}  # fmt: skip


def linear_tables() -> dict[str, pd.DataFrame]:
    """Kernels of gated delta-rule layers: a convolution and the rule itself, decoding by batch, prompts by batch and length."""
    common = {
        "num_k_heads": 4,
        "num_v_heads": 8,
        "head_k_dim": 128,
        "head_v_dim": 128,
        "d_conv": 4,
        "device": "NVIDIA Toy",
    }
    rows = [
        common
        | {
            "phase": phase,
            "kernel_source": kernel,
            "batch_size": b,
            "seq_len": c,
            "latency": 1e3 * state_s(b * c, slow),
        }
        for phase, kernel, slow, lengths in (
            ("generation", "causal_conv1d_update", 1, (1,)),
            ("generation", "fused_recurrent_gated_delta_rule", 4, (1,)),
            ("context", "causal_conv1d_fn", 1, toy.LENGTHS),
            ("context", "chunk_gated_delta_rule_triton", 5, toy.LENGTHS),
        )
        for b in toy.BATCHES
        for c in lengths
    ]
    return {f"linear_attention/{PATH}gdn": pd.DataFrame(rows)}


def state_s(tokens, slow):
    return slow * (2e-6 + 2e-7 * tokens)


def test_layers_of_linear_attention_from_their_kernels(tmp_path):
    profile = imported(toy.write_folder(tmp_path, linear_tables()), toy.CONFIG | LINEAR)
    m = np.array(toy.M)
    # of four layers two attend, with a gate beside their queries, and two keep a state
    assert operator(profile, "attention, decode").repeat == operator(profile, "linear delta rule, decode").repeat == 2
    for name, n, k in (
        ("qkv_proj", (2 * 8 + 2 * 2) * 128, 1024), ("linear in_proj", (2 * 4 + 2 * 8) * 128, 1024),
        ("linear out_proj", 1024, 1024),
    ):  # fmt: skip
        np.testing.assert_allclose(operator(profile, name).values_s, toy.gemm_s(m, n, k), rtol=1e-12)
    rule = operator(profile, "linear delta rule, decode")
    assert (rule.axes, rule.when) == (("decode_seqs", "decode_width"), "any_decode")
    # three queries of four sequences are twelve states; contexts do not matter
    times = {context: profile.operator_times(StepWork.decode(4, context, 3)) for context in (16, 4096)}
    for context in times:
        assert float(times[context]["linear delta rule, decode"]) == pytest.approx(2 * state_s(12, 4), rel=1e-9)
        assert float(times[context]["linear convolution, decode"]) == pytest.approx(2 * state_s(12, 1), rel=1e-9)
    prompt = profile.operator_times(StepWork(2, 512, 512, 256 * 257, 512, prefill_seqs=2))
    assert float(prompt["linear delta rule, prefill"]) == pytest.approx(2 * state_s(512, 5), rel=1e-9)
    assert "a further query token of a sequence costs what a further sequence does" in profile.notes


def test_linear_attention_of_other_heads_is_refused_by_name(tmp_path):
    other = {"linear_num_value_heads": 16}
    with pytest.raises(NotMeasuredError, match="linear attention of 16 value heads on 4 key heads"):
        imported(toy.write_folder(tmp_path, linear_tables()), toy.CONFIG | LINEAR | other)
    with pytest.raises(NotMeasuredError, match="linear attention of 8 value heads"):
        imported(toy.write_folder(tmp_path / "none"), toy.CONFIG | LINEAR)


def test_shards_of_every_kind_cost_less(tmp_path):
    folder = toy.write_folder(tmp_path, latent_tables() | {
        path: pd.concat([frame, frame.assign(num_heads=4, latency=0.6 * frame["latency"])])
        for path, frame in latent_tables().items()
    })  # fmt: skip
    one, two = (imported(folder, toy.CONFIG | LATENT, tp=tp) for tp in (1, 2))
    step = StepWork.decode(16, 1024, 3)
    names = ("latent attention, decode", "q_b_proj", "absorbed mla_gen_pre")
    for name in names:
        assert float(two.operator_times(step)[name]) < float(one.operator_times(step)[name])
