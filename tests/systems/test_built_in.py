"""Built-in systems: short files, and what must hold of every one of them on any trace."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from simulator.catalogue import estimate
from simulator.cost.work import StepWork
from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from simulator.systems.built_in import BASELINE, built_in_system, built_in_systems
from simulator.systems.listing import listing
from traces.errors import InputError
from traces.io import from_table
from traces.synthesis import synth
from traces.trace import Trace

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "simulator/systems"
LINES = 25
SEED = 7
MODEL = {"model": "qwen3-30b-a3b", "device": "h100"}


def made(seed: int, steps: int = 3, without: tuple[str, ...] = ()) -> Trace:
    """A small trace with all that a system may ask for, but for some columns."""
    rng = np.random.default_rng(seed)
    table = synth(prompts=6, samples=4, steps=steps, median_tokens=60, max_tokens=400, seed=seed)
    lengths = table["output_tokens"].to_numpy()
    before = [np.log(rng.uniform(0.2, 1.0, n)).astype(np.float32) for n in lengths]
    after = [np.minimum(one + rng.normal(0.0, 0.3, one.size), 0.0).astype(np.float32) for one in before]
    columns = {
        "reward": pa.array(rng.integers(0, 2, lengths.size), pa.float32()),
        "logprobs": pa.array([one.tolist() for one in before], pa.list_(pa.float32())),
        "next_logprobs": pa.array([one.tolist() for one in after], pa.list_(pa.float32())),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return from_table(table.drop_columns([*without]), "made up")


def compared(trace: Trace, systems: list[Any], **more: Any) -> Result:
    engine = more.pop("engine", {"max_num_seqs": 8, "replicas": 2})
    document = {
        "trace": trace.source,
        "systems": systems,
        "engine": engine,
        "stages": ["log_probs", "update", "sync"],
        **MODEL,
    }
    return run(build(document | more), trace)


@pytest.mark.parametrize("name", built_in_systems())
def test_a_system_is_a_short_file_with_a_source(name: str) -> None:
    assert len((FOLDER / f"{name}.yaml").read_text("utf-8").splitlines()) <= LINES
    settings = built_in_system(name)
    assert settings["about"]
    assert ("paper" in settings) == (name != BASELINE)
    if name != BASELINE:
        assert (ROOT / f"docs/systems/{name}.md").is_file(), "a page each"


def test_the_list_says_what_each_is_needs_and_assumes() -> None:
    rows = {row["name"]: row for row in listing()}
    assert [*rows] == built_in_systems()
    assert rows["das"]["needs"] == ["token ids", "an earlier RL step"]
    assert rows["das"]["lossless"]
    assert all(row["assumes"] for row in rows.values() if not row["lossless"]), "what is lossy says what it assumes"


@pytest.mark.parametrize("seed", range(4))
def test_everything_that_is_recorded_is_emitted_once_by_lossless_systems(seed: int) -> None:
    trace = made(seed)
    rng = np.random.default_rng(seed)
    engine = {"max_num_seqs": int(rng.integers(2, 20)), "replicas": int(rng.integers(1, 5))}
    result = compared(trace, ["all"], engine=engine)
    assert not result.about["left_out"]
    recorded = {(int(s), p, int(i)): int(n) for s, p, i, n in zip(
        trace.step, trace.table["prompt_id"].to_pylist(), trace.sample, trace.output_tokens, strict=True)}  # fmt: skip
    runs = {row["system"]: row for row in result.runs.to_pylist()}
    for name, mine in result.to_pandas("rollouts").groupby("system"):
        told = list(zip(mine["prompt_id"], mine["sample"], mine["output_tokens"], strict=True))
        assert runs[name]["output_tokens"] + runs[name]["reused_tokens"] == mine["output_tokens"].sum()
        if runs[name]["lossless"] and not runs[name]["transforms"]:
            lengths = {(p, i, n) for (_, p, i), n in recorded.items()}
            assert {*told} <= lengths, name
        if runs[name]["loop"] == "sync" and not runs[name]["transforms"]:
            assert len(mine) == len(trace), name


def test_what_a_trace_lacks_is_left_out_with_the_reason() -> None:
    everything = {*built_in_systems()}
    lacking = {
        ("token_ids",): "no token ids",
        ("reward",): "no rewards",
        ("next_logprobs",): "no log-probs under a second policy",
        ("token_ids", "reward", "logprobs", "next_logprobs", "prompt_token_ids"): "no token ids; no rewards",
    }
    for without, why in lacking.items():
        result = compared(made(SEED, without=without), ["all"])
        left_out = result.about["left_out"]
        assert {*result.runs["system"].to_pylist()} | {*left_out} == everything
        assert any(why.split("; ")[0] in told for told in left_out.values())
        assert BASELINE not in left_out
    alone = compared(made(SEED, steps=1), ["all"])
    assert all("one RL step only" in told for told in alone.about["left_out"].values())
    assert "das" in alone.about["left_out"]


def test_a_profile_alone_leaves_out_what_needs_a_model() -> None:
    trace = made(SEED)
    profile = {"model": None, "device": None, "profile": "h100-llama-3.1-8b-published", "stages": ["update:seconds=1"]}
    result = compared(trace, ["all"], **profile)
    assert all("name model and device" in told for told in result.about["left_out"].values())


def test_nothing_to_run_is_an_error() -> None:
    with pytest.raises(InputError, match="system das cannot be run: no token ids"):
        compared(made(SEED, without=("token_ids",)), ["das"])


def test_the_same_again_is_the_same() -> None:
    first, second = (compared(made(SEED), ["all"]).runs.drop_columns(["wall_s"]) for _ in range(2))
    assert first.equals(second)


@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_faster_than_the_steps_of_its_longest_rollout_or_than_its_gpus_can_be_busy(seed: int) -> None:
    result = compared(made(seed), ["all"])
    step_s = float(
        estimate(*MODEL.values()).step_time_s(StepWork(live=1.0, query_tokens=1.0, kv_tokens=1.0, pairs=1.0))
    )
    runs = {row["system"]: row for row in result.runs.to_pylist()}
    rollouts = result.to_pandas("rollouts")
    for row in result.rl_steps.to_pylist():
        run_ = runs[row["system"]]
        mine = rollouts[(rollouts["system"] == row["system"]) & (rollouts["step"] == row["step"])]
        if run_["loop"] == "sync" and "weight_bits" not in run_["transforms"]:
            assert row["makespan_s"] >= 0.999 * step_s * mine["decode_steps"].max(), row["system"]
        assert -1e-6 <= row["idle_gpu_s"] <= run_["gpus"] * row["step_s"] + 1e-6, row["system"]
    for name, run_ in runs.items():
        assert run_["run_s"] * run_["gpus"] >= run_["train_gpu_s"] + run_["idle_gpu_s"] - 1e-6, name
        if run_["loop"] == "sync":
            assert run_["run_s"] >= run_["makespan_s"] + run_["train_s"] - 1e-6, name


def test_what_is_carried_and_what_is_generated_add_up() -> None:
    trace = made(SEED)
    result = compared(trace, ["sync", "copris", "streamrl", "rhymerl"])
    steps = result.to_pandas("steps").groupby("system")["emitted_tokens"].sum()
    for run_ in result.runs.to_pylist():
        assert steps[run_["system"]] >= run_["output_tokens"], "what is in flight at the end is left"
        if run_["system"] != "copris":
            assert steps[run_["system"]] == trace.output_tokens.sum()
