"""run(): the tables agree with each other, with the trace and with the engine's own figures."""

import numpy as np
import pyarrow.compute
import pytest

from simulator.replay import run
from simulator.scenario import Scenario, build
from traces.io import from_table
from traces.synthesis import synth
from traces.trace import Trace

POLICIES = ["none", "fixed:3", "unlimited", "threshold:4@2", "das"]


@pytest.fixture(scope="module")
def trace() -> Trace:
    return from_table(synth(prompts=8, samples=4, steps=3, median_tokens=120, max_tokens=600, seed=5), "made")


def scenario(**changes: object) -> Scenario:
    base = {"trace": "made", "profile": "h100-llama-3.1-8b-published", "policies": POLICIES,
            "engine": {"max_num_seqs": 6, "replicas": 2}}  # fmt: skip
    return build({**base, **changes})


@pytest.mark.parametrize("match", ["longest", "scored"])
def test_tables_agree(trace: Trace, match: str) -> None:
    result = run(scenario(drafter={"match": match}), trace)
    runs, rollouts, steps = (t.to_pandas() for t in (result.runs, result.rollouts, result.steps))
    assert runs["policy"].tolist() == POLICIES
    assert (runs["output_tokens"] == trace.output_tokens.sum()).all()
    for run_ in runs.itertuples():
        mine = rollouts[rollouts["system"] == run_.policy]
        log = steps[steps["system"] == run_.policy]
        assert len(mine) == run_.rollouts == len(trace)
        assert mine["drafted_tokens"].sum() == log["drafted_tokens"].sum() == run_.drafted_tokens
        assert mine["accepted_tokens"].sum() == log["accepted_tokens"].sum() == run_.accepted_tokens
        assert log["emitted_tokens"].sum() == run_.output_tokens
        assert mine["decode_steps"].sum() == log["live"].sum() == run_.sequence_steps
        assert len(log) == run_.decode_steps
        assert mine.groupby("step")["finished_s"].max().sum() == pytest.approx(run_.makespan_s, rel=1e-12)
        late = mine[mine["straggler"]]
        assert (late["finished_s"] > 0.9 * late.groupby("step")["finished_s"].transform("max")).all()
        ends = log["start_s"] + log["duration_s"]
        starts = log["start_s"].shift(-1)
        same = (log["replica"].shift(-1) == log["replica"]) & (log["step"].shift(-1) == log["step"])
        assert np.allclose(ends[same], starts[same], rtol=1e-12)
    assert runs["speedup"].iloc[0] == 1
    by_step = result.rl_steps.to_pandas()
    assert len(by_step) == len(POLICIES) * 3
    sums = by_step.groupby("system")[["makespan_s", "drafted_tokens", "straggler_s"]].sum()
    assert np.allclose(sums.loc[runs["policy"]], runs[["makespan_s", "drafted_tokens", "straggler_s"]])
    assert runs.loc[runs["policy"] == "none", "drafted_tokens"].item() == 0


def test_history_is_frozen_and_past_only(trace: Trace) -> None:
    """What an RL step drafts does not change when the trace ends with it, and changes when its past goes."""
    whole = run(scenario(steps=[1]), trace).runs.drop_columns(["wall_s"])
    cut = trace.select(trace.step <= 1)
    assert run(scenario(steps=[1]), cut).runs.drop_columns(["wall_s"]) == whole
    alone = run(scenario(steps=[1]), trace.select(trace.step == 1)).runs
    accepted = pyarrow.compute.sum(alone.column("accepted_tokens")).as_py()
    assert accepted < pyarrow.compute.sum(whole.column("accepted_tokens")).as_py()


def test_the_result_says_what_it_rests_on(trace: Trace) -> None:
    about = run(scenario(steps=[0, 2], seed=7), trace).about
    assert about["seed"] == 7
    assert about["trace"]["sha256"] == trace.sha256
    assert len(about["profile"]["sha256"]) == 64
    assert any("no recorded step before" in note for note in about["warnings"])
    assert run(scenario(steps=[2]), trace).about["warnings"] == [
        note for note in about["warnings"] if "no recorded step before" not in note
    ]


def test_drafter_none_needs_no_tokens(trace: Trace) -> None:
    lengths = Trace(trace.table.drop_columns(["token_ids", "prompt_token_ids"]), "made", "0" * 64)
    without = run(scenario(policies=["none", "das"], drafter={"kind": "none"}), lengths).runs.to_pylist()
    with_ = run(scenario(policies=["none"]), trace).runs.to_pylist()
    assert without[0]["makespan_s"] == with_[0]["makespan_s"]
    assert without[1]["drafted_tokens"] == 0
