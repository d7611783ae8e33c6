"""Data-parallel ranks as a user asks for them: what a scenario refuses, what a run says of them, what fits on them."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from simulator.catalogue import estimate, load_device, load_model
from simulator.cost import Affine
from simulator.cost.model import Profile
from simulator.cost.model_config import model_shape
from simulator.cost.operators import row
from simulator.cost.profiles import write_profile
from simulator.deployed import serving_of
from simulator.drafting.suffix import Suffix
from simulator.replay import Result, run
from simulator.scenario import build
from tests.scenario.test_engine_limits import made
from traces.errors import InputError
from traces.io import from_table
from traces.synthesis import synth

TWO = {"tensor_parallel_size": 1, "expert_parallel_size": 2}


@pytest.fixture
def profile() -> Profile:
    return replace(estimate("qwen3-30b-a3b", "h100"), name="two ranks", parallel=TWO)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)


def replayed(profile: Profile, tensor_parallel_size: int = 1, **engine: object) -> Result:
    write_profile(profile, Path("profile.yaml"))
    scenario = {"trace": "made", "profile": "profile.yaml", "policies": ["none"], "drafter": {"kind": "none"}}
    return run(build(scenario | {"engine": engine, "tensor_parallel_size": tensor_parallel_size}), made())


def test_static_dispatch_leaves_ranks_waiting_and_says_so(profile: Profile) -> None:
    static = replayed(profile, replicas=2, data_parallel_size=2, dispatch="static", max_num_seqs=4)
    alone = replayed(replace(profile, parallel={}), replicas=2, dispatch="static", max_num_seqs=4)
    (note,) = [note for note in static.about["warnings"] if "step together" in note]
    assert 0 < int(note.split("together: ")[1].split("%")[0]) < 100
    assert not [note for note in alone.about["warnings"] if "step together" in note]
    assert static.runs["makespan_s"][0].as_py() > alone.runs["makespan_s"][0].as_py()
    starts = static.steps.to_pandas().groupby("replica")["start_s"].apply(list)
    shorter, longer = sorted(starts, key=len)
    assert shorter == longer[: len(shorter)]  # step by step at the same time, and then one goes on alone


@pytest.mark.parametrize("loop", ["sync", "partial:rollouts=12", "streaming:rollouts=12,lag=1"])
@pytest.mark.parametrize("placement", ["shared", "divided:stay=16", "longest_first"])
def test_steps_that_take_equally_long_are_in_lockstep_anyway(loop: str, placement: str) -> None:
    """Where every step takes a second, ranks that share experts do what replicas by themselves do, whatever the loop."""
    second = Affine("step", row(constant=1.0))
    texts = dict.fromkeys(("model", "device", "source", "uncertainty"), "made up")
    runs = []
    for ranks in (1, 2):
        spread = {"tensor_parallel_size": 1, "expert_parallel_size": ranks}
        write_profile(Profile("seconds", "affine", (second,), **texts, parallel=spread), Path("profile.yaml"))
        system = {"name": "one", "policy": "fixed:2", "loop": loop, "placement": placement}
        runs.append(run(build({
            "trace": "made", "profile": "profile.yaml", "systems": [system], "drafter": {"kind": "suffix", "cost": "none"},
            "engine": {"replicas": 4, "data_parallel_size": ranks, "max_num_seqs": 3},
        }), from_table(synth(prompts=5, samples=3, steps=3, median_tokens=40, max_tokens=200, seed=7), "made")))  # fmt: skip
    alone, shared = (
        [one.rollouts, one.steps.drop_columns(["waited_s", "expert_tokens"]), one.rl_steps] for one in runs
    )
    for before, after in zip(alone, shared, strict=True):
        names = [name for name in before.column_names if name != "wall_s"]
        assert before.select(names).equals(after.select(names))


@pytest.mark.parametrize(
    ("parallel", "engine", "words"),
    [
        (TWO, {"replicas": 2}, "experts step together, so give engine.data_parallel_size=2"),
        (TWO, {"replicas": 4, "data_parallel_size": 4}, "profile two ranks says expert_parallel_size 2: import one with --ep 4"),
        ({}, {"replicas": 2, "data_parallel_size": 2}, "profile two ranks says expert_parallel_size 1: import one with --ep 2"),
        (TWO, {"replicas": 3, "data_parallel_size": 2}, "engine.data_parallel_size = 2 does not divide replicas = 3"),
        (
            {"tensor_parallel_size": 2, "expert_parallel_size": 2},
            {"replicas": 2, "data_parallel_size": 2},
            "2 ranks of 2 GPU",
        ),
    ],
)  # fmt: skip
def test_costs_of_other_parallelism_are_refused(
    profile: Profile, parallel: dict[str, int], engine: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError) as refusal:
        replayed(replace(profile, parallel=parallel), **engine)
    assert words in str(refusal.value).replace("engine: ", "engine.")
    assert "\n" not in str(refusal.value)


def test_ranks_that_share_experts_have_room_for_more_context() -> None:
    shape, memory = model_shape(load_model("qwen3-30b-a3b")), float(load_device("h100")["memory_bytes"])
    alone, shared = (shape.num_gpu_blocks(memory, ranks=ranks) for ranks in (1, 2))
    freed_bytes = shape.moe_layers * shape.experts * shape.expert_bytes / 2
    assert (shared - alone) * 16 * shape.kv_bytes_per_token == pytest.approx(freed_bytes, rel=1e-4)
    base = {"trace": "made", "model": "qwen3-30b-a3b", "device": "h100", "policies": ["none"]}
    engine = {"replicas": 2, "data_parallel_size": 2, "num_gpu_blocks": "auto"}
    assert serving_of(build(base | {"engine": engine}), Suffix()).num_gpu_blocks == shared


def test_a_profile_of_two_gpus_says_how_many_there_are(profile: Profile) -> None:
    of_two = replace(profile, parallel={"tensor_parallel_size": 2})
    write_profile(of_two, Path("profile.yaml"))
    scenario = build({
        "trace": "made", "profile": "profile.yaml", "model": "qwen3-30b-a3b", "device": "h100", "policies": ["none"],
        "drafter": {"kind": "none"}, "engine": {"num_gpu_blocks": "auto"}, "tensor_parallel_size": 4,
    })  # fmt: skip
    with pytest.raises(InputError, match="tensor_parallel_size = 4, but profile two ranks says 2: give 2"):
        run(scenario, made())
