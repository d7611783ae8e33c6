"""Settings of a run's engine: vLLM's defaults against a real log, overrides, deployments and derived KV blocks."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from calibration.runs.deployment import read_deployment
from calibration.runs.facts import EngineFacts, capture_sizes, completed, overridden
from calibration.runs.read import read_run
from calibration.runs.settled import settle
from simulator.catalogue import load_model
from simulator.cost.model_config import model_shape
from tests.calibration.logs import DEPLOYMENT, write_json
from traces.errors import InputError


def test_default_capture_sizes_are_those_of_a_real_log(shared_data: Path) -> None:
    logged = read_run(shared_data / "vllm_runs" / "RTX4090-Llama-3.1-8B").settings
    assert capture_sizes(256, 2048) == logged.cudagraph_capture_sizes
    filled, assumed = completed(EngineFacts(max_num_seqs=256, max_num_batched_tokens=2048))
    for name in assumed:
        assert getattr(filled, name) == getattr(logged, name), name
    assert len(assumed) == 10


def test_overrides() -> None:
    facts = overridden(
        EngineFacts(max_num_seqs=8, num_gpu_blocks=99),
        [
            "max_num_seqs=16",
            "num_gpu_blocks=null",
            "async_scheduling=false",
            "cudagraph_capture_sizes=[8, 4]",
            "dtype=float16",
        ],
    )
    assert facts == EngineFacts(
        max_num_seqs=16, async_scheduling=False, cudagraph_capture_sizes=(4, 8), dtype="float16"
    )
    for setting, words in (
        ("max_num_seqs", "is not KEY=VALUE"),
        ("max_num_seq=4", "did you mean max_num_seqs?"),
        ("zzz=4", "use one of max_num_seqs"),
        ("max_num_seqs=0", "0 is less than 1"),
        ("num_gpu_blocks=1", "1 is less than 2"),
        ("async_scheduling=1", "neither true nor false"),
        ("cudagraph_capture_sizes=8", "not a list"),
        ("block_size=[", "not YAML"),
    ):
        with pytest.raises(InputError) as error:
            overridden(EngineFacts(), [setting])
        assert setting in str(error.value)
        assert words in str(error.value)


def test_defaults_depend_on_the_device_and_on_what_was_said() -> None:
    assert (completed(EngineFacts())[0].max_num_seqs, completed(EngineFacts(), True)[0].max_num_seqs) == (256, 1024)
    assert capture_sizes(128, 2048)[-1] == 256
    assert capture_sizes(3, 2048) == (1, 2, 4)
    assert capture_sizes(1024, 100)[-2:] == (88, 96)
    said = EngineFacts(cudagraph_capture_sizes=(), async_scheduling=False)
    filled, assumed = completed(said)
    assert (filled.cudagraph_capture_sizes, filled.async_scheduling) == ((), False)
    assert {"cudagraph_capture_sizes", "async_scheduling", "num_gpu_blocks"}.isdisjoint(assumed)
    assert completed(filled) == (filled, ())


def test_deployment(tmp_path: Path) -> None:
    instance = DEPLOYMENT["nodes"][0]["instances"][0]
    path = tmp_path / "config.json"
    one = read_deployment(write_json(path, DEPLOYMENT))
    assert asdict(one) == {
        "device": "X", "memory_bytes": 24 * 2**30, "gpu_memory_utilization": 0.9, "tensor_parallel_size": 2, "replicas": 1,
        "link_bandwidth_bytes_per_s": 16e9, "link_latency_s": pytest.approx(1e-6),
    }  # fmt: skip
    three = {"nodes": [{"instances": [instance, instance]}, {"instances": [instance]}]}
    assert read_deployment(write_json(path, three)) == replace(
        one, replicas=3, link_bandwidth_bytes_per_s=None, link_latency_s=None
    )
    for change, words in (
        ({"pd_type": "prefill"}, "nodes[0].instances[0].pd_type: 'prefill'"),
        ({"pp_size": 2}, "pp_size: 2: pipeline parallelism"),
        ({"num_npus": 4}, "num_npus: 4 devices for tp_size 2"),
        ({"npu_mem": None}, "npu_mem: None is not an object"),
        ({"npu_mem": {}}, "npu_mem.mem_size: None"),
        ({"npu_mem": {"mem_size": 0}}, "0 is no memory"),
        ({"npu_mem": {"mem_size": 24, "mem_util": 90}}, "90 is not a share"),
        ({"num_npus": None, "tp_size": None}, "no 'tp_size'"),
    ):
        with pytest.raises(InputError) as error:
            read_deployment(write_json(path, {"nodes": [{"instances": [{**instance, **change}]}]}))
        assert words in str(error.value)
    for document, words in (
        ({"nodes": [{"instances": [instance, {**instance, "hardware": "Y"}]}]}, "need one kind of instance, found 2"),
        ({"nodes": []}, "need one kind of instance, found 0"),
        ({"nodes": 3}, "nodes: 3 is not a list of objects"),
        ({**DEPLOYMENT, "link_bw": 0}, "link_bw: 0 is no bandwidth"),
        ({**DEPLOYMENT, "link_bw": [900, 100]}, "differs between dimensions"),
        ([1], "holds a list, not a JSON object"),
    ):
        with pytest.raises(InputError) as error:
            read_deployment(write_json(path, document))
        assert words in str(error.value)
    assert read_deployment(write_json(path, {**DEPLOYMENT, "link_bw": [16, 16]})) == one


def test_kv_blocks_come_from_the_log_else_from_the_deployment(shared_data: Path) -> None:
    """The RTX 4090's deployment is calibrated so that the derived blocks are the engine's own count, 2,588."""
    folder = shared_data / "vllm_runs" / "RTX4090-Llama-3.1-8B"
    run, deployment = read_run(folder), read_deployment(folder / "config.json")
    shape = model_shape(load_model("llama-3.1-8b"))
    logged = settle(run, shape, deployment)
    assert (logged.facts.num_gpu_blocks, logged.assumed, logged.notes) == (2588, (), ())
    forgotten = replace(run, settings=replace(run.settings, num_gpu_blocks=None))
    derived = settle(forgotten, shape, deployment)
    assert (derived.facts.num_gpu_blocks, derived.assumed) == (2588, ("num_gpu_blocks",))
    assert "2,588 is derived: 0.833919 of 24 GiB" in derived.notes[0]
    smaller = settle(forgotten, shape, deployment, ["gpu_memory_utilization=0.8"]).facts.num_gpu_blocks
    assert smaller is not None
    assert smaller < 2588
    unsaid = replace(run, settings=EngineFacts())
    filled = settle(unsaid, shape, deployment)
    assert filled.facts.gpu_memory_utilization == deployment.gpu_memory_utilization
    assert "gpu_memory_utilization" not in filled.assumed
    unknown = settle(forgotten, shape)
    assert unknown.facts.num_gpu_blocks is None
    assert "KV has no limit" in unknown.notes[0]
    assert settle(run, shape, deployment, ["num_gpu_blocks=77"]).facts.num_gpu_blocks == 77
    for change, words in (
        ({"tensor_parallel_size": 2}, "tp_size 1"),
        ({"data_parallel_size": 2}, "data_parallel_size 2"),
    ):
        with pytest.raises(InputError, match=words):
            settle(replace(run, settings=replace(run.settings, **change)), shape, deployment)


def test_a_setting_that_is_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="max_num_seqs is set twice: set it once"):
        overridden(EngineFacts(), ["max_num_seqs=4", "block_size=16", "max_num_seqs=8"])
