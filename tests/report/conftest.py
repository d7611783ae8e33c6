"""A run that the page and the timeline are tried on."""

import pytest

from simulator.replay import run
from simulator.results import Result
from simulator.scenario import Scenario, build
from traces.io import write
from traces.synthesis import synth

PROFILE = "h100-llama-3.1-8b-published"


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    """Three policies on two RL steps of the shipped trace, on two replicas whose KV blocks are few."""
    return build({"trace": "traces/data/countdown.parquet", "profile": PROFILE, "policies": ["none", "fixed:4", "das"],
                  "steps": [1, 2], "engine": {"max_num_seqs": 32, "replicas": 2, "num_gpu_blocks": 900}})  # fmt: skip


@pytest.fixture(scope="session")
def result(scenario: Scenario) -> Result:
    return run(scenario)


@pytest.fixture(scope="session")
def staged() -> tuple[Result, Scenario]:
    """Systems with stages, one of which rewards."""
    scenario = build({"trace": "traces/data/demo.parquet", "model": "qwen3-8b", "device": "h100", "steps": [1, 2],
                      "systems": ["sync", "das", "streamrl"],
                      "stages": ["log_probs", "update", "sync", "reward:seconds=0.5,servers=8"]})  # fmt: skip
    return run(scenario), scenario


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Traces that are made up, by name: one rollout, and a few."""
    folder = tmp_path_factory.mktemp("traces")
    for name, prompts, samples in (("one", 1, 1), ("few", 6, 3)):
        table = synth(prompts=prompts, samples=samples, steps=2, median_tokens=60, max_tokens=200, seed=3)
        write(table, folder / f"{name}.parquet", {"made": "for tests"})
    return {path.stem: str(path) for path in folder.iterdir()}
