"""Import of aiconfigurator's kernels: what was measured is kept, what was not follows by stated rules, nothing is impossible."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from calibration.imports.aic_attention import CONTEXTS, Measured, after_context, decoding, pairs_per_s
from calibration.imports.aic_gemm import gemms
from calibration.imports.aiconfigurator import import_aiconfigurator
from calibration.imports.attention import WIDTHS
from calibration.imports.elementwise import MemoryKernel, sampler
from simulator.catalogue import load_model
from simulator.cost import StepWork, Table
from simulator.cost.model_config import model_shape
from tests.calibration import aiconfigurator_folder as toy
from traces.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return toy.write_folder(tmp_path_factory.mktemp("aiconfigurator") / "toys")


@pytest.fixture(scope="module")
def measured(shared_data) -> Path:
    return shared_data / "profiles" / "aiconfigurator"


@pytest.fixture(scope="module")
def qwen(measured):
    return import_aiconfigurator(measured, load_model("qwen3-8b"))


def toy_profile(folder, config=toy.CONFIG, **settings):
    return import_aiconfigurator(folder, config, toy.SYSTEM, **settings)


def operator(profile, name) -> Table:
    return next(one for one in profile.operators if one.name == name)


def raw(measured, table, **where) -> pd.DataFrame:
    rows = pd.read_parquet(measured / "h200_sxm" / table)
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return rows


def test_every_measured_kernel_is_kept(folder):
    profile = toy_profile(folder)
    assert (profile.name, profile.model, profile.device) == ("toy-1b on toy_sxm, tp 1", "toys/toy-1b", "NVIDIA Toy")
    assert "vllm 0.10.0" in profile.source
    # qkv_proj is 1024 x (8 + 2 x 2) x 128: off the grid, but the toy's time is linear in n, as is its vocabulary's share
    shapes = {
        "qkv_proj": (1536, 1024, 4),
        "o_proj": (1024, 1024, 4),
        "gate_up_proj": (6144, 1024, 4),
        "down_proj": (1024, 3072, 4),
    }
    for name, (n, k, layers) in shapes.items():
        one = operator(profile, name)
        assert (one.axes, one.repeat, one.when) == (("padded_tokens",), layers, "always")
        np.testing.assert_array_equal(one.grid[0], toy.M)
        np.testing.assert_allclose(one.values_s, toy.gemm_s(np.array(toy.M), n, k), rtol=1e-12)
    one = operator(profile, "attention, decode")
    assert (one.axes, one.when, one.repeat) == (("decode_seqs", "decode_context", "decode_width"), "any_decode", 4)
    # a context is the KV with the query's own token: one more than `step`; fewer tokens than measured cost no less
    np.testing.assert_array_equal(one.grid[1], [1, *toy.LENGTHS])
    np.testing.assert_array_equal(one.values_s[:, 0], one.values_s[:, 1])
    for (i, batch), (j, context) in itertools.product(enumerate(toy.BATCHES), enumerate(toy.LENGTHS, 1)):
        if (batch, context) != (8, 4096):
            assert one.values_s[i, j, 0] == pytest.approx(toy.decode_s(batch, context, 8, 2), rel=1e-12)
    one = operator(profile, "attention, prefill")
    assert (one.axes, one.when, one.repeat) == (("prefill_seqs", "prefill_chunk", "prefill_context"), "any_prefill", 4)
    expected = toy.prefill_s(np.array(toy.BATCHES)[:, None], np.array(toy.LENGTHS), 8)
    np.testing.assert_allclose(one.values_s[:, 1:, 0], expected, rtol=1e-12)


def test_what_is_off_the_grid_is_named(folder):
    profile = toy_profile(folder)
    for told in (
        "qkv_proj (n 1536, k 1024: n between 1024 and 2048)",
        "gate_up_proj (n 6144, k 1024: n between 4096 and 8192)",
        "down_proj (n 1024, k 3072: k between 2048 and 4096)",
        "lm_head (n 32000, k 1024: n beyond 8192)",
        "1 of 12 points of decode attention",
        "0 of 12 of prefill attention",
        "sum of both attention kernels",
    ):
        assert told in profile.notes
    assert "o_proj" not in profile.notes
    assert "left out" in profile.uncertainty
    assert "extrapolating their n" in profile.uncertainty
    on_grid = toy_profile(
        folder, toy.CONFIG | {"vocab_size": 4096, "num_attention_heads": 16, "intermediate_size": 2048, "head_dim": 128}
    )
    assert "qkv_proj (n 2560" in on_grid.notes
    assert "extrapolating" not in on_grid.uncertainty


def test_beyond_the_grid_the_share_of_the_roof_is_held(folder):
    one = operator(toy_profile(folder), "lm_head")
    assert one.axes == ("sampled_tokens",)
    m = np.array(toy.M)

    def roof(n):
        return np.maximum(2 * (m * 1024 + n * 1024 + m * n) / toy.BANDWIDTH, 2 * m * n * 1024 / toy.PEAK)

    share = np.mean([roof(n) / toy.gemm_s(m, n, 1024) for n in (4096, 8192)], axis=0)
    np.testing.assert_allclose(one.values_s, roof(32000) / share, rtol=1e-12)


def test_a_shape_that_was_not_measured_throughout_is_passed_over_and_said(tmp_path):
    path = f"gemm/{toy.ENGINE}/{toy.VERSION}/gemm"
    gemm = toy.tables()[path]
    holed = gemm[~((gemm["n"] == 2048) & (gemm["k"] == 1024) & (gemm["m"] == 16))]
    profile = toy_profile(toy.write_folder(tmp_path / "hole", {path: holed}))
    assert "qkv_proj (n 1536, k 1024: n between 1024 and 4096)" in profile.notes
    np.testing.assert_allclose(
        operator(profile, "qkv_proj").values_s, toy.gemm_s(np.array(toy.M), 1536, 1024), rtol=1e-12
    )
    # a hole at a shape that nothing asks for changes nothing
    foreign = gemm[~((gemm["n"] == 8192) & (gemm["k"] == 8192) & (gemm["m"] == 4096))]
    assert (
        toy_profile(toy.write_folder(tmp_path / "foreign", {path: foreign})).notes
        == toy_profile(toy.write_folder(tmp_path / "whole")).notes
    )
    few = gemm[(gemm["k"] != 1024) | (gemm["n"] == 512)]
    assert (
        "o_proj (n 1024, k 1024: k between 512 and 2048)"
        in toy_profile(toy.write_folder(tmp_path / "few", {path: few})).notes
    )
    with pytest.raises(InputError, match="0 k are measured at two n and every m"):
        toy_profile(toy.write_folder(tmp_path / "none", {path: gemm[(gemm["n"] == 512) | (gemm["m"] == 1)]}))


def test_large_batches_of_long_contexts_go_on_as_the_measured_ones_and_no_faster_than_the_fastest():
    rows = [(1, 100, 5e-6), (2, 100, 6e-6), (4, 100, 8e-6), (1, 10**6, 2e-3), (2, 10**6, 3e-3)]
    table = pd.DataFrame(rows, columns=["batch", "tokens", "seconds"])
    found = decoding(table, 4096)
    assert found.seconds[2, 1] == pytest.approx(max(5e-3, 4 * 10**6 / (2 * 10**6 / 3e-3)))
    assert found.measured.tolist() == [[True, True], [True, True], [True, False]]
    # where the last two batches are equally slow, what counts is how fast KV was read at best
    flat = pd.DataFrame([*rows[:3], (1, 10**6, 3e-3), (2, 10**6, 3e-3)], columns=table.columns)
    assert decoding(flat, 4096).seconds[2, 1] == pytest.approx(6e-3)
    assert decoding(flat[:-1], 4096).seconds[1:, 1] == pytest.approx([6e-3, 12e-3])


def test_the_rule_for_large_batches_where_it_can_be_checked(measured):
    """The last measured batch of each length left out, and predicted from those before it."""
    rows = raw(measured, "attention/vllm/0.24.0/generation_attention_perf.parquet", num_heads=32, num_key_value_heads=8,
               head_dim=128, window_size=0, kv_cache_dtype="bfloat16")  # fmt: skip
    table = pd.DataFrame({"batch": rows["batch_size"], "tokens": rows["step"] + 1, "seconds": rows["latency"] * 1e-3})
    whole = table.pivot_table(index="batch", columns="tokens", values="seconds")
    cut = whole.copy()
    for length in whole:
        cut.loc[whole[length].dropna().index[-1], length] = np.nan
    long = cut.reset_index().melt(id_vars="batch", var_name="tokens", value_name="seconds").dropna()
    filled = decoding(long.astype(float), 4096)
    asked = whole.notna() & cut.isna() & (whole.columns >= 512)
    at = np.isin(whole.index, filled.batch)
    errors = (filled.seconds / whole.to_numpy()[at] - 1)[asked.to_numpy()[at]]
    assert errors.size >= 6
    assert np.median(np.abs(errors)) < 0.08
    assert np.abs(errors).max() < 0.15


def test_verification_costs_one_query_or_all_pairs_at_the_best_rate(folder):
    decode = operator(toy_profile(folder), "attention, decode")
    np.testing.assert_array_equal(decode.grid[2], WIDTHS)
    best = max(b * c * (c + 1) / 2 / toy.prefill_s(b, c, 8) for b, c in itertools.product(toy.BATCHES, toy.LENGTHS))
    for width, place in ((1, 0), (5, 3), (33, 6)):
        for (i, batch), (j, context) in itertools.product(enumerate(toy.BATCHES[:3]), enumerate(toy.LENGTHS, 1)):
            expected = max(toy.decode_s(batch, context, 8, 2), width * batch * context / best)
            assert decode.values_s[i, j, place] == pytest.approx(expected, rel=1e-12)
    profile = toy_profile(folder)
    assert profile.derived == {"decode_width": 1.0, "prefill_context": 0.0, "kv_tokens": 4 * 4096.0}
    assert "best rate of the prefill kernel" in profile.derivation


def test_context_before_a_chunk_costs_its_pairs(folder):
    prefill = operator(toy_profile(folder), "attention, prefill")
    np.testing.assert_array_equal(prefill.grid[2], CONTEXTS)
    best = max(b * c * (c + 1) / 2 / toy.prefill_s(b, c, 8) for b, c in itertools.product(toy.BATCHES, toy.LENGTHS))
    at = int(np.flatnonzero(CONTEXTS == 1024)[0])
    # 2 x 256 queries over 1,024 tokens each; 16 alone count as 256, unless reading the KV takes longer
    assert prefill.values_s[1, 2, at] == pytest.approx(toy.prefill_s(2, 256, 8) + 2 * 256 * 1024 / best, rel=1e-9)
    pairs = toy.prefill_s(1, 16, 8) + 256 * 1024 / best
    assert prefill.values_s[0, 1, at] == pytest.approx(max(pairs, toy.decode_s(1, 16 + 1024, 8, 2)), rel=1e-9)
    assert (np.diff(prefill.values_s, axis=2) > 0).all()


def test_mixed_steps_cost_both_attention_kernels(folder):
    profile = toy_profile(folder)
    decode, prefill = StepWork.decode(2, 256), StepWork(1, 256, 256, 256 * 257 / 2, 256)
    mixed = StepWork(
        3, 258, 2 * 256 + 256, 2 * 256 + 256 * 257 / 2, 256, prefill_kv_tokens=256, prefill_pairs=256 * 257 / 2
    )
    times = [profile.operator_times(work) for work in (decode, prefill, mixed)]
    for name in ("attention, decode", "attention, prefill"):
        assert times[2][name] == pytest.approx(max(times[0][name], times[1][name]), rel=1e-12)
        assert min(times[0][name], times[1][name]) == 0


def test_elementwise_kernels_are_estimated_and_labelled(folder):
    profile = toy_profile(folder)
    times = profile.operator_times(StepWork.decode(16, 256))
    rate = 0.8 * toy.BANDWIDTH
    layers, hidden, q, kv = 4, 1024, 8 * 128, 2 * 128
    expected = {
        "layernorm": 2 * layers * (3e-6 + 16 * 4 * hidden * 2 / rate),
        "rotary_emb": layers * (3e-6 + 16 * 2 * (q + kv) * 2 / rate),
        "qk_norm": layers * (3e-6 + 16 * 2 * (q + kv) * 2 / rate),
        "kv_write": layers * (3e-6 + 16 * 4 * kv * 2 / rate),
        "act_fn": layers * (3e-6 + 16 * 3 * 3072 * 2 / rate),
        "embedding": 3e-6 + 16 * 2 * hidden * 2 / rate,
        "final_layernorm": 3e-6 + 16 * 4 * hidden * 2 / rate,
        "sampler": 8 * 3e-6 + 16 * 8 * 32000 / rate,
    }
    for name, seconds in expected.items():
        assert times[f"{name} (estimate)"] == pytest.approx(seconds, rel=1e-12), name
    assert {name for name in times if "(estimate)" in name} == {f"{name} (estimate)" for name in expected}
    assert "marked (estimate) were not measured: 3 us" in profile.notes
    assert sum(times.values()) == pytest.approx(float(profile.step_time_s(StepWork.decode(16, 256))), rel=1e-12)
    assert "qk_norm (estimate)" not in toy_profile(folder, toy.CONFIG | {"model_type": "llama"}).operator_times(
        StepWork.decode(1, 1)
    )


def test_tensor_parallelism_divides_the_work_and_adds_all_reduces(folder):
    profile = toy_profile(folder, tp=2)
    assert profile.device == "2 x NVIDIA Toy"
    np.testing.assert_allclose(
        operator(profile, "down_proj").values_s, toy.gemm_s(np.array(toy.M), 1024, 1536), rtol=1e-12
    )
    assert operator(profile, "attention, decode").values_s[0, 2, 0] == pytest.approx(
        toy.decode_s(1, 256, 4, 1), rel=1e-12
    )
    reduce = operator(profile, "all-reduce")
    assert (reduce.axes, reduce.repeat) == (("padded_tokens",), 2 * 4)
    # sizes are elements, one token has 1,024; the custom kernel in a graph counts, and NCCL beyond it
    np.testing.assert_array_equal(reduce.grid[0], [1, 2**20 / 1024, 2**24 / 1024, 2**25 / 1024])
    expected = [toy.reduce_s(1024), toy.reduce_s(2**20), toy.reduce_s(2**24), 2 * toy.reduce_s(2**25)]
    np.testing.assert_allclose(reduce.values_s, expected, rtol=1e-12)


@pytest.mark.parametrize(("tp", "ep", "share"), [(1, 1, 1), (2, 1, 2), (2, 2, 2)])
def test_experts_by_tokens_and_how_they_are_spread(folder, tp, ep, share):
    profile = toy_profile(folder, toy.MOE, tp=tp, ep=ep)
    experts = operator(profile, "experts")
    np.testing.assert_allclose(experts.values_s, 1e-5 * (1 + np.array(toy.TOKENS) / 64) / share, rtol=1e-12)
    assert (experts.axes, experts.repeat) == (("padded_tokens",), 4)
    assert {"router", "o_proj"} < {one.name for one in profile.operators}
    assert not {"gate_up_proj", "act_fn (estimate)"} & {one.name for one in profile.operators}
    uneven = operator(toy_profile(folder, toy.MOE, tp=tp, ep=ep, moe_distribution="power_law_1.2"), "experts")
    np.testing.assert_allclose(uneven.values_s, 1.5 * experts.values_s, rtol=1e-12)
    assert "routing is balanced" in profile.notes


def test_query_heads_between_measured_ones_are_interpolated_and_said(folder):
    config = toy.CONFIG | {"num_attention_heads": 12, "hidden_size": 1024}
    profile = toy_profile(folder, config)
    decode = operator(profile, "attention, decode")
    assert decode.values_s[0, 2, 0] == pytest.approx(toy.decode_s(1, 256, 12, 2), rel=1e-12)
    assert "decode attention of 12 heads interpolated between 8 and 16" in profile.notes


def test_the_newest_version_is_taken_unless_told(tmp_path):
    old = f"gemm/{toy.ENGINE}/0.9.1/gemm"
    gemm = toy.tables()[f"gemm/{toy.ENGINE}/{toy.VERSION}/gemm"]
    folder = toy.write_folder(tmp_path, {old: gemm})
    assert "0.10.0" in toy_profile(folder).source  # 0.10 is later than 0.9
    with pytest.raises(InputError, match=r"0\.9\.1/generation_attention_perf\.parquet: no such file"):
        toy_profile(folder, engine_version="0.9.1")


def test_repeated_measurements_count_as_their_median(tmp_path):
    path = f"moe/{toy.ENGINE}/{toy.VERSION}/moe"
    moe = toy.tables()[path]
    thrice = pd.concat([moe, moe.assign(latency=moe["latency"] * 1.2), moe.assign(latency=moe["latency"] * 9)])
    experts = operator(toy_profile(toy.write_folder(tmp_path, {path: thrice}), toy.MOE), "experts")
    np.testing.assert_allclose(experts.values_s, 1.2e-5 * (1 + np.array(toy.TOKENS) / 64), rtol=1e-12)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        ({"kv_lora_rank": 512}, {}, "qk_nope_head_dim = None: give the integer"),
        ({"quantization_config": {"bits": 4}}, {}, "is not among the quantised weights known here"),
        ({"torch_dtype": "float16"}, {}, "torch_dtype = 'float16': only bfloat16 is imported"),
        ({"num_attention_heads": 32}, {}, "32 query heads on 2 KV heads .* there are 8, 16: use another"),
        ({"num_key_value_heads": 4}, {}, "on 4 KV heads there are none"),
        ({"head_dim": 64}, {}, "decode attention of head_dim 64 with KV in bfloat16 is not measured"),
        ({}, {"tp": 3}, "tp = 3"),
        ({}, {"ep": 2}, "ep = 2 at tp = 1"),
        ({}, {"tp": 2, "ep": 2}, "ep = 2 at tp = 2: .* use 1"),
        ({}, {"engine": "sglang"}, "no measurements there"),
        (toy.MOE, {"moe_distribution": "power_law_9"}, "with power_law_9 routing is not measured"),
        (toy.MOE | {"moe_intermediate_size": 640}, {}, "inter_size 640.* is not measured"),
    ],
)
def test_what_was_not_measured_is_refused_by_name(folder, config, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        import_aiconfigurator(folder, toy.CONFIG | config, toy.SYSTEM, **settings)
    assert "\n" not in str(caught.value)


def test_experts_that_are_spread_otherwise_are_refused(tmp_path):
    path = f"moe/{toy.ENGINE}/{toy.VERSION}/moe"
    moe = toy.tables()[path]
    folder = toy.write_folder(tmp_path, {path: moe[moe["moe_ep_size"] == 1]})
    with pytest.raises(InputError, match=r"tp 1 x ep 2 is not measured, of \[\(1, 1\), \(2, 1\)\]"):
        toy_profile(folder, toy.MOE, tp=2, ep=2)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), None])
def test_a_latency_that_is_none_is_refused(tmp_path, value):
    path = f"gemm/{toy.ENGINE}/{toy.VERSION}/gemm"
    gemm = toy.tables()[path]
    gemm.loc[3, "latency"] = value
    with pytest.raises(InputError, match=r"gemm_perf\.parquet: .*'k': .*latency > 0"):
        toy_profile(toy.write_folder(tmp_path, {path: gemm}))


def test_files_that_cannot_be_used(tmp_path, folder):
    with pytest.raises(InputError, match=r"h200_sxm\.yaml: cannot be read .* systems there are toy_sxm"):
        import_aiconfigurator(folder, toy.CONFIG)
    with pytest.raises(InputError, match="systems there are none"):
        import_aiconfigurator(tmp_path / "absent", toy.CONFIG)
    path = f"gemm/{toy.ENGINE}/{toy.VERSION}/gemm"
    gemm = toy.tables()[path]
    with pytest.raises(InputError, match=r"expected columns .*latency"):
        toy_profile(toy.write_folder(tmp_path / "column", {path: gemm.drop(columns="latency")}))
    broken = toy.write_folder(tmp_path / "bytes")
    (broken / toy.SYSTEM / f"{path}_perf.parquet").write_bytes(b"PAR1 and so on")
    with pytest.raises(InputError, match=r"gemm_perf\.parquet: cannot be read"):
        toy_profile(broken)
    with pytest.raises(InputError, match=r"gpu\.mem_bw = 'fast': give a number > 0"):
        toy_profile(toy.write_folder(tmp_path / "figures", figures=toy.FIGURES | {"mem_bw": "fast"}))
    with pytest.raises(InputError, match="at least two of each"):
        toy_profile(toy.write_folder(tmp_path / "few", {path: gemm[gemm["n"] == 1024]}))
    lonely = gemm.assign(gemm_dtype="fp8")
    with pytest.raises(InputError, match="gemm in bfloat16 is not measured"):
        toy_profile(toy.write_folder(tmp_path / "fp8", {path: lonely}))


def test_qwen3_8b_keeps_the_milliseconds_of_the_source(measured, qwen):
    gemm = raw(measured, "gemm/vllm/0.24.0/gemm_perf.parquet", gemm_dtype="bfloat16", n=6144, k=4096).sort_values("m")
    one = operator(qwen, "qkv_proj")
    np.testing.assert_array_equal(one.grid[0], gemm["m"])
    # but for what makes it rise with m, which leaves the mean of its logarithm as it was
    np.testing.assert_allclose(one.values_s, gemm["latency"] * 1e-3, rtol=0.14)
    assert np.log(one.values_s).mean() == pytest.approx(np.log(gemm["latency"] * 1e-3).mean(), rel=1e-12)
    assert np.isclose(one.values_s, gemm["latency"] * 1e-3, rtol=1e-12).mean() > 0.3
    rows = raw(measured, "attention/vllm/0.24.0/generation_attention_perf.parquet", num_heads=32, num_key_value_heads=8,
               head_dim=128, window_size=0, kv_cache_dtype="bfloat16", batch_size=64, step=4095)  # fmt: skip
    one = operator(qwen, "attention, decode")
    place = tuple(int(np.searchsorted(axis, value)) for axis, value in zip(one.grid, (64, 4096, 1), strict=True))
    assert one.values_s[place] == pytest.approx(rows["latency"].item() * 1e-3, rel=1e-12)
    assert qwen.device == "NVIDIA H200"
    assert "vllm 0.24.0" in qwen.source


@pytest.mark.parametrize("width", [1, 2, 3, 5, 9])
def test_no_decode_step_of_qwen3_8b_is_cheaper_than_its_bytes_or_operations(measured, qwen, width):
    """Batches 1 to 512, contexts 1k to 32k, against the roofs that the source's own device file gives."""
    gpu = yaml.safe_load((measured / "h200_sxm.yaml").read_text())["gpu"]
    shape = model_shape(load_model("qwen3-8b"))
    live, context = np.meshgrid(
        np.unique(np.rint(np.geomspace(1, 512, 100))), np.unique(np.rint(np.geomspace(1024, 32768, 60))), indexing="ij"
    )
    pairs = live * context * width
    moved = 2 * shape.read_parameters + shape.kv_bytes_per_token * live * context
    operations = 2 * shape.read_parameters * live * width + 4 * shape.layers * shape.heads * shape.head_dim * pairs
    seconds = qwen.step_time_s(StepWork.decode(live, context, width))
    ratio = seconds / np.maximum(moved / gpu["mem_bw"], operations / gpu["bfloat16_tc_flops"])
    assert ratio.min() > 1.1  # the fastest measured attention reads at 0.91 of the bandwidth
    assert ratio.max() < 2.6
    assert not qwen.outside(StepWork.decode(live, context, width)).any()


def test_no_kernel_that_was_measured_beats_the_device(measured):
    """What decides for a model: attention that reads over 50 MB, which caches do not hold, and large multiplications."""
    gpu = yaml.safe_load((measured / "h200_sxm.yaml").read_text())["gpu"]
    rows = raw(
        measured, "attention/vllm/0.24.0/generation_attention_perf.parquet", window_size=0, kv_cache_dtype="bfloat16"
    )
    moved = 4 * rows["num_key_value_heads"] * rows["head_dim"] * rows["batch_size"] * (rows["step"] + 1)
    share = moved / gpu["mem_bw"] / (rows["latency"] * 1e-3)
    assert share[moved > 50e6].max() < 0.95
    table = raw(measured, "gemm/vllm/0.24.0/gemm_perf.parquet", gemm_dtype="bfloat16")
    large = table[(table["n"] >= 1024) & (table["k"] >= 1024)]
    m, n, k = (large[name].to_numpy(np.float64) for name in "mnk")
    roof = np.maximum(2 * (m * k + n * k + m * n) / gpu["mem_bw"], 2 * m * n * k / gpu["bfloat16_tc_flops"])
    assert (roof / (large["latency"] * 1e-3)).max() < 0.96


def test_interpolating_multiplications_is_no_worse_than_the_measurement(measured):
    """Leave-one-out over the widths against leave-one-out over m, which needs no rule; and against the nearest width."""
    table = raw(measured, "gemm/vllm/0.24.0/gemm_perf.parquet", gemm_dtype="bfloat16")
    grid = gemms(table.assign(seconds=table["latency"] * 1e-3), 4.8e12, 9.89e14)
    errors = np.abs(grid.leave_one_out())
    assert np.median(errors) < 0.04
    assert np.quantile(errors, 0.95) < 0.15
    assert np.median(np.abs(grid.leave_one_out(apart=3.0))) < 0.06  # neighbours three times apart
    assert np.median(np.abs(grid.beyond_error())) < 0.07
    large = (grid.n >= 1024)[:, None] & (grid.k >= 1024)
    seconds = np.where(large, grid.seconds, np.nan)
    share = ((grid.m[1:-1] - grid.m[:-2]) / (grid.m[2:] - grid.m[:-2]))[:, None, None]
    over_m = (seconds[:-2] + share * (seconds[2:] - seconds[:-2])) / seconds[1:-1] - 1
    assert np.median(errors) < 1.2 * np.nanmedian(np.abs(over_m))
    nearest = seconds[:, :-1] * (grid.n[1:] / grid.n[:-1])[:, None] / seconds[:, 1:] - 1
    assert np.nanmedian(np.abs(nearest)) > 1.4 * np.median(errors)


def test_message_sizes_of_all_reduces_are_elements(measured):
    """Counted as bytes, one dtype would be twice as fast as the other, and neither near the link's 450 GB/s."""
    nccl = raw(measured, "comm/nccl/2.29.2/nccl_perf.parquet", op_name="all_reduce", num_gpus=2)
    half, int8 = (nccl[nccl["nccl_dtype"] == dtype].set_index("message_size")["latency"] for dtype in ("half", "int8"))
    large = [size for size in half.index if size >= 2**24]
    ratio = (int8 / half).loc[large]
    assert ratio.between(0.5, 0.6).all()
    own = raw(measured, "comm/vllm/0.24.0/custom_allreduce_perf.parquet", num_gpus=2, backend="vllm_graph")
    own = own.set_index("message_size")["latency"]
    assert (
        ((own / half).loc[[size for size in large if size >= 2**26]]).between(0.95, 1.05).all()
    )  # so it counts as NCCL
    gb_per_s = 2**28 / (own[2**28] * 1e-3) / 1e9  # 2 (tp - 1) / tp = 1
    assert gb_per_s < 0.36 * 450
    assert 2 * gb_per_s == pytest.approx(318, abs=1)


@pytest.mark.parametrize(("device", "median"), [("RTXPRO6000", 0.06), ("RTX4090", 0.3)])
def test_the_rule_for_context_before_a_chunk_where_it_was_measured(shared_data, device, median):
    """Our rule from chunks without context and decoding alone, against LLMServingSim's chunks with context."""
    rows = pd.read_csv(shared_data / f"profiles/llmservingsim/{device}/Llama-3.1-8B/bf16/tp1/attention.csv")
    decode = rows[(rows["prefill_chunk"] == 0) & (rows["n_decode"].isin([1, 2]))]
    grid = decode.pivot_table(index="n_decode", columns="kv_decode", values="time_us").dropna(axis=1)
    decodes = Measured(
        grid.index.to_numpy(float), grid.columns.to_numpy(float), grid.to_numpy(float), ~np.isnan(grid.to_numpy())
    )
    alone = rows[(rows["prefill_chunk"] > 0) & (rows["n_decode"] == 0)]
    chunks = 2.0 ** np.arange(4, 12)
    bare = alone[alone["kv_prefill"] == 0].set_index("prefill_chunk")["time_us"].loc[chunks].to_numpy()
    prompts = Measured(
        np.array([1.0, 2.0]), chunks, np.stack([bare, 2 * bare]), np.array([[True], [False]]).repeat(8, axis=1)
    )
    predicted = after_context(prompts, decodes, pairs_per_s(prompts))[0]
    errors = [
        predicted[int(np.searchsorted(chunks, row.prefill_chunk)), int(np.searchsorted(CONTEXTS, row.kv_prefill))]
        / row.time_us
        - 1
        for row in alone.itertuples()
        if row.kv_prefill in CONTEXTS[1:] and row.prefill_chunk in chunks
    ]
    assert len(errors) > 30
    assert np.median(np.abs(errors)) < median
    assert np.quantile(np.abs(errors), 0.95) < 0.4


def test_qwen3_30b_a3b_and_tensor_parallelism_on_real_data(measured):
    mixture = import_aiconfigurator(measured, load_model("qwen3-30b-a3b"))
    rows = raw(measured, "moe/vllm/0.24.0/moe_perf.parquet", moe_dtype="bfloat16", hidden_size=2048, inter_size=768,
               num_experts=128, moe_tp_size=1, moe_ep_size=1, distribution="balanced").sort_values("num_tokens")  # fmt: skip
    np.testing.assert_allclose(operator(mixture, "experts").values_s, rows["latency"] * 1e-3, rtol=0.01)
    assert mixture.valid_range["padded_tokens"] == (1.0, 16384.0)
    config = load_model("llama-3.1-70b")
    steps = StepWork.decode(32, 4096)
    times = {tp: import_aiconfigurator(measured, config, tp=tp).operator_times(steps) for tp in (1, 4, 8)}
    assert "all-reduce" not in times[1]
    work = {tp: sum(float(value) for name, value in times[tp].items() if name != "all-reduce") for tp in times}
    assert 1 < work[1] / work[4] < 4.4
    assert work[8] < work[4]
    spread = import_aiconfigurator(measured, load_model("qwen3-30b-a3b"), tp=2, ep=2)
    assert spread.name == "Qwen3-30B-A3B on h200_sxm, tp 2, ep 2"


def test_more_tokens_than_were_measured_are_outside(qwen):
    assert qwen.valid_range["padded_tokens"] == (1.0, 32768.0)
    assert qwen.outside(StepWork(8, 40_000, 40_000, 4e8, 40_000, prefill_seqs=8))
    assert not qwen.outside(StepWork(8, 32_000, 32_000, 6.4e7, 32_000, prefill_seqs=8))


MIXED = ("RTX4090/Llama-3.1-8B", "RTXPRO6000/Llama-3.1-8B", "RTXPRO6000/Qwen3-30B-A3B-Instruct-2507")


@pytest.mark.parametrize("name", MIXED)
def test_mixed_kernels_take_longer_than_the_sum_as_the_notes_say(shared_data, name):
    rows = pd.read_csv(shared_data / f"profiles/llmservingsim/{name}/bf16/tp1/attention.csv")
    decode = rows[rows["prefill_chunk"] == 0].set_index(["n_decode", "kv_decode"])["time_us"].rename("decode")
    prefill = rows[rows["n_decode"] == 0].set_index(["prefill_chunk", "kv_prefill"])["time_us"].rename("prefill")
    mixed = rows[(rows["prefill_chunk"] > 0) & (rows["n_decode"] > 0)]
    both = mixed.join(decode, on=["n_decode", "kv_decode"]).join(prefill, on=["prefill_chunk", "kv_prefill"]).dropna()
    assert 1.2 < (both["time_us"] / (both["decode"] + both["prefill"])).median() < 1.55


@pytest.mark.parametrize(
    ("name", "bandwidth"), [("RTX4090/Llama-3.1-8B", 1.008e12), ("RTXPRO6000/Llama-3.1-8B", 1.792e12)]
)
def test_the_estimate_of_the_sampler_is_near_measured_ones(shared_data, name, bandwidth):
    rows = pd.read_csv(shared_data / f"profiles/llmservingsim/{name}/bf16/tp1/per_sequence.csv")
    measured_us = rows[rows["layer"] == "sampler"].set_index("sequences")["time_us"]
    counts = measured_us.index.to_numpy(np.float64)
    estimate = sampler(128256, MemoryKernel(0.8 * bandwidth, 3e-6), counts).values_s * 1e6
    assert np.median(np.abs(estimate / measured_us - 1)) < 0.4
    assert measured_us[1] == pytest.approx(8 * 3, rel=0.06)
