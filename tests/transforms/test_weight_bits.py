"""A system whose replicas decode with weights of few bits: other costs, more room for KV, the same rollouts."""

from dataclasses import replace
from typing import Any

import pytest

from simulator.catalogue import load_device, load_model
from simulator.cost import Profile, StepWork, roofline
from simulator.cost.model_config import model_shape
from simulator.cost.sources import NotMeasuredError
from simulator.cost.weight_bits import WeightBits
from simulator.deployed import costs_of, deployment_of, target_of
from simulator.drafting.drafter import Target
from simulator.drafting.nothing import Nothing
from simulator.replay import run
from simulator.results import Result
from simulator.scenario import Scenario, build
from simulator.systems.needs import lacking
from simulator.transforms.resolve import resolve_transform
from simulator.transforms.transform import ChangesCosts
from traces.errors import InputError
from traces.io import from_table
from traces.synthesis import synth
from traces.trace import Trace

MILO = "weight_bits:bits=3,group=64,rank=512,sparse_rank=32"
MIXTRAL: dict[str, Any] = {
    "trace": "t", "model": "mixtral-8x7b", "device": "h100", "tensor_parallel_size": 2,
    "engine": {"max_num_seqs": 64, "num_gpu_blocks": "auto"},
}  # fmt: skip


def small() -> Trace:
    return from_table(synth(prompts=6, samples=4, steps=2, median_tokens=60, max_tokens=300, seed=5), "small")


def scenario(*transforms: str, **changes: Any) -> Scenario:
    systems = [{"name": "sync"}, *({"name": one, "transforms": [one]} for one in transforms)]
    return build({**MIXTRAL, **changes, "systems": systems})


def rows(result: Result) -> list[dict[str, Any]]:
    return result.runs.to_pylist()


def test_sixteen_bits_are_plain_sync_to_the_bit() -> None:
    result = run(scenario("weight_bits:bits=16"), small())
    plain, same = rows(result)
    told = {"system", "transforms", "assumes", "wall_s"}
    assert {key: value for key, value in plain.items() if key not in told} == {
        key: value for key, value in same.items() if key not in told
    }
    for name in ("rollouts", "steps", "rl_steps"):
        table = getattr(result, name).to_pylist()
        halves = [
            [{k: v for k, v in row.items() if k not in told} for row in table if row["system"] == one["system"]]
            for one in (plain, same)
        ]
        assert halves[0] == halves[1]


def test_three_bits_emit_the_recorded_tokens_faster_and_are_marked_lossy() -> None:
    result = run(scenario(MILO), small())
    plain, milo = rows(result)
    lengths = [
        [one["output_tokens"] for one in result.rollouts.to_pylist() if one["system"] == name]
        for name in ("sync", MILO)
    ]
    assert sorted(lengths[0]) == sorted(lengths[1])
    assert milo["speedup"] > 1.5, "a batch of 24 reads weights"
    assert (plain["lossless"], milo["lossless"]) == (True, False)
    assert "as recorded under the unquantised policy, which 3-bit weights change" in milo["assumes"]


def test_costs_and_blocks_are_those_of_the_config_with_such_weights() -> None:
    own = scenario()
    cost, _ = costs_of(own)
    found = resolve_transform(MILO)
    assert isinstance(found, ChangesCosts)
    target = found.costs(target_of(own, cost))
    config = WeightBits(3, 64, 512, 32).of(load_model("mixtral-8x7b"))
    work = StepWork.decode([1, 8, 200], 1000)
    bytes_s = model_shape(config).shard(2).read_bytes / load_device("h100")["bandwidth_bytes_per_s"]
    assert target.profile.operator_times(work)["forward"][0] >= bytes_s
    assert "3-bit weights" in target.profile.name
    assert set(target.profile.operator_times(work)) == set(cost.operator_times(work)), "host and links stay"
    assert target.profile.operator_times(work)["host"] == pytest.approx(cost.operator_times(work)["host"])
    both = (target_of(own, cost), target)
    blocks = [deployment_of(own, one.profile, Nothing(), one.config).serving.num_gpu_blocks for one in both]
    expected = [
        model_shape(one).num_gpu_blocks(load_device("h100")["memory_bytes"], tp=2, max_num_seqs=64)
        for one in (load_model("mixtral-8x7b"), config)
    ]
    assert blocks == expected


def test_the_dtype_of_keys_and_values_stays() -> None:
    narrow = scenario(kv_cache_dtype="fp8")
    cost, _ = costs_of(narrow)
    target = resolve_transform("weight_bits:bits=16").costs(target_of(narrow, cost))  # type: ignore[attr-defined]
    work = StepWork.decode([1, 64], 5000)
    assert (target.profile.step_time_s(work) == cost.step_time_s(work)).all()


def test_heads_of_the_target_stay_in_16_bits() -> None:
    changes = {"drafter": {"kind": "mtp", "curve": [0.8, 0.6]}, "model": "qwen3-30b-a3b", "tensor_parallel_size": 1}
    own = scenario(**changes)
    plain = target_of(own, costs_of(own)[0])
    quantised = resolve_transform("weight_bits:bits=3").costs(plain)  # type: ignore[attr-defined]
    costs = [own.drafter.drafter().priced(one).cost.forward.cost for one in (plain, quantised)]  # type: ignore[attr-defined]
    work = StepWork.decode(8, 500)
    assert costs[0].step_time_s(work) == costs[1].step_time_s(work)


def test_measured_costs_are_refused() -> None:
    profile = {
        "trace": "t",
        "profile": "h100-llama-3.1-8b-published",
        "systems": [{"name": "milo", "transforms": [MILO]}],
    }
    with pytest.raises(
        InputError, match="was measured, and does not say what of a step is reading weights: name model and device"
    ):
        run(build(profile), small())
    both = {**profile, "model": "llama-3.1-8b", "device": "h100"}
    with pytest.raises(InputError, match="was measured"):
        run(build(both), small())


def test_an_estimate_is_a_need_that_scenarios_may_lack() -> None:
    needy = {"name": "milo", "transforms": [MILO], "needs": ["estimate"]}
    for changes, told in (
        ({"model": "qwen3-30b-a3b-fp8"}, "qwen3-30b-a3b-fp8 has fp8 weights"),
        ({"tables": "vllm"}, "costs are measured"),
        ({"profile": "h100-llama-3.1-8b-published", "tensor_parallel_size": 1}, "costs are measured"),
    ):
        own = build({**MIXTRAL, **changes, "systems": [{"name": "sync"}, needy]})
        assert told in str(lacking(own.systems[1], own, small(), [0]))
    own = build({**MIXTRAL, "systems": [needy]})
    assert lacking(own.systems[0], own, small(), [0]) is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("weight_bits:bits=0", "bits=0: give a whole number from 1 to 16"),
        ("weight_bits:bits=3.5", "bits=3.5: give a whole number"),
        ("weight_bits:group=0", "group=0"),
        ("weight_bits:rank=-1", "rank=-1"),
        ("weight_bits:bit=3", "has setting 'bit=3': did you mean bits=[?] use bits=, group=, rank=, sparse_rank="),
        ("weight_bits:bits=3,bits=4", "sets bits twice"),
        ("weight_bits:3", "write key=value"),
    ],
)
def test_settings_that_cannot_be_are_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_transform(spec)
    with pytest.raises(InputError, match=r"transforms\.0: transform 'weight_bits"):
        build({**MIXTRAL, "systems": [{"name": "s", "transforms": [spec]}]})


def test_kernel_tables_are_refused_and_an_estimate_in_their_place_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    own = scenario(tables="vllm")
    tables = replace(roofline(load_model("mixtral-8x7b"), load_device("h100"), tp=2), source="kernels, one by one")

    def answer(found: Profile | NotMeasuredError) -> Target:
        def measured(*asked: Any) -> Profile:
            if isinstance(found, NotMeasuredError):
                raise found
            return found

        monkeypatch.setattr("simulator.deployed.measured", measured)
        return target_of(own, costs_of(own)[0])

    found = resolve_transform(MILO)
    assert isinstance(found, ChangesCosts)
    with pytest.raises(InputError, match="was measured"):
        found.costs(answer(tables))
    assert "3-bit weights" in found.costs(answer(NotMeasuredError("none of it"))).profile.name


def test_ranks_that_share_experts_hold_a_part_of_each() -> None:
    """Two ranks read half of the experts that the tokens of both touch, at their bytes in 3 bits."""
    engine = {"max_num_seqs": 64, "data_parallel_size": 2, "replicas": 2}
    own = scenario(tensor_parallel_size=1, engine=engine, model="qwen3-30b-a3b")
    target = target_of(own, costs_of(own)[0])
    quantised = resolve_transform("weight_bits:bits=3").costs(target)  # type: ignore[attr-defined]
    work = StepWork.decode([1, 8], 100)
    gain = target.profile.operator_times(work)["experts"] / quantised.profile.operator_times(work)["experts"]
    assert gain == pytest.approx(16 / 3.5, rel=1e-9)
    assert quantised.profile.parallel == target.profile.parallel
