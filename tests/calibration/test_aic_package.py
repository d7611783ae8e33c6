"""Every system and engine of the installed package: what loads is lawful, and what does not is refused by name."""

import importlib.util

import numpy as np
import pytest

from calibration.imports import aiconfigurator
from calibration.imports.aic_bounds import Held
from calibration.imports.aic_source import PACKAGE, open_source, systems
from calibration.imports.aiconfigurator import import_aiconfigurator
from simulator.catalogue import load_model
from simulator.cost import StepWork
from simulator.cost.model_config import model_shape
from simulator.cost.sources import NotMeasuredError
from tests.calibration.data_sheet import roof_s
from traces.errors import InputError

INSTALLED = importlib.util.find_spec(PACKAGE) is not None
pytestmark = pytest.mark.skipif(not INSTALLED, reason="aiconfigurator-core is not installed: pip install '.[tables]'")
EVERY = systems() if INSTALLED else []
LIVE, CONTEXT = np.unique(np.rint(np.geomspace(1, 1024, 30))), np.unique(np.rint(np.geomspace(1, 65536, 25)))
WIDTH = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 9.0, 16.0, 17.0, 33.0])
STEPS = np.meshgrid(LIVE, CONTEXT, WIDTH, indexing="ij")
REFUSED = {("a100_sxm", "trtllm", "qwen3-30b-a3b"): "moe: .* is not measured"}


def assert_lawful(profile, shape, figures):
    """No step within the valid range beats the device, and none costs less for more sequences, context or queries."""
    work = StepWork.decode(*STEPS)
    seconds = np.where(profile.outside(work), np.nan, profile.step_time_s(work))
    assert np.isfinite(seconds).mean() > 0.6
    roof = roof_s(shape, figures, *STEPS, even="routing is power_law" not in profile.notes)
    assert np.nanmin(seconds / roof) >= 1
    for axis in range(3):
        assert np.nanmin(np.diff(seconds, axis=axis)) >= -1e-15, axis


@pytest.mark.parametrize("model", ["qwen3-8b", "qwen3-30b-a3b"])
@pytest.mark.parametrize(("system", "engine"), EVERY)
def test_no_step_beats_the_device_and_none_costs_less_for_more(system, engine, model):
    config, whole = load_model(model), model_shape(load_model(model))
    if reason := REFUSED.get((system, engine, model)):
        with pytest.raises(InputError, match=reason):
            import_aiconfigurator(None, config, system, engine)
        return
    figures = open_source(None, system, engine, None).figures
    for tp in (1, 2):
        profile = import_aiconfigurator(None, config, system, engine, tp)
        assert_lawful(profile, whole.shard(tp), figures)
        assert profile.source.startswith(f"aiconfigurator-core 0.12.0 {system}, {engine} ")


@pytest.mark.parametrize("kv_cache_dtype", ["auto", "fp8"])
@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("system", ["h100_sxm", "h200_sxm", "b200_sxm"])
@pytest.mark.parametrize(
    ("model", "tp", "ep"),
    [("deepseek-v3", 8, 8), ("kimi-k2", 8, 8), ("gpt-oss-120b", 2, 2), ("gemma-3-27b", 2, 1), ("llama-4-scout", 4, 1),
     ("qwen3-32b-fp8", 1, 1), ("qwen3-235b-a22b-fp8", 4, 4), ("llama-3.1-70b", 4, 1), ("qwen3.5-27b", 1, 1)],
)  # fmt: skip
def test_models_of_every_kind(model, tp, ep, system, engine, kv_cache_dtype):
    figures = open_source(None, system, engine, None).figures
    config = load_model(model, kv_cache_dtype)
    profile = import_aiconfigurator(None, config, system, engine, tp, ep)
    assert_lawful(profile, model_shape(config).shard(tp), figures)


@pytest.mark.parametrize(
    ("model", "system", "why"),
    [
        ("qwen3-next-80b-a3b", "h200_sxm", "moe: moe_dtype bfloat16, hidden_size 2048, inter_size 512, topk 10"),
        ("glm-4.5", "h200_sxm", "moe: moe_dtype bfloat16, hidden_size 5120, inter_size 1536"),
        ("gpt-oss-20b", "a100_sxm", "decode attention of head_dim 64 with KV in bfloat16"),
        ("deepseek-v3", "a100_sxm", r"latent attention is not measured for vllm 0\.14\.0"),
        ("qwen3-32b-fp8", "b60", "gemm in fp8_block is not measured"),
    ],
)
def test_what_nobody_measured_is_refused_by_name(model, system, why):
    with pytest.raises(NotMeasuredError, match=why):
        import_aiconfigurator(None, load_model(model), system)


def test_a_dozen_devices_have_tables():
    assert len({system for system, _ in EVERY}) >= 10
    assert {engine for _, engine in EVERY} == {"vllm", "sglang", "trtllm"}


def test_verifying_nothing_accepted_is_no_speed_up_on_b60(monkeypatch):
    """By the tables of vLLM 0.20 as they were measured one token takes longer than eight."""

    def step_ms(width):
        profile = import_aiconfigurator(None, load_model("qwen3-8b"), "b60", engine_version="0.20.0")
        return 1e3 * float(profile.step_time_s(StepWork.decode(1, 1024, width)))

    assert [step_ms(width) for width in (1, 8)] == pytest.approx([41.53, 41.78], abs=0.01)
    monkeypatch.setattr(aiconfigurator, "held", lambda one: Held(one.table, np.ones(1), np.ones(1)))
    assert [step_ms(width) for width in (1, 8)] == pytest.approx([47.95, 38.94], abs=0.01)


def test_multiplications_that_timed_the_host_count_as_in_16_bits():
    """vLLM's in fp8 by block on B200: 151 us for the smallest, where SGLang's take 4.2."""
    wide, narrow, sglang = (
        import_aiconfigurator(None, load_model(model), "b200_sxm", engine)
        for model, engine in (("qwen3-32b", "vllm"), ("qwen3-32b-fp8", "vllm"), ("qwen3-32b-fp8", "sglang"))
    )
    work = StepWork.decode(1, 1024)
    times = [float(one.operator_times(work)["gate_up_proj"]) for one in (wide, narrow, sglang)]
    assert times[0] == times[1] > times[2]
    assert "Multiplications in fp8_block took 151 us or more whatever their size" in narrow.notes
    assert "whatever their size" not in sglang.notes


def test_tensorrt_llm_on_four_gpus():
    profile = import_aiconfigurator(None, load_model("qwen3-8b"), "h200_sxm", "trtllm", tp=4)
    times = profile.operator_times(StepWork.decode(16, 1024))
    assert times["all-reduce"] > 0
    assert profile.parallel == {"tensor_parallel_size": 4, "expert_parallel_size": 1}


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_all_reduces_are_of_the_engine(engine):
    profile = import_aiconfigurator(None, load_model("qwen3-8b"), "h100_sxm", engine, tp=8)
    assert any(one.name == "all-reduce" for one in profile.operators)
    assert not any(one.name.startswith("all-reduce (") for one in profile.operators)
