"""Costs from installed sources: who is asked, in which order, and what stands in where nobody measured."""

from importlib.metadata import EntryPoint

import pytest

from simulator.catalogue import estimate, load_model
from simulator.cost import StepWork, sources
from simulator.cost.roofline import HOST_STEP_S
from simulator.cost.sources import NotMeasuredError, measured
from simulator.deployed import costs_of
from simulator.replay import run
from simulator.scenario import build
from traces.errors import InputError

SCENARIO = {
    "trace": "traces/data/countdown.parquet", "model": "qwen3-0.6b", "device": "h200", "tables": "vllm",
    "policies": ["none"], "steps": [20],
}  # fmt: skip


def cost_of(scenario):
    return costs_of(scenario)[0]


def twice_the_roof(config, device, engine, version, tp, ep):
    """A source of its own kind, which says in `source` what it was asked."""
    from dataclasses import replace

    rough = estimate("qwen3-0.6b", device, tp, overhead_s=0.0)
    slower = tuple(one.scaled(2) for one in rough.operators)
    return replace(rough, operators=slower, source=f"{config['model_type']} {device} {engine} {version} {tp} {ep}")


def knows_nothing(config, device, engine, version, tp, ep):
    raise NotMeasuredError(f"{device} was never seen here")


ASKED = []


def counts(config, device, engine, version, tp, ep):
    ASKED.append(config["model_type"])
    return twice_the_roof(config, device, engine, version, tp, ep)


def refuses(config, device, engine, version, tp, ep):
    raise InputError(f"{engine} is no engine: give another")


def breaks(config, device, engine, version, tp, ep):
    raise RuntimeError("disk on fire")


@pytest.fixture
def installed(monkeypatch):
    def install(*names: str) -> None:
        points = [
            EntryPoint(f"{place} {name}", f"{__name__}:{name}", sources.ENTRY_POINTS)
            for place, name in enumerate(names)
        ]
        monkeypatch.setattr(sources, "entry_points", lambda group: points if group == sources.ENTRY_POINTS else [])

    return install


def test_a_source_is_asked_for_engine_and_version(installed):
    installed("knows_nothing", "twice_the_roof")
    config = load_model("qwen3-0.6b")
    assert measured(config, "h200", "vllm==0.24.0", 2, 4).source == "qwen3 h200 vllm 0.24.0 2 4"
    assert measured(config, "h200", "sglang").source == "qwen3 h200 sglang None 1 1"


def test_without_any_answer_every_reason_is_told(installed):
    installed("knows_nothing", "knows_nothing")
    with pytest.raises(NotMeasuredError, match=r"h200 was never seen here; h200 was never seen here"):
        measured(load_model("qwen3-0.6b"), "h200", "vllm")
    installed()
    with pytest.raises(NotMeasuredError, match="no cost source is installed"):
        measured(load_model("qwen3-0.6b"), "h200", "vllm")


def test_a_refusal_is_no_lack_of_measurements(installed):
    installed("refuses", "twice_the_roof")
    with pytest.raises(InputError, match="vllm is no engine"):
        cost_of(build(SCENARIO))
    installed("breaks")
    with pytest.raises(InputError, match=r"cost source '0 breaks' raised RuntimeError: disk on fire: mend"):
        cost_of(build(SCENARIO))


def test_the_scenario_is_priced_by_the_source_and_the_result_says_so(installed):
    installed("twice_the_roof")
    known = {"engine": {"step_overhead_s": 0.0}}
    rough, step = cost_of(build(SCENARIO | known | {"tables": None})), StepWork.decode(8, 1024)
    alone_s = float(cost_of(build(SCENARIO | known)).step_time_s(step))
    assert alone_s == pytest.approx(2 * float(rough.step_time_s(step)))
    assert float(cost_of(build(SCENARIO)).step_time_s(step)) == pytest.approx(alone_s + HOST_STEP_S)
    about = run(build(SCENARIO)).about
    assert about["profile"]["source"] == "qwen3 h200 vllm None 1 1"
    assert "costs are from tables, with 1.1 ms of the host a step: qwen3 h200 vllm None 1 1" in about["warnings"]
    assert about["scenario"]["tables"] == "vllm"


def test_where_nobody_measured_the_estimate_counts_and_is_said_to(installed):
    installed("knows_nothing")
    cost, said = costs_of(build(SCENARIO))
    assert cost.name == cost_of(build(SCENARIO | {"tables": None})).name
    assert said == [
        "costs are a roofline estimate, not measured, for tables have none of qwen3-0.6b: h200 was never seen here"
    ]
    assert said[0] in run(build(SCENARIO)).about["warnings"]


@pytest.mark.parametrize("tables", ["", "vLLM", "vllm==", "vllm=0.24", "vllm==x", "vllm==0.24 or so"])
def test_tables_name_an_engine_and_a_version(tables):
    with pytest.raises(InputError, match="tables = "):
        build(SCENARIO | {"tables": tables})


def test_tables_stand_in_place_of_a_profile():
    with pytest.raises(InputError, match="tables = 'vllm' go with a model and a device in place of profile p"):
        build(SCENARIO | {"profile": "p"})
    with pytest.raises(InputError, match="profile: missing"):
        build({key: value for key, value in SCENARIO.items() if key != "device"})


def test_target_and_head_are_each_priced_once_for_all_policies(installed):
    installed("counts")
    ASKED.clear()
    drafter = {"kind": "eagle3", "curve": [0.8, 0.7]}
    run(build(SCENARIO | {"policies": ["none", "fixed:1", "fixed:2"], "drafter": drafter}))
    assert ASKED == ["qwen3", "llama"]
