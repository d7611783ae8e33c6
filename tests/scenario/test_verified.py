"""Systems that begin with kept prefixes, in whole runs: what is conserved, what it costs, and what is refused."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from simulator.testing import example_trace, with_log_probs
from traces.errors import InputError
from traces.io import from_table
from traces.trace import Trace

PROFILE = "h100-llama-3.1-8b-published"
STAGES = ["reward:seconds=0.5,servers=4", "log_probs:seconds=0.25", "update:seconds=1", "sync:seconds=0.125"]


def verify(leniency: float, **settings: Any) -> str:
    told = "".join(f",{key}={value}" for key, value in settings.items())
    return f"verify:leniency={leniency},s_per_token=1e-4{told}"


def played(*systems: dict[str, Any], trace: Trace | None = None, **document: Any) -> Result:
    given = {
        "trace": "example", "profile": PROFILE, "systems": list(systems), "stages": STAGES,
        "engine": {"max_num_seqs": 4, "replicas": 2},
    }  # fmt: skip
    return run(build(given | document), trace or with_log_probs(example_trace()))


def of(result: Result, table: Any, system: str) -> Any:
    found = result.to_pandas(table)
    return found[found["system"] == system].drop(columns="system").reset_index(drop=True)


@pytest.mark.parametrize("transform", [verify(0), verify(1, accept=0)])
@pytest.mark.parametrize("policy", ["none", "fixed:3"])
def test_with_nothing_accepted_generation_is_that_of_sync(transform: str, policy: str) -> None:
    """To the bit; what verifying takes is all that differs."""
    result = played({"name": "sync", "policy": policy}, {"name": "mine", "policy": policy, "transforms": [transform]})
    for table in ("rollouts", "steps"):
        assert of(result, table, "sync").equals(of(result, table, "mine"))
    sync, mine = (of(result, "rl_steps", name) for name in ("sync", "mine"))
    assert sync["makespan_s"].equals(mine["makespan_s"])
    assert (mine["reused_tokens"] == 0).all()
    assert mine["verify_s"].tolist()[0] == 0
    assert np.allclose(mine["step_s"] - sync["step_s"], mine["verify_s"], rtol=0, atol=1e-9)
    assert any("nothing of an earlier response is reused" in note for note in result.about["warnings"])


def test_a_trace_without_earlier_responses_has_nothing_to_verify() -> None:
    trace = with_log_probs(example_trace())
    apart = trace.table.set_column(
        trace.table.column_names.index("prompt_id"), "prompt_id",
        pa.array([f"{step}-{name}" for step, name in zip(trace.step, trace.table.column("prompt_id").to_pylist(), strict=True)]),
    )  # fmt: skip
    result = played(
        {"name": "sync"}, {"name": "mine", "transforms": [verify(math.inf)]}, trace=from_table(apart, "apart")
    )
    for table in ("rollouts", "steps"):
        assert of(result, table, "sync").equals(of(result, table, "mine"))
    sync, mine = result.runs.drop_columns(
        ["system", "wall_s", "transforms", "lossless", "assumes", "basis"]
    ).to_pylist()
    assert sync == mine


def test_an_infinite_leniency_reuses_everything() -> None:
    trace = with_log_probs(example_trace())
    result = played({"name": "mine", "transforms": [verify(math.inf)]}, trace=trace)
    rollouts, steps = result.to_pandas("rollouts"), result.to_pandas("rl_steps")
    lengths = [trace.output_tokens[trace.step == step] for step in trace.steps]
    assert steps["reused_tokens"].tolist() == [0, lengths[0].sum(), lengths[1].sum()]
    assert steps["output_tokens"].tolist() == [lengths[0].sum(), 0, 0]
    assert steps["makespan_s"].tolist()[1:] == [0.0, 0.0]
    whole = rollouts[rollouts["step"] > 0]
    assert (whole["output_tokens"] == whole["reused_tokens"]).all()
    assert (whole["replica"] == -1).all()
    assert (whole["finished_s"] == 0).all()
    assert steps["max_staleness"].tolist() == [0, 1, 1]
    assert result.runs["lossless"].to_pylist() == [False]


@pytest.mark.parametrize("remaining", ["recorded", "previous"])
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"policy": "fixed:3", "drafter": {"kind": "suffix"}},
        {"policy": "das", "drafter": {"kind": "suffix"}},
        {"policy": "fixed:2", "drafter": {"kind": "ngram"}},
        {"policy": "fixed:3", "drafter": {"kind": "mtp", "curve": [0.8, 0.6, 0.5], "cost": {"per_pass_s": 0.001}}},
        {"policy": "fixed:3", "placement": "divided:stay=9"},
        {"placement": "longest_first"},
        {"engine": {"num_gpu_blocks": 60, "enable_prefix_caching": True}},
        {"engine": {"max_num_batched_tokens": 64, "async_scheduling": True}},
    ],
    ids=str,
)
def test_tokens_are_generated_or_reused(parts: dict[str, Any], remaining: str) -> None:
    trace = with_log_probs(example_trace())
    result = played({"name": "mine", "transforms": [verify(1.1, remaining=remaining)], **parts}, trace=trace)
    rollouts, steps, log = (result.to_pandas(name) for name in ("rollouts", "rl_steps", "steps"))
    run_ = result.runs.to_pylist()[0]
    assert len(rollouts) == len(trace)
    assert rollouts["output_tokens"].sum() == run_["output_tokens"] + run_["reused_tokens"]
    assert run_["output_tokens"] == log["emitted_tokens"].sum() == steps["output_tokens"].sum()
    assert run_["reused_tokens"] == rollouts["reused_tokens"].sum() == steps["reused_tokens"].sum() > 0
    before = dict(zip(zip(trace.step, trace.prompt, trace.sample, strict=True), range(len(trace)), strict=True))
    number = {name: at for at, name in enumerate(trace.prompt_ids)}
    for row in rollouts.itertuples():
        key = (row.step, number[row.prompt_id], row.sample)
        recorded = int(trace.output_tokens[before[key]])
        earlier = before.get((row.step - 1, *key[1:]))
        if earlier is None:
            assert (row.reused_tokens, row.output_tokens) == (0, recorded)
            continue
        verified = int(trace.output_tokens[earlier])
        goal = recorded if remaining == "recorded" else verified
        assert row.output_tokens == (verified if row.reused_tokens == verified else max(goal, row.reused_tokens + 1))
    assert (rollouts["accepted_tokens"] <= rollouts["drafted_tokens"]).all()
    assert (rollouts["first_token_s"] <= rollouts["finished_s"]).all()


def test_time_per_token_is_that_of_generated_ones() -> None:
    result = played({"name": "mine", "transforms": [verify(1)]})
    rollouts = result.to_pandas("rollouts")
    generated = rollouts["output_tokens"] - rollouts["reused_tokens"]
    more = generated > 1
    assert 0 < more.sum() < len(rollouts)
    each_s = (rollouts["finished_s"] - rollouts["first_token_s"])[more] / (generated[more] - 1)
    run_ = result.runs.to_pylist()[0]
    assert run_["tpot_s"] == pytest.approx(each_s.mean())
    assert run_["mean_acceptance_length"] == pytest.approx(generated.sum() / rollouts["decode_steps"].sum())


def test_verifying_is_on_the_critical_path_before_generation() -> None:
    trace = with_log_probs(example_trace())
    result = played({"name": "mine", "transforms": [verify(1)]}, trace=trace)
    steps, spans = result.to_pandas("rl_steps"), result.to_pandas("spans")
    tokens = [int((trace.output_tokens + trace.prompt_tokens)[trace.step == step].sum()) for step in trace.steps]
    assert np.allclose(steps["verify_s"], [0.0, 1e-4 * tokens[0], 1e-4 * tokens[1]], rtol=1e-12)
    assert result.runs["verify_s"].to_pylist()[0] == pytest.approx(steps["verify_s"].sum())
    took_s = steps["sync_s"] + steps["verify_s"] + steps["makespan_s"] + steps["reward_s"] + steps["train_s"]
    assert np.allclose(steps["step_s"], took_s, rtol=0, atol=1e-9)
    mine = spans[spans["what"] == "verify"]
    assert mine["step"].tolist() == [1, 2]
    assert np.allclose(mine["end_s"], steps["start_s"][1:])
    assert np.allclose(mine["end_s"] - mine["start_s"], steps["verify_s"][1:])
    busy_s = result.to_pandas("steps")["duration_s"].sum()
    run_ = result.runs.to_pylist()[0]
    assert np.isclose(run_["train_gpu_s"], 2 * (run_["train_s"] + run_["verify_s"]))
    assert np.isclose(run_["idle_gpu_s"], 2 * run_["run_s"] - busy_s - 2 * (run_["train_s"] + run_["verify_s"]))


def test_training_and_judges_see_the_lengths_of_the_run() -> None:
    stages = ["reward:s_per_token=0.01", "update:s_per_token=1e-3"]
    result = played({"name": "mine", "stages": stages, "transforms": [verify(1, remaining="previous")]}, stages=[])
    rollouts, steps = result.to_pandas("rollouts"), result.to_pandas("rl_steps")
    for step, mine in rollouts.groupby("step"):
        tokens = mine["output_tokens"] + mine["prompt_tokens"]
        assert steps["train_s"][step] == pytest.approx(1e-3 * tokens.sum())
        judged_s = (mine["finished_s"] + 0.01 * tokens).max()
        assert steps["reward_s"][step] == pytest.approx(max(judged_s - steps["makespan_s"][step], 0))


def test_an_rl_step_alone_verifies_what_was_recorded_before_it() -> None:
    whole = played({"name": "mine", "transforms": [verify(1)]})
    alone = played({"name": "mine", "transforms": [verify(1)]}, steps=[2])
    for name in ("reused_tokens", "output_tokens", "verify_s", "makespan_s"):
        assert alone.rl_steps[name].to_pylist() == whole.rl_steps[name].to_pylist()[2:]
    with pytest.raises(InputError, match=r"system mine: no rollout of these RL steps has a token left to generate"):
        played({"name": "mine", "transforms": [verify(math.inf)]}, steps=[2])


def test_it_is_priced_as_the_log_probs_are() -> None:
    trace = with_log_probs(example_trace())
    result = played(
        {"name": "mine", "stages": ["log_probs:mfu=0.5"], "transforms": ["verify:mfu=0.5"]}, profile=None, model="qwen3-8b",
        device="h100", stages=[], trace=trace,
    )  # fmt: skip
    steps = result.to_pandas("rl_steps")
    # What is verified is the batch before, as it was recorded; only the first was trained on at those lengths.
    assert steps["verify_s"][1] == pytest.approx(steps["train_s"][0])
    assert "verify assumed: 2 FLOPs" in " ".join(result.about["warnings"])
    with pytest.raises(InputError, match="stage verify has no price"):
        played({"name": "mine", "transforms": ["verify"]}, stages=["update:seconds=1"])
    # As one of the passes that the scenario prices.
    alike = played(
        {"name": "mine", "transforms": ["verify"]}, stages=["log_probs:s_per_token=1e-3,passes=2"], trace=trace
    )
    own = played({"name": "mine", "transforms": ["verify:s_per_token=1e-3"]}, stages=[], trace=trace)
    assert alike.rl_steps["verify_s"].to_pylist() == own.rl_steps["verify_s"].to_pylist()


def test_a_scenario_or_trace_that_lacks_what_it_needs_leaves_it_out() -> None:
    trace, both = with_log_probs(example_trace()), [{"name": "sync"}, "spec_rl"]
    unpriced = run(build({"trace": "t", "profile": PROFILE, "systems": both}), trace)
    assert unpriced.about["left_out"]["spec_rl"].startswith("nothing says what a log-prob pass costs")
    document = {"trace": "t", "profile": PROFILE, "systems": both, "stages": ["log_probs:s_per_token=1e-5"]}
    assert not run(build(document), trace).about["left_out"]
    assert run(build(document), example_trace()).about["left_out"] == {"spec_rl": "no log-probs under a second policy"}
    apart = from_table(trace.table.filter(pa.array(trace.step != 1)), "apart")
    left_out = run(build(document), apart).about["left_out"]
    assert left_out["spec_rl"].startswith("RL step 2 repeats prompts of an older one than the last")


def test_what_cannot_begin_with_kept_prefixes_is_refused() -> None:
    plain = with_log_probs(example_trace())
    rewarded = from_table(plain.table.append_column("reward", pa.array(np.arange(len(plain)) * 1.0)), "rewarded")
    for loop in ("one_step_async", "partial:rollouts=10", "streaming:rollouts=12", "refill"):
        with pytest.raises(InputError, match=rf"mine: earlier responses are verified .* loop {loop} waits for neither"):
            played({"name": "mine", "loop": loop, "transforms": [verify(1)]}, trace=rewarded)
    with pytest.raises(InputError, match="two transforms say what rollouts begin with"):
        played({"name": "mine", "transforms": [verify(1), verify(2)]})
    live = {"kind": "suffix", "siblings": "live"}
    with pytest.raises(InputError, match="the drafter drafts from what siblings write, which says nothing of rollouts"):
        played({"name": "mine", "policy": "fixed:2", "drafter": live, "transforms": [verify(1)]})
    arriving = from_table(plain.table.append_column("arrival_s", pa.array(np.arange(len(plain)) * 1.0)), "arriving")
    with pytest.raises(InputError, match=r"arriving: rollouts arrive one by one \(set engine.arrivals to false\)"):
        played({"name": "mine", "transforms": [verify(1)]}, trace=arriving)
    turns = [[{"generated_tokens": length, "wait_s": 0.0}] for length in plain.output_tokens.tolist()]
    kind = pa.list_(pa.struct([("generated_tokens", pa.int32()), ("wait_s", pa.float64())]))
    with pytest.raises(InputError, match="turns end at recorded tokens, which says nothing"):
        played(
            {"name": "mine", "transforms": [verify(1)]},
            trace=from_table(plain.table.append_column("turns", pa.array(turns, kind)), "t"),
        )
