"""The catalogue's models against the totals that their publishers give, its devices, and what can go wrong."""

import json
from pathlib import Path

import pytest

from simulator.catalogue import estimate, list_devices, list_models, load_device, load_model
from simulator.cost import StepWork
from simulator.cost.model_config import model_shape
from simulator.cost.roofline import HOST_STEP_S
from traces.errors import InputError

SIGLIP, LLAMA_4_TOWER = 416_866_032, 871_932_416
"""Parameters of the image towers of Gemma 3 and, with its projector, of Llama 4, which are in the published totals."""


def gemma(total: int, hidden: int) -> int:
    """Without SigLIP and the projector from its width of 1,152."""
    return total - SIGLIP - 1152 * (hidden + 1)


PUBLISHED = {
    # parameters: the total of the checkpoint on Hugging Face, a tied output layer once
    "deepseek-r1-distill-qwen-1.5b": 1_777_088_000,
    "deepseek-r1-distill-qwen-7b": 7_615_616_512,
    "deepseek-r1-distill-qwen-32b": 32_763_876_352,
    "gemma-3-4b": gemma(4_300_079_472, 2560),
    "gemma-3-12b": gemma(12_187_325_040, 3840),
    "gemma-3-27b": gemma(27_432_406_640, 5376),
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-3b": 3_212_749_824,
    "llama-4-scout": 108_641_793_536 - LLAMA_4_TOWER,
    "llama-4-maverick": 401_583_781_376 - LLAMA_4_TOWER,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-32b-fp8": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-30b-a3b-fp8": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-235b-a22b-fp8": 235_093_634_560,
    "qwen3-coder-480b-a35b": 480_154_875_392,
}
ROUNDED = {
    # as their publishers round them, without the layers that predict further tokens
    "deepseek-v3": 671e9,
    "deepseek-r1": 671e9,
    "dream-7b": 7.62e9,
    "glm-4.5": 355e9,
    "glm-4.5-air": 106e9,
    "kimi-k2": 1.026e12,
    "qwen3-next-80b-a3b": 80e9,
    "qwen3.5-27b": 27e9,
    "qwen3.5-35b-a3b": 35e9,
    "qwen3.5-122b-a10b": 122e9,
    "qwen3.5-397b-a17b": 397e9,
}
ACTIVE = {
    # billions that a token uses, to the digits that publishers give; some leave out the embedding
    "deepseek-v3": 37,
    "deepseek-r1": 37,
    "glm-4.5": 32,
    "glm-4.5-air": 12,
    "gpt-oss-20b": 3.6,
    "gpt-oss-120b": 5.1,
    "kimi-k2": 32,
    "llama-4-scout": 17,
    "llama-4-maverick": 17,
    "mixtral-8x7b": 12.9,
    "qwen3-30b-a3b": 3.3,
    "qwen3-30b-a3b-fp8": 3.3,
    "qwen3-235b-a22b": 22,
    "qwen3-235b-a22b-fp8": 22,
    "qwen3-coder-480b-a35b": 35,
    "qwen3-next-80b-a3b": 3,
    "qwen3.5-35b-a3b": 3,
    "qwen3.5-122b-a10b": 10,
    "qwen3.5-397b-a17b": 17,
}
DEVICES = [
    "a100-40gb", "a100-80gb", "a100-pcie", "a30", "a800", "arc-pro-b60", "b200", "b300", "gb200", "gb300", "h100", "h100-nvl",
    "h100-pcie", "h20", "h200", "h800", "l4", "l40s", "mi300x", "mi325x", "mi355x", "rtx-3090", "rtx-4090", "rtx-5090",
    "rtx-6000-ada", "rtx-pro-6000", "rtx-pro-6000-server",
]  # fmt: skip
MINE = """\
name: My GPU
source: measured here
memory_bytes: 48e9
bandwidth_bytes_per_s: 1.5e+12
peak_flops_per_s: 4.0e+14
link_bandwidth_bytes_per_s: 3.2e+10
link_latency_s: 2.0e-5
"""


def test_every_model_has_its_published_parameters():
    assert list_models() == sorted([*PUBLISHED, *ROUNDED])
    for name in list_models():
        shape = model_shape(load_model(name))
        if name in PUBLISHED:
            assert shape.parameters == PUBLISHED[name], name
        else:
            assert shape.parameters == pytest.approx(ROUNDED[name], rel=0.01), name
        assert shape.context_limit is not None
        assert (name in ACTIVE) == (shape.moe_layers > 0)


@pytest.mark.parametrize("name", ACTIVE)
def test_a_token_uses_the_published_part_of_them(name):
    shape, published = model_shape(load_model(name)), ACTIVE[name]
    unit = 0.1 if isinstance(published, float) else 1
    counts = shape.active_parameters, shape.active_parameters - shape.embedding_parameters
    assert min(abs(count / 1e9 - published) for count in counts) < unit


@pytest.mark.parametrize(("name", "size"), [("gpt-oss-120b", 60.8), ("gpt-oss-20b", 12.8)])
def test_weights_take_what_the_checkpoint_does(name, size):
    """GiB, from OpenAI's model card (arXiv 2508.10925)."""
    assert model_shape(load_model(name)).weight_bytes / 2**30 == pytest.approx(size, rel=2e-3)


def test_names_are_found_in_any_case_and_by_their_published_form():
    assert load_model("Qwen3-8B") == load_model("qwen3-8b") == load_model("Qwen/Qwen3-8B")
    assert load_model("mistralai/Mixtral-8x7B-v0.1") == load_model("mixtral-8x7b")
    for name in ("H100", "h100 sxm", "NVIDIA H100 80GB HBM3"):
        assert load_device(name)["name"] == "H100 SXM"
    systems = ["a100_sxm", "a100_pcie", "a30", "b200_sxm", "b300_sxm", "b60", "gb200", "gb300", "h100_pcie", "h100_sxm"]
    for system in [*systems, "h200_sxm", "l4", "l40s", "rtx_pro_6000_server"]:  # as aiconfigurator names them
        assert load_device(system)["peak_flops_per_s"] > 0
    assert load_device("RTX 4090") == load_device("NVIDIA GeForce RTX 4090") == load_device("rtx4090")


def test_a_config_is_read_from_its_path(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(load_model("qwen3-4b") | {"unknown_field": [1]}))
    assert model_shape(load_model(str(path))) == model_shape(load_model(path)) == model_shape(load_model("qwen3-4b"))
    assert estimate(path, "h100").name == f"{path} on h100 (roofline estimate)"


def test_devices_hold_what_a_roofline_needs():
    assert list_devices() == DEVICES
    for name in DEVICES:
        device = load_device(name)
        assert device["source"]
        # a GPU of today does 70 to 450 operations in the time of one byte (the H20, cut down, 37), and has 20 to 320 GB
        assert (30 if name == "h20" else 70) < device["peak_flops_per_s"] / device["bandwidth_bytes_per_s"] < 450, name
        assert 20e9 < device["memory_bytes"] < 320e9
        assert 1e10 < device["link_bandwidth_bytes_per_s"] <= 9e11
        assert 0 < device["link_latency_s"] < 1e-4
        # narrower operands, at least twice as many operations but for rounding
        assert device.get("peak_fp8_flops_per_s", 1e18) / device["peak_flops_per_s"] > 1.99
        assert "peak_fp8_flops_per_s" in device or "peak_fp4_flops_per_s" not in device


def test_a_weaker_gpu_is_not_taken_for_a_stronger_one_of_like_name():
    h20, h200 = load_device("H20"), load_device("h200_sxm")
    assert h200["peak_flops_per_s"] / h20["peak_flops_per_s"] == pytest.approx(6.7, abs=0.05)
    assert load_device("a100_sxm")["name"] == "A100 SXM 80GB"
    with pytest.raises(InputError, match=r"device 'h21' is unknown; names like it: .*h20 \(148 TFLOPS, 4 TB/s\)"):
        load_device("h21")


def test_a_device_is_read_from_a_users_own_file(tmp_path):
    path = tmp_path / "my_gpu.yaml"
    path.write_text(MINE)
    assert load_device(str(path))["memory_bytes"] == 48e9
    profile = estimate("qwen3-8b", str(path), tp=2)
    assert profile.name == "qwen3-8b on 2 x My GPU (roofline estimate)"
    path.write_text(json.dumps(load_device("h100")))  # JSON is YAML
    work = StepWork.decode([1, 64], 3000)
    assert (estimate("qwen3-8b", str(path)).step_time_s(work) == estimate("qwen3-8b", "h100").step_time_s(work)).all()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "bandwidth_bytes_per_s: 1.5e+12\n",
            "",
            r"my_gpu.yaml: bandwidth_bytes_per_s is missing: give a number, such as",
        ),
        (
            "1.5e+12",
            "1.5",
            r"bandwidth_bytes_per_s = 1.5: give a number of 1e\+09 to 1e\+15, such as 3.35e\+12 for 3.35 TB/s",
        ),
        ("4.0e+14", "fast", "peak_flops_per_s = 'fast': give a number"),
        ("4.0e+14", "true", "peak_flops_per_s = True: give a number"),
        ("2.0e-5", "-1", "link_latency_s = -1: give a number"),
        ("48e9", "1e999", "memory_bytes = inf: give a number"),
        ("name: My GPU\n", "", "name is missing: say what it is called"),
        ("source: measured here\n", "", "source is missing: say where the figures are from"),
        ("name: My GPU", "name: 4090", "name = '4090' is not text: quote it"),
        ("memory_bytes", "memory", "memory is not a key of a device: did you mean 'memory_bytes'"),
        ("name: My GPU\n", "name: My GPU\nname: B\n", "line 2: key 'name' is given twice"),
        ("name: My GPU\n", "name: [\n", "not YAML"),
        ("name: My GPU\n", "name: My GPU\nalso: it\n", "also = 'it': give a list"),
    ],
)
def test_a_device_file_with_a_fault_is_refused(tmp_path, before, after, message):
    path = tmp_path / "my_gpu.yaml"
    assert before in MINE
    path.write_text(MINE.replace(before, after, 1))
    with pytest.raises(InputError, match=message):
        load_device(str(path))


def test_every_model_is_estimated_on_every_kind_of_device():
    work = StepWork.decode([1, 32, 256], 1000)
    for device in ("h100", "rtx-3090", "b200", "mi300x"):
        for model in list_models():
            times = estimate(model, device, tp=4).step_time_s(work)
            assert (times[1:] > times[:-1]).all()
            assert 1e-5 < times[0] < 1


def test_an_estimate_is_named_after_both():
    profile = estimate("Qwen/Qwen3-8B", "H200")
    assert profile.name == "qwen3-8b on h200 (roofline estimate)"
    assert estimate("qwen3-8b", "h200", tp=2).name == "qwen3-8b on 2 x h200 (roofline estimate)"
    additive = estimate("qwen3-8b", "h200", mode="additive", overhead_s=HOST_STEP_S + 1e-3)
    assert additive.step_time_s(StepWork.decode(8, 100)) > profile.step_time_s(StepWork.decode(8, 100)) + 1e-3


def test_what_cannot_be_found_is_refused_with_the_nearest_names(tmp_path):
    with pytest.raises(InputError, match=r"model 'qwen3-9b' is unknown: did you mean .*qwen3-8b"):
        load_model("qwen3-9b")
    with pytest.raises(InputError, match=r"model '' is unknown: did you mean deepseek"):
        load_model("")
    with pytest.raises(
        InputError, match=r"device 'A100' is unknown; names like it: a100-40gb \(312 TFLOPS, 1.6 TB/s\), a100-80gb"
    ):
        load_device("A100")
    with pytest.raises(InputError, match=r"nowhere/config\.json: no such file"):
        load_model("nowhere/config.json")
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        load_device("nowhere.yaml")
    with pytest.raises(InputError, match="is a directory: give the path of the config"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="qwen3-8b on h100: tp = 3 does not divide"):
        estimate("qwen3-8b", "h100", tp=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{\n 'a': 1}", "line 2: not JSON"),
        (b"[1, 2]", "holds a list, not an object"),
        (b"\xff\xfe{}", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"", "line 1: not JSON"),
        (b"{}", "hidden_size = None"),
        (b'{"hidden_size": 1e9}', r"hidden_size = 1000000000\.0"),
    ],
)
def test_files_that_are_no_config_are_refused(tmp_path: Path, content, message):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        estimate(str(path), "h100")


def test_a_checkpoint_quantised_beside_its_config_is_read_so(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(dict(load_model("qwen3-30b-a3b"))))
    whole, beside = model_shape(load_model(config)), tmp_path / "hf_quant_config.json"
    beside.write_text(
        '{"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}'
    )
    narrow = model_shape(load_model(config))
    assert narrow.parameters == whole.parameters
    assert 2 * narrow.kv_bytes_per_token == whole.kv_bytes_per_token
    assert narrow.expert_bytes == whole.expert_parameters * (1 / 2 + 1 / 16)
    beside.unlink()
    for name, method in (("quantize_config.json", "gptq"), ("quant_config.json", "awq")):
        (tmp_path / name).write_text('{"bits": 4, "group_size": 128}')
        with pytest.raises(InputError, match=f"{method} of 4 bits is not among the quantised weights known here"):
            estimate(config, "h100")
        (tmp_path / name).unlink()


def test_a_checkpoint_in_nvfp4_is_read_with_what_stands_beside_it(shared_data):
    shape = model_shape(load_model(shared_data / "cases/nvfp4/config.json"))
    # 94 layers x (attention and 128 experts) in 4.5 bits, the rest in 16: half a terabyte becomes 134 GB
    assert shape.weight_bytes == pytest.approx(134.1e9, rel=1e-3)
    assert shape.kv_bytes_per_token == 96_256
