"""The installed tables as a cost source: devices by any of their names, engines, and models that lack tables."""

import importlib.util
import json

import pytest
from click.testing import CliRunner

from calibration.imports.aic_source import PACKAGE
from calibration.imports.aic_tables import measured, system_of
from calibration.imports.aiconfigurator import import_aiconfigurator
from simulator.catalogue import load_model
from simulator.cli.profile import profile
from simulator.cli.replay import replay
from simulator.cost import load_profile
from simulator.cost.sources import NotMeasuredError
from simulator.deployed import costs_of
from simulator.replay import run
from simulator.scenario import build
from traces.errors import InputError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason="aiconfigurator-core is not installed: pip install '.[tables]'",
)
SCENARIO = {"trace": "traces/data/countdown.parquet", "model": "qwen3-8b", "device": "h200", "policies": ["none"]}


@pytest.mark.parametrize(
    ("device", "system"),
    [("h200_sxm", "h200_sxm"), ("h200", "h200_sxm"), ("NVIDIA H200", "h200_sxm"), ("H100 SXM", "h100_sxm"), ("b200", "b200_sxm"),
     ("b60", "b60"), ("gb300", "gb300")],
)  # fmt: skip
def test_a_device_has_the_tables_of_its_system(device, system):
    assert system_of(device) == system


def test_a_device_without_tables():
    with pytest.raises(NotMeasuredError, match="GeForce RTX 4090 has no tables; there are those of a100_sxm, b200_sxm"):
        system_of("rtx-4090")
    with pytest.raises(InputError, match="device 'h2' is unknown"):
        system_of("h2")


def test_the_source_answers_as_the_import_does():
    config = load_model("qwen3-8b")
    mine = measured(config, "h200", "sglang", "0.5.14", 2, 1)
    assert mine.source == import_aiconfigurator(None, config, "h200_sxm", "sglang", 2).source
    assert mine.parallel == {"tensor_parallel_size": 2, "expert_parallel_size": 1}
    with pytest.raises(InputError, match="tables = 'vlm': use one of the engines sglang, trtllm, vllm"):
        measured(config, "h200", "vlm", None, 1, 1)


def test_a_scenario_names_the_engine_alone():
    cost, said = costs_of(build(SCENARIO | {"tables": "vllm"}))
    assert cost.name == "Qwen3-8B on h200_sxm, tp 1"
    assert said == [f"costs are from tables, with 1.1 ms of the host a step: {cost.source}"]
    cost, said = costs_of(build(SCENARIO | {"tables": "trtllm", "device": "a100-80gb", "model": "qwen3-30b-a3b"}))
    assert "roofline estimate" in cost.name
    assert "not measured, for tables have none of qwen3-30b-a3b: moe: " in said[0]


def test_import_and_replay_from_the_command_line(tmp_path):
    out, shell = tmp_path / "h200.parquet", CliRunner()
    flags = ["import", "aiconfigurator", "--model", "qwen3-8b", "--system", "h200", "--out", str(out)]
    told = shell.invoke(profile, flags)
    assert told.exit_code == 0, told.output
    assert load_profile(out).source.startswith("aiconfigurator-core 0.12.0 h200_sxm, vllm 0.24.0")
    flags = [SCENARIO["trace"], "--steps", "20", "--policy", "none", "--engine", "step_overhead_s=0", "--json"]
    replays = [
        json.loads(shell.invoke(replay, [*flags, *costs]).output)
        for costs in (["--profile", str(out)], ["--model", "qwen3-8b", "--device", "h200", "--tables", "vllm"])
    ]
    assert replays[0]["runs"][0]["makespan_s"] == replays[1]["runs"][0]["makespan_s"]


def test_a_head_is_priced_by_the_tables_of_its_target():
    document = SCENARIO | {
        "tables": "vllm", "drafter": {"kind": "eagle3", "curve": [0.8, 0.7]}, "policies": ["fixed:2"], "steps": [20],
    }  # fmt: skip
    result = run(build(document))
    (told,) = [warning for warning in result.about["warnings"] if "priced by default" in warning]
    assert "aiconfigurator-core 0.12.0 h200_sxm, vllm 0.24.0" in told
    roofed = run(build({name: value for name, value in document.items() if name != "tables"}))
    (told,) = [warning for warning in roofed.about["warnings"] if "priced by default" in warning]
    assert "roofline estimate" in told
    assert result.runs["draft_s"][0].as_py() > roofed.runs["draft_s"][0].as_py(), "kernels do not reach the roof"
