"""Every system and engine of the installed package: what loads is lawful, and what does not is refused by name."""

import importlib.util

import numpy as np
import pytest

from calibration.imports.aic_source import PACKAGE, open_source, systems
from calibration.imports.aiconfigurator import import_aiconfigurator
from simulator.catalogue import load_model
from simulator.cost import StepWork
from simulator.cost.model_config import model_shape
from traces.errors import InputError

INSTALLED = importlib.util.find_spec(PACKAGE) is not None
pytestmark = pytest.mark.skipif(not INSTALLED, reason="aiconfigurator-core is not installed: pip install '.[tables]'")
EVERY = systems() if INSTALLED else []
LIVE, CONTEXT = np.unique(np.rint(np.geomspace(1, 1024, 30))), np.unique(np.rint(np.geomspace(1, 65536, 25)))
WIDTH = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 9.0, 16.0, 17.0, 33.0])
STEPS = np.meshgrid(LIVE, CONTEXT, WIDTH, indexing="ij")
REFUSED = {("a100_sxm", "trtllm", "qwen3-30b-a3b"): "moe: .* is not measured"}


def roof_s(profile, shape, figures):
    """Least seconds by the data sheet; of experts those that uniform routing touches, of uneven routing one token's."""
    live, context, width = STEPS
    tokens = live * width
    even = "routing is balanced" in profile.notes
    touched = shape.expected_experts(tokens) if even else shape.experts_per_token
    read = shape.read_parameters + shape.moe_layers * touched * shape.expert_parameters
    moved = shape.bytes_per_parameter * read + shape.kv_bytes_per_token * live * context
    used = shape.read_parameters + shape.moe_layers * shape.experts_per_token * shape.expert_parameters
    operations = 2 * used * tokens + 4 * shape.layers * shape.heads * shape.head_dim * tokens * context
    return np.maximum(moved / figures["mem_bw"], operations / figures["bfloat16_tc_flops"])


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
        work = StepWork.decode(*STEPS)
        seconds, inside = profile.step_time_s(work), ~profile.outside(work)
        assert inside.mean() > 0.6
        ratio = seconds / roof_s(profile, whole.shard(tp), figures)
        assert ratio[inside].min() >= 1
        known = np.where(inside, seconds, np.nan)
        for axis in range(3):
            assert np.nanmin(np.diff(known, axis=axis)) >= -1e-15, (tp, axis)
        assert profile.source.startswith("aiconfigurator-core 0.12.0 " + f"{system}, {engine} ")


def test_a_dozen_devices_have_tables():
    assert len({system for system, _ in EVERY}) >= 10
    assert {engine for _, engine in EVERY} == {"vllm", "sglang", "trtllm"}


def test_verifying_nothing_accepted_is_no_speed_up_on_b60():
    """One token took longer than eight as it was measured."""
    profile = import_aiconfigurator(None, load_model("qwen3-8b"), "b60")
    one, eight = (float(profile.step_time_s(StepWork.decode(1, 1024, width))) for width in (1, 8))
    assert one <= eight
    assert "moved so that more work never costs less" in profile.notes


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
