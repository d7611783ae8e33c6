"""The roofline estimate against crossing points, hand arithmetic, routing by chance, and measured kernels."""

import json

import numpy as np
import pandas as pd
import pytest

from simulator.catalogue import estimate, load_device, load_model
from simulator.cost import StepWork, load_profile, roofline
from simulator.cost.document import document_of, parse
from simulator.cost.model_config import model_shape
from simulator.cost.roofline import TOO_FAST
from traces.errors import InputError

LLAMA, MIXTRAL = load_model("llama-3.1-8b"), load_model("mixtral-8x7b")
QWEN3_30B = load_model("qwen3-30b-a3b")
H100 = {
    "name": "H100 SXM", "bandwidth_bytes_per_s": 3.35e12, "peak_flops_per_s": 989e12,
    "link_bandwidth_bytes_per_s": 450e9, "link_latency_s": 5e-6,
}  # fmt: skip
SLOW = H100 | {"peak_flops_per_s": 9e12}  # overtaken while the curve of touched experts still bends
H200 = H100 | {"name": "H200", "bandwidth_bytes_per_s": 4.8e12}


def test_llama_bytes_and_flops_by_hand():
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
    assert (profile.kind, profile.name, profile.device) == ("roofline", "guess", "H100 SXM")
    assert profile.model == "meta-llama/Llama-3.1-8B"
    assert profile.relative_error is None
    assert profile.outside(StepWork.decode(1, [131072, 131073])).tolist() == [False, True]
    unlimited = {key: value for key, value in LLAMA.items() if key != "max_position_embeddings"}
    assert not roofline(unlimited, H100).outside(StepWork.decode(1, 10**7))
    experts = roofline(QWEN3_30B, H100)
    assert experts.kind == "table"
    assert "routing is taken to be uniform" in experts.uncertainty
    assert not experts.outside(StepWork.decode([1, 4096], 1000)).any()


def exact_expert_s(config, device, tokens):
    """Seconds of all routed experts, from the formula itself at every number of tokens."""
    shape = model_shape(config)
    size = 3 * shape.hidden * shape.expert_intermediate
    touched = shape.experts * (1 - (1 - shape.experts_per_token / shape.experts) ** tokens)
    memory = touched * size * 2 / device["bandwidth_bytes_per_s"]
    compute = 2 * shape.experts_per_token * tokens * size / device["peak_flops_per_s"]
    return memory * shape.layers, compute * shape.layers


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "qwen3-235b-a22b", "mixtral-8x7b"])
@pytest.mark.parametrize("device", [load_device("a100-40gb"), load_device("b200"), SLOW], ids=["a100", "b200", "slow"])
def test_the_table_of_experts_is_within_one_percent_of_the_formula(name, device):
    tokens = np.concatenate([np.arange(1, 20_000), [10**5, 10**6, 2**24]])
    config = load_model(name)
    memory, compute = exact_expert_s(config, device, tokens)
    work = StepWork(tokens, tokens, 0, 0)
    assert roofline(config, device).operator_times(work)["experts"] == pytest.approx(
        np.maximum(memory, compute), rel=5e-3
    )
    additive = roofline(config, device, mode="additive").operator_times(work)
    assert additive["experts memory"] == pytest.approx(memory, rel=5e-3)
    assert additive["experts compute"] == pytest.approx(compute, rel=1e-12)


def test_bytes_of_experts_are_those_of_tokens_routed_by_chance():
    rng = np.random.default_rng(11)
    for tokens in (1, 6, 24, 100):
        read_bytes = 0
        for _ in range(48):
            chosen = np.argpartition(rng.random((tokens, 128)), 8, axis=1)[:, :8]
            read_bytes += np.unique(chosen).size * 3 * 2048 * 768 * 2
        seconds = roofline(QWEN3_30B, H100).operator_times(StepWork(tokens, tokens, 0, 0))["experts"]
        # 48 layers of 128 experts: the mean's standard deviation is below 1 %
        assert seconds == pytest.approx(read_bytes / 3.35e12, rel=0.03)


def test_at_a_large_batch_all_experts_are_read_and_then_computed():
    shape = model_shape(MIXTRAL)
    routed_bytes = 2 * shape.routed_parameters
    assert routed_bytes == 2 * 32 * 8 * 3 * 4096 * 14336
    times = roofline(MIXTRAL, H100).operator_times(StepWork([1, 100, 300, 10**4], [1, 100, 300, 10**4], 0, 0))[
        "experts"
    ]
    assert times[0] == pytest.approx(routed_bytes / 4 / 3.35e12, rel=1e-12)
    assert times[1:3] == pytest.approx(routed_bytes / 3.35e12, rel=1e-9)
    assert times[3] == pytest.approx(10**4 * routed_bytes / 4 / 989e12, rel=1e-12)


def test_experts_all_used_cost_what_the_dense_model_of_their_width_does():
    tokens = np.array([1, 7, 64, 400, 5000])
    dense = {**MIXTRAL, "num_local_experts": 0, "intermediate_size": 8 * 14336, "model_type": "mistral"}
    # beside attention over a context, `max` of the parts is more than `max` of their sums
    for mode, context in (("max", 0), ("additive", 2000)):
        work = StepWork.decode(tokens, context)
        every = roofline({**MIXTRAL, "num_experts_per_tok": 8}, H100, mode).step_time_s(work)
        # the router has 8 x 4096 parameters a layer
        assert every == pytest.approx(roofline(dense, H100, mode).step_time_s(work), rel=1e-4)


def test_a_sparse_model_decodes_one_token_as_fast_as_its_active_parameters():
    shape = model_shape(QWEN3_30B)
    one = roofline(QWEN3_30B, H100).step_time_s(StepWork(1, 1, 0, 0))
    assert one == pytest.approx(2 * (shape.active_parameters - shape.embedding_parameters) / 3.35e12, rel=1e-12)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b"])
def test_tensor_parallel_divides_the_work_and_adds_all_reduces(name):
    config = load_model(name)
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    work = StepWork.decode([1, 64, 700], 3000)
    whole, halved = (roofline(config, H100, tp=tp).operator_times(work) for tp in (1, 2))
    reduced = halved.pop("all-reduce")
    assert "all-reduce" not in whole
    assert reduced == pytest.approx(2 * layers * (5e-6 + np.array([1, 64, 700]) * hidden * 2 / 450e9), rel=1e-12)
    for operator, seconds in halved.items():
        # norms and router are copied: 2 % of what the sparse model reads beside its experts
        assert seconds == pytest.approx(whole[operator] / 2, rel=1e-2)
    four = roofline(config, H100, tp=4).operator_times(work)["all-reduce"]
    assert four - reduced == pytest.approx(2 * layers * np.array([1, 64, 700]) * hidden * 2 / 2 / 450e9, rel=1e-9)
    profile = roofline(config, H100, tp=2)
    assert profile.device == "2 x H100 SXM"
    assert "2 x" in profile.source


def test_the_estimate_can_be_written_and_read():
    for mode, tp in (("max", 1), ("additive", 2)):
        profile = roofline(QWEN3_30B, H100, mode, overhead_s=1e-3, tp=tp)
        again = parse(json.dumps(document_of(profile)))
        work = StepWork.decode([1, 17, 900], 1234, 3)
        assert (again.step_time_s(work) == profile.step_time_s(work)).all()


def measured_decode_s(folder, layers, sequences, context):
    """Seconds of a decode step, summed from kernels that were measured one by one."""

    def columns(file, index):
        return pd.read_csv(folder / file).pivot_table("time_us", index, "layer")

    dense = columns("dense.csv", "tokens").loc[sequences]
    attention = pd.read_csv(folder / "attention.csv")
    attention = attention.query(f"prefill_chunk == 0 and n_decode == {sequences} and kv_decode == {context}")
    once = ["embedding", "final_layernorm"]
    layer = dense.drop(once).sum() + dense["layernorm"] + attention["time_us"].item()
    if (folder / "moe.csv").exists():
        moe = pd.read_csv(folder / "moe.csv").query(f"tokens == {sequences}").sort_values("activated_experts")
        touched = 128 * (1 - (1 - 8 / 128) ** sequences)
        layer += np.interp(touched, moe["activated_experts"], moe["time_us"])
    last = columns("per_sequence.csv", "sequences").loc[sequences].sum()
    return 1e-6 * (layers * layer + dense[once].sum() + last)


def test_measured_kernels_take_as_much_longer_as_the_estimate_says(shared_data):
    root = shared_data / "profiles/llmservingsim"
    found = {"max": [], "additive": []}
    for gpu, device, folder, model in (
        ("RTX4090", "rtx-4090", "Llama-3.1-8B", "llama-3.1-8b"),
        ("RTXPRO6000", "rtx-pro-6000-server", "Llama-3.1-8B", "llama-3.1-8b"),
        ("RTXPRO6000", "rtx-pro-6000-server", "Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b"),
    ):
        layers = load_model(model)["num_hidden_layers"]
        for mode, ratios in found.items():
            profile = estimate(model, device, mode=mode, overhead_s=0.0, kernel_s=0.0)
            for sequences in (1, 8, 32, 64, 128, 256):
                for context in (1024, 4096):
                    measured = measured_decode_s(root / gpu / folder / "bf16/tp1", layers, sequences, context)
                    ratios.append(measured / profile.step_time_s(StepWork.decode(sequences, context)))
    for mode, ratios in found.items():
        assert f"{min(ratios):.2f} to {max(ratios):.2f} times" in roofline(LLAMA, H100, mode).uncertainty


REPORTED = [
    # model, device, GPUs, live sequences, mean context, milliseconds of a step, where
    ("qwen3-1.7b", "a100-80gb", 1, 1, 192, 4.6, "tenstorrent/tt-inference-server 340"),
    ("qwen3-1.7b", "a100-80gb", 1, 1, 2112, 5.0, "tenstorrent/tt-inference-server 340"),
    ("qwen3-14b", "a100-80gb", 1, 1, 192, 24.3, "tenstorrent/tt-inference-server 340"),
    ("qwen3-14b", "a100-80gb", 1, 1, 1088, 28.9, "tenstorrent/tt-inference-server 340"),
    ("qwen3-30b-a3b", "a100-80gb", 1, 1, 192, 9.6, "tenstorrent/tt-inference-server 340"),
    ("qwen3-30b-a3b", "a100-80gb", 1, 1, 8256, 10.6, "tenstorrent/tt-inference-server 340"),
    ("qwen3-30b-a3b", "h100", 2, 1, 500, 1e3 / 222.47, "sgl-project/SpecForge 339"),
    ("qwen3-30b-a3b", "h100", 2, 4, 500, 4e3 / 566.21, "sgl-project/SpecForge 339"),
    ("qwen3-30b-a3b", "h100", 2, 8, 500, 8e3 / 733.61, "sgl-project/SpecForge 339"),
    ("gpt-oss-120b", "a100-80gb", 1, 1, 500, 1e3 / 90, "vllm-project/vllm 22331"),
]


@pytest.mark.parametrize(("model", "device", "tp", "live", "context", "step_ms", "where"), REPORTED)
def test_steps_that_were_reported_lie_within_the_error_that_the_estimate_states(
    model, device, tp, live, context, step_ms, where
):
    profile = estimate(model, device, tp)
    kind = "moe" if model_shape(load_model(model)).moe_layers else "dense"
    ratio = step_ms / 1e3 / profile.step_time_s(StepWork.decode(live, context))
    assert 1 < ratio < TOO_FAST[kind], where
    assert f"up to {TOO_FAST[kind]:g} times as long" in profile.uncertainty


def test_a_published_fit_of_whole_steps_lies_within_it():
    fit, profile = load_profile("h100-llama-3.1-8b-published"), estimate("llama-3.1-8b", "h100")
    work = StepWork.decode(*np.meshgrid([1, 2, 8, 32, 64], [64, 256, 1000], [1, 2, 4, 8], indexing="ij"))
    assert not fit.outside(work).any()
    ratio = fit.step_time_s(work) / profile.step_time_s(work)
    assert ratio[..., 0].max() == pytest.approx(1.3, abs=0.05)  # one token a sequence
    assert 1 < ratio.min() < 1.15
    assert 1.9 < ratio.max() < TOO_FAST["dense"]


def test_all_reduces_are_near_those_measured_on_h200(shared_data):
    path = shared_data / "profiles/aiconfigurator/h200_sxm/comm/vllm/0.24.0/custom_allreduce_perf.parquet"
    measured = pd.read_parquet(path).query("backend == 'vllm_graph' and message_size >= 4096")
    hidden = LLAMA["hidden_size"]
    for tp, rows in measured.groupby("num_gpus"):
        elements = rows["message_size"].to_numpy()  # of 2 bytes
        tokens = elements / hidden
        times = estimate("llama-3.1-8b", "h200", tp=int(tp)).operator_times(StepWork(tokens, tokens, 0, 0))[
            "all-reduce"
        ]
        ratio = rows["latency"].to_numpy() * 1e-3 / (times / 64)
        # the data sheet's bandwidth is reached by large messages on 8 GPUs; middling ones take about twice as long
        assert ratio.min() > 0.9
        assert ratio.max() < 2.5


@pytest.mark.parametrize("rate", [None, 0, -1.0, float("inf"), float("nan"), 10**400, "3 TB/s", True])
def test_impossible_devices_and_modes_are_refused(rate):
    with pytest.raises(InputError, match="device bandwidth_bytes_per_s"):
        roofline(LLAMA, H100 | {"bandwidth_bytes_per_s": rate})
    with pytest.raises(InputError, match="device link_bandwidth_bytes_per_s"):
        roofline(LLAMA, H100 | {"link_bandwidth_bytes_per_s": rate}, tp=2)
    with pytest.raises(InputError, match="mode 'both' is unknown"):
        roofline(LLAMA, H100, mode="both")
    with pytest.raises(InputError, match="constant = -1"):
        roofline(LLAMA, H100, overhead_s=-1.0)
    with pytest.raises(InputError, match="index_topk = 512: sparse attention"):
        roofline(LLAMA | {"index_topk": 512}, H100)


@pytest.mark.parametrize("mode", ["max", "additive"])
@pytest.mark.parametrize("tp", [1, 2])
def test_ranks_share_experts_and_exchange_tokens(mode, tp):
    """Two ranks of 64 tokens: half of the experts' bytes, touched by 128 tokens; as many pairs; two messages a layer."""
    one, two = (estimate("qwen3-30b-a3b", "h100", tp, mode, ranks=ranks) for ranks in (1, 2))
    assert two.parallel == {"tensor_parallel_size": tp, "expert_parallel_size": 2 * tp}
    shape, device = model_shape(load_model("qwen3-30b-a3b")).shard(tp), load_device("h100")
    work = StepWork.decode(64, 1000)
    each = [{name: float(s) for name, s in profile.operator_times(work).items()} for profile in (one, two)]
    bandwidth, link = device["bandwidth_bytes_per_s"], device["link_bandwidth_bytes_per_s"]
    touched = [float(shape.expected_experts(64 * ranks)) / ranks for ranks in (1, 2)]
    expected_s = [shape.moe_layers * count * shape.expert_bytes / bandwidth for count in touched]
    name = "experts" if mode == "max" else "experts memory"
    assert [found[name] for found in each] == pytest.approx(expected_s, rel=5e-3)
    if mode == "additive":
        assert each[0]["experts compute"] == each[1]["experts compute"]
    message_s = device["link_latency_s"] + 64 * shape.hidden * 2 / tp / link
    assert each[1]["expert exchange"] == pytest.approx(2 * shape.moe_layers * (2 * tp - 1) * message_s)
    assert {*each[0]} == {*each[1]} - {"expert exchange"}


def test_a_dense_model_has_no_ranks():
    with pytest.raises(InputError, match="data_parallel_size = 2: the model has no experts to share"):
        estimate("qwen3-8b", "h100", ranks=2)
