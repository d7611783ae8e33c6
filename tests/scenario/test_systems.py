"""Systems from a scenario: what they share, what they conserve, and what cannot be played."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from simulator.system import load_system
from simulator.testing import example_trace, with_rewards
from traces.errors import InputError
from traces.io import from_table
from traces.trace import Trace

PROFILE = "h100-llama-3.1-8b-published"
STAGES = ["reward:seconds=0.5,servers=4", "log_probs:seconds=0.25", "update:seconds=1", "sync:seconds=0.125"]
LOOPS = ["sync", "one_step_async", "own_pace:lag=1", "partial:rollouts=10", "streaming:rollouts=12,lag=1"]


def played(*systems: dict[str, Any], trace: Trace | None = None, **document: Any) -> Result:
    given = {
        "trace": "example",
        "profile": PROFILE,
        "systems": list(systems),
        "engine": {"max_num_seqs": 4, "replicas": 2},
    }
    return run(build(given | document), trace or example_trace())


def test_a_policy_is_short_for_a_system() -> None:
    result = played({"name": "mine", "policy": "fixed:3"}, policies=["none", "fixed:3"])
    _, short, long = result.runs.drop_columns(["system", "wall_s"]).to_pylist()
    assert short == long
    rollouts = result.to_pandas("rollouts")
    one, other = (rollouts[rollouts["system"] == name].drop(columns="system") for name in ("fixed:3", "mine"))
    assert one.reset_index(drop=True).equals(other.reset_index(drop=True))


@pytest.mark.parametrize("loop", LOOPS)
def test_trees_are_drafted_under_every_loop(loop: str) -> None:
    """Recorded rollouts are short, so a step is told to be of two trees by its drafted tokens alone."""
    shapes = [
        {"depth": 2, "topk": 2, "verify": 4, "accept_length": 2.0},
        {"depth": 3, "topk": 2, "verify": 8, "accept_length": 2.5},
    ]
    drafter = {"kind": "eagle", "strategies": shapes, "cost": {"per_pass_s": 0.001}}
    systems = [
        {"name": policy, "policy": policy, "loop": loop} for policy in ("none", "fixed:4", "fixed:11", "goodput")
    ]
    result = played(*systems, drafter=drafter)
    steps = result.to_pandas("steps")
    for policy, verify, depth in (("none", 0, 0), ("fixed:4", 4, 2), ("fixed:11", 8, 3)):
        mine = steps[steps["system"] == policy]
        assert (mine["drafted_tokens"] % max(verify, 1) == 0).all()
        assert mine["draft_s"].unique().tolist() == pytest.approx(sorted({0.0, 0.001 * depth}))
        assert mine["drafted_tokens"].sum() > 0 or policy == "none"
    assert set(steps[steps["system"] == "goodput"]["draft_s"].round(9)) <= {0.0, 0.002, 0.003}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("placement", ["shared", "divided:stay=9", "context:stay=9", "ranked:migrate=0.3"])
def test_nothing_is_lost_or_doubled(loop: str, placement: str) -> None:
    trace = example_trace()
    result = played(
        {"name": "s", "policy": "fixed:2", "loop": loop, "placement": placement, "stages": STAGES}, trace=trace
    )
    rollouts = result.to_pandas("rollouts")
    assert len(rollouts) == len(trace)
    assert not rollouts.duplicated(["prompt_id", "sample", "output_tokens"]).any() or loop == "sync"
    assert (
        rollouts["output_tokens"].sum()
        == trace.output_tokens.sum()
        == result.to_pandas("steps")["emitted_tokens"].sum()
    )
    assert (rollouts["accepted_tokens"] <= rollouts["drafted_tokens"]).all()
    run_, steps = result.to_pandas("runs").iloc[0], result.to_pandas("rl_steps")
    assert run_["rl_steps"] == len(steps) == 3
    assert steps["trained"].sum() == len(trace)
    assert np.isclose(steps["step_s"].sum(), run_["run_s"])
    assert (steps["step_s"] > 0).all()
    busy_s = result.to_pandas("steps")["duration_s"].sum()
    assert run_["gpus"] == (4 if "async" in loop or "lag=1" in loop else 2)
    assert np.isclose(run_["idle_gpu_s"], run_["gpus"] * run_["run_s"] - busy_s - 2 * run_["train_s"])


def test_spans_do_not_overlap_and_cover_what_decodes() -> None:
    result = played({"name": "s", "loop": "partial:rollouts=7", "stages": STAGES})
    spans = result.to_pandas("spans")
    for _, mine in spans.groupby("who"):
        ordered = mine.sort_values("start_s")
        assert (ordered["start_s"].to_numpy()[1:] >= ordered["end_s"].to_numpy()[:-1] - 1e-9).all()
    decoding = spans[spans["what"] == "decode"]
    assert np.isclose((decoding["end_s"] - decoding["start_s"]).sum(), result.to_pandas("steps")["duration_s"].sum())
    rewards = spans[spans["what"] == "reward"]
    assert np.isclose((rewards["end_s"] - rewards["start_s"]).sum(), result.to_pandas("rl_steps")["reward_s"].sum())
    assert set(spans["who"]) == {"replica 0", "replica 1", "log_probs", "update", "sync", "reward"}


def test_engine_settings_differ_by_system() -> None:
    """SGLang caps running requests under speculation: one run compares both."""
    result = played(
        {"name": "capped", "policy": "fixed:3", "engine": {"max_num_seqs": 2}},
        {"name": "none", "engine": {"max_num_seqs": 64}},
    )
    live = result.to_pandas("steps").groupby("system")["live"].max()
    assert live["capped"] == 2
    assert live["none"] > 2


def test_refill_drops_groups_that_teach_nothing() -> None:
    trace = with_rewards(example_trace())
    result = played({"name": "s", "loop": "refill", "stages": STAGES}, trace=trace)
    steps = result.to_pandas("rl_steps")
    assert len(steps) == 2  # five groups in each of three RL steps, one of them dropped
    assert steps["trained"].tolist() == [15, 15]
    assert any("rollouts for 2 of 3 RL steps" in note for note in result.about["warnings"])


def test_what_cannot_be_played_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no rewards, by which loop refill keeps groups"):
        played({"name": "s", "loop": "refill"})
    equal = example_trace()
    equal = from_table(equal.table.append_column("reward", pa.array(np.ones(len(equal)))), "equal")
    with pytest.raises(InputError, match="keeps too few groups for one RL step"):
        played({"name": "s", "loop": "refill"}, trace=equal)
    arriving = example_trace()
    arriving = from_table(
        arriving.table.append_column("arrival_s", pa.array(np.arange(len(arriving)) * 1.0)), "arriving"
    )
    with pytest.raises(InputError, match=r"arrival_s.*set engine.arrivals to false"):
        played({"name": "s", "loop": "partial:rollouts=4"}, trace=arriving)
    with pytest.raises(InputError, match="stage update has no price: name model and device"):
        played({"name": "s", "stages": ["update"]})
    with pytest.raises(InputError, match="pulls KV, at a price that nothing says"):
        played({"name": "s", "placement": "divided:stay=5,kv=pull"})
    with pytest.raises(InputError, match=r"systems.0.engine.max_num_seqs = 0"):
        played({"name": "s", "engine": {"max_num_seqs": 0}})
    with pytest.raises(InputError, match="'s' is named twice"):
        played({"name": "s"}, {"name": "s"})
    with pytest.raises(InputError, match="leave systems out, or compare"):
        played({"name": "s"}, compare={})
    with pytest.raises(
        InputError, match=r"^systems.0.loop: loop 'partal:rollouts=3' is unknown: did you mean 'partial:rollouts=3'"
    ):
        build({"trace": "t", "profile": PROFILE, "systems": [{"name": "s", "loop": "partal:rollouts=3"}]})
    file = tmp_path / "mine.yaml"
    file.write_text("loop: sync\npolicy: das\n")
    assert load_system(str(file)) == {"name": "mine", "loop": "sync", "policy": "das"}
    file.write_text("lop: sync\n")
    with pytest.raises(InputError, match=r"mine.yaml: lop: unknown key: did you mean 'loop'"):
        load_system(str(file))


def test_seconds_of_rewards_come_from_a_constant_a_column_or_a_file(tmp_path: Path) -> None:
    trace = example_trace()
    seconds = 0.01 * trace.output_tokens
    file = tmp_path / "seconds.txt"
    np.savetxt(file, seconds)
    with_column = from_table(trace.table.append_column("judged_s", pa.array(seconds)), trace.source)
    found = [
        played({"name": "s", "stages": [stage]}, trace=with_column).to_pandas("rl_steps")["reward_s"].tolist()
        for stage in (
            "reward:column=judged_s,servers=3",
            f"reward:file={file},servers=3",
            "reward:seconds=0.5,servers=3",
        )
    ]
    assert found[0] == found[1] != found[2]
    file.write_text("1\n2\n")
    with pytest.raises(InputError, match=r"holds 2 numbers: give one for each of the trace's 45 rows"):
        played({"name": "s", "stages": [f"reward:file={file}"]}, trace=trace)
    negative = from_table(trace.table.append_column("s", pa.array(np.full(len(trace), -1.0))), "t")
    with pytest.raises(InputError, match=r"row 0: -1.0 is no time"):
        played({"name": "s", "stages": ["reward:column=s"]}, trace=negative)


def test_prices_of_stages_follow_from_model_and_device() -> None:
    document = {"profile": None, "model": "qwen3-8b", "device": "h100"}
    system = {"name": "s", "stages": ["log_probs:passes=2", "update:mfu=0.5", "sync:gb_per_s=10"], "train_gpus": 8}
    result = played(system, **document)
    steps, trace = result.to_pandas("rl_steps"), example_trace()
    from simulator.catalogue import load_device, load_model
    from simulator.cost.model_config import model_shape

    shape, device = model_shape(load_model("qwen3-8b")), load_device("h100")
    tokens = np.array(
        [int((trace.output_tokens + trace.prompt_tokens)[trace.step == step].sum()) for step in trace.steps]
    )
    per_token = (2 * 2 / 0.4 + 6 / 0.5) * shape.active_parameters / (8 * device["peak_flops_per_s"])
    assert np.allclose(steps["train_s"], tokens * per_token)
    assert np.allclose(steps["sync_s"], [0.0, *[shape.weight_bytes / 10e9] * 2])
    assert any("s: log_probs assumed: 2 FLOPs" in note for note in result.about["warnings"])


def test_a_drafter_knows_what_it_has_had_time_to_learn() -> None:
    """At once is as without the stage; too slow is as without a history; versions of so many rollouts lie between."""

    def accepted(*stages: str) -> list[int]:
        system = {"name": "s", "policy": "fixed:4", "stages": ["update:seconds=1", *stages]}
        result = played(system, drafter={"kind": "suffix", "own": False})
        return result.to_pandas("rl_steps")[["accepted_tokens", "unlearnt"]].to_numpy().T.tolist()

    whole, at_once = accepted(), accepted("drafter:seconds=0")
    some, never = accepted("drafter:every=8"), accepted("drafter:seconds=1000")
    assert whole == at_once
    assert never[0] == [0, 0, 0]
    assert never[1] == [0, 15, 30]
    assert some[1] == [0, 7, 6]
    assert 0 < sum(some[0]) < sum(whole[0])


def test_what_the_drafter_does_is_told_of_every_rl_step_once() -> None:
    """Whatever the first system's loop: one that is a step ahead has begun the next RL step when this one ends."""
    told = [
        played({"name": "s", "policy": "fixed:2", "loop": loop, "stages": STAGES}).acceptance.to_pylist()
        for loop in ("sync", "one_step_async")
    ]
    assert told[0] == told[1]
    assert told[0][0]["drafted_tokens"] > 0
