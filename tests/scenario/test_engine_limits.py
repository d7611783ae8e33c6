"""The engine's limits as a user names them: what a scenario makes of them, of a trace's columns, and of the catalogue."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from simulator.catalogue import load_device, load_model
from simulator.cost.model_config import model_shape
from simulator.cost.work import StepWork
from simulator.deployed import costs_of, serving_of
from simulator.drafting.suffix import Suffix
from simulator.replay import run
from simulator.scenario import build
from traces.errors import InputError
from traces.importers import import_trace
from traces.io import from_table
from traces.synthesis import synth
from traces.trace import Trace

PROFILE = "h100-llama-3.1-8b-published"
BASE = {"trace": "made", "profile": PROFILE, "policies": ["none"], "drafter": {"kind": "none"}}


def made(**columns: list[object]) -> Trace:
    table = synth(prompts=6, samples=4, steps=1, median_tokens=60, max_tokens=300, seed=3)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return from_table(table, "made")


def rollouts_of(trace: Trace, **engine: object) -> dict[str, np.ndarray]:
    result = run(build(BASE | {"engine": engine}), trace)
    return {name: result.rollouts[name].to_numpy() for name in result.rollouts.column_names if name != "system"}


def test_rollouts_arrive_as_recorded_unless_told_otherwise() -> None:
    arrival_s = [0.5 * i for i in range(24)]
    trace = made(arrival_s=arrival_s)
    told = rollouts_of(trace)
    assert told["arrival_s"].tolist() == arrival_s
    assert (told["admitted_s"] >= told["arrival_s"]).all()
    assert (rollouts_of(trace, arrivals=False)["admitted_s"] == 0).all()
    for dispatch in ("round_robin", "least_loaded", "static", "shared"):
        spread = rollouts_of(trace, replicas=3, dispatch=dispatch)
        assert set(spread["replica"]) == {0, 1, 2}
        assert (spread["admitted_s"] >= spread["arrival_s"]).all()


def test_a_rollout_waits_between_its_turns() -> None:
    whole = made()
    lengths = whole.output_tokens
    turns = [
        [{"generated_tokens": 1, "wait_s": 7.0}, {"generated_tokens": int(n) - 1, "wait_s": 9.0}] if n > 1 else None
        for n in lengths
    ]
    alone, waiting = rollouts_of(whole), rollouts_of(made(turns=turns))
    longer = waiting["finished_s"] - alone["finished_s"]
    assert (longer[lengths > 1] > 6.5).all()
    assert (waiting["decode_steps"] == lengths).all()


def test_a_group_shares_its_prompt_and_kv_pressure_preempts() -> None:
    trace = made()
    assert rollouts_of(trace)["cached_tokens"].sum() == 0
    shared = rollouts_of(trace, enable_prefix_caching=True)
    blocks = np.minimum(trace.prompt_tokens // 16, (trace.prompt_tokens - 1) // 16)
    first = trace.sample == 0
    assert shared["cached_tokens"].tolist() == np.where(first, 0, 16 * blocks).tolist()
    tight = rollouts_of(trace, num_gpu_blocks=60)
    assert tight["preemptions"].sum() > 0
    assert (tight["decode_steps"] == trace.output_tokens).all()


def test_what_is_left_open_follows_from_model_device_and_drafter() -> None:
    named = BASE | {"model": "qwen3-8b", "device": "h200", "profile": None}
    scenario = build(
        named | {"engine": {"num_gpu_blocks": "auto", "cudagraph_capture_sizes": "vllm", "max_num_seqs": 16}}
    )
    serving = serving_of(scenario, Suffix())
    memory = float(load_device("h200")["memory_bytes"])
    assert serving.num_gpu_blocks == model_shape(load_model("qwen3-8b")).num_gpu_blocks(memory)
    assert serving.cudagraph_capture_sizes == (1, 2, 4, 8, 16, 24, 32)
    assert serving.lookahead_tokens == 0
    assert "estimate" in costs_of(scenario)[0].name
    narrow = build(named | {"engine": {"num_gpu_blocks": "auto"}, "kv_cache_dtype": "fp8"})
    assert serving_of(narrow, Suffix()).num_gpu_blocks // 2 == serving.num_gpu_blocks
    work = StepWork.decode(64, np.array([0, 4000]))
    saved = costs_of(scenario)[0].step_time_s(work) - costs_of(narrow)[0].step_time_s(work)
    assert saved == pytest.approx([0, 64 * 4000 * 36 * 2 * 8 * 128 / 4.8e12])
    eagle = build(BASE | {"drafter": {"kind": "eagle", "curve": [0.8, 0.7, 0.6], "cost": {"per_pass_s": 1e-3}}})
    assert serving_of(eagle, eagle.drafter.drafter()).lookahead_tokens == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"profile": None}, "profile: missing: name a profile, or a model and a device"),
        ({"engine": {"num_gpu_blocks": "auto"}}, "name a model and a device to derive it from"),
        ({"engine": {"num_gpu_blocks": 1}}, "engine.num_gpu_blocks"),
        ({"engine": {"max_num_batched_token": 9}}, "did you mean 'max_num_batched_tokens'"),
        ({"engine": {"num_gpu_blocks": 3}}, r"num_gpu_blocks = 3 \(32 tokens\): rollout \d+ of the queue"),
        (
            {"engine": {"max_num_seqs": 4, "enable_chunked_prefill": False, "max_num_batched_tokens": 10}},
            "chunked prefill is off",
        ),
        ({"engine": {"max_num_batched_tokens": 100}}, "is less than max_num_seqs = 256"),
        ({"engine": {"num_gpu_blocks": 10**9}}, "engine.num_gpu_blocks"),
        ({"profile": None, "model": "qwen3-9b", "device": "h200"}, "qwen3-8b"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(build(BASE | changes), made())


def test_prefix_hits_on_mooncake_are_those_of_brute_force(shared_data: Path) -> None:
    """With room for everything and whole prompts, a request hits the leading 16-token blocks that any earlier one had."""
    found = import_trace(shared_data / "serving/mooncake_conversation_trace.jsonl")
    trace = from_table(found.slice(0, 600), "mooncake")
    told = rollouts_of(trace, enable_prefix_caching=True)
    order = np.lexsort((np.arange(600), told["admitted_s"]))
    hashes, seen = trace.table.column("block_hashes").to_pylist(), set()
    expected = np.zeros(600, np.int64)
    for request in order:
        prompt = int(trace.prompt_tokens[request])
        keys = [
            (hashes[request][16 * i // 512], 16 * i % 512) for i in range(min(prompt // 16, 32 * len(hashes[request])))
        ]
        for i in range(min(len(keys), (prompt - 1) // 16)):
            if keys[i] not in seen:
                break
            expected[request] += 16
        seen.update(keys)
    assert told["cached_tokens"].tolist() == expected.tolist()
    assert expected.sum() > 100_000


def test_live_siblings_reserve_what_is_drafted_and_not_the_budget() -> None:
    """With 255 budgeted and a few drafted tokens a sequence, a step of 64 tokens holds most of 24 rollouts either way."""
    trace = made()
    table = {}
    for siblings in ("next-step", "live"):
        scenario = BASE | {"policies": ["unlimited"], "drafter": {"kind": "suffix", "siblings": siblings}}
        limits = {"max_num_batched_tokens": 64, "max_num_seqs": 24, "num_gpu_blocks": 200}
        table[siblings] = run(build(scenario | {"engine": limits}), trace).runs.to_pylist()[0]
    assert table["live"]["mean_live_batch"] > 0.7 * table["next-step"]["mean_live_batch"]
    assert table["live"]["preemptions"] <= table["next-step"]["preemptions"] + 24
    assert table["live"]["output_tokens"] == trace.output_tokens.sum()


def test_rollouts_that_arrive_have_no_bound() -> None:
    scenario = build(BASE | {"compare": {"bootstrap": 0}, "policies": ["none", "fixed:2"]})
    comparison = run(scenario, made(arrival_s=[0.5 * i for i in range(24)])).comparison
    assert comparison is not None
    assert "no bound: rollouts arrive" in comparison.text()
