"""Rewards by judges, in whole runs: when they begin, what they read, and what is refused."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from simulator.testing import example_trace, with_rewards
from traces.errors import InputError
from traces.io import from_table
from traces.trace import Trace

PROFILE = "h100-llama-3.1-8b-published"


def played(*systems: dict[str, Any], trace: Trace | None = None) -> Result:
    document = {
        "trace": "example", "profile": PROFILE, "systems": list(systems), "engine": {"max_num_seqs": 4, "replicas": 2},
    }  # fmt: skip
    return run(build(document), trace or example_trace())


@pytest.mark.parametrize("loop", ["sync", "one_step_async", "partial:rollouts=10", "streaming:rollouts=12,lag=1"])
def test_to_judge_after_the_batch_is_in_no_loop_faster(loop: str) -> None:
    judge = "reward:seconds=0.5,servers=2"
    result = played(*(
        {"name": when, "loop": loop, "stages": [f"{judge},when={when}", "update:seconds=0.1"]} for when in ("rollout", "batch")
    ))  # fmt: skip
    early, late = result.runs.to_pylist()
    assert late["run_s"] >= early["run_s"]
    assert late["output_tokens"] == early["output_tokens"]


def test_after_the_batch_rewards_take_a_round_for_so_many_servers() -> None:
    """15 rollouts on 4 servers: four rounds of half a second after generation, in every RL step."""
    result = played({"name": "s", "stages": ["reward:seconds=0.5,servers=4,when=batch", "update:seconds=1"]})
    steps = result.to_pandas("rl_steps")
    assert np.allclose(steps["reward_s"], 2.0, rtol=0, atol=1e-9)
    assert np.allclose(steps["step_s"], steps["makespan_s"] + 2.0 + 1.0)


def test_servers_can_be_a_share_of_the_rollouts() -> None:
    """15 rollouts an RL step: 0.4 of them are 6 servers, and a share of nearly none is one."""
    stages = [
        "reward:seconds=0.5,share=0.4,when=batch",
        "reward:seconds=0.5,servers=6,when=batch",
        "reward:seconds=0.5,share=0.001,when=batch",
    ]
    result = played(*({"name": stage, "stages": [stage, "update:seconds=1"]} for stage in stages))
    shared_s, given_s, alone_s = (
        result.to_pandas("rl_steps").query("system == @stage")["reward_s"].to_numpy() for stage in stages
    )
    assert (shared_s == given_s).all()
    assert np.allclose(alone_s, 7.5, rtol=0, atol=1e-9)


def test_a_rule_first_and_a_judge_once_the_batch_is_there() -> None:
    stages = ["reward:seconds=0.25", "reward:seconds=0.5,servers=15,when=batch", "update:seconds=1"]
    steps = played({"name": "s", "stages": stages}).to_pandas("rl_steps")
    assert np.allclose(steps["reward_s"], 0.75, rtol=0, atol=1e-9)


def test_what_a_judge_cannot_be_is_refused() -> None:
    cases = {
        "reward:seconds=1,hold=maybe": r"hold=maybe: use yes or no",
        "reward:seconds=1,when=later": r"when=later: use rollout or batch",
        "reward:seconds=1,growth=0.5": r"growth=0.5: give a number from 1 to 100",
        "reward:seconds=1,growth=nan": r"growth=nan: give a number from 1 to 100",
        "reward:seconds=1,servers=3,share=0.5": r"has servers and share: one says how many there are",
        "reward:seconds=1,share=2": r"share=2: give a number from 0 to 1",
        "reward:servers=3": r"needs one of seconds=, column= and file=, such as seconds=2, or s_per_token=",
        "reward:seconds=1,column=x": r"needs one of seconds=, column= and file=",
        "reward:seconds=1,reference=prompt_tokens": r"has a reference, whose tokens cost nothing: give s_per_token=, too",
        "reward:s_per_token=-1": r"s_per_token=-1: give a number from 0",
    }
    for stage, told in cases.items():
        with pytest.raises(InputError, match=told):
            build({"trace": "t", "profile": PROFILE, "systems": [{"name": "s", "stages": [stage]}]})
    trace = example_trace()
    worse = from_table(trace.table.append_column("theirs", pa.array(np.full(len(trace), 0.5))), "t")
    for column, told in (
        ("theirs", r"row 0: 0.5 is no number of tokens"),
        ("prompt_id", "holds no numbers"),
        ("x", "no column 'x'"),
    ):
        with pytest.raises(InputError, match=told):
            played({"name": "s", "stages": [f"reward:s_per_token=1e-5,reference={column}"]}, trace=worse)
    with pytest.raises(
        InputError, match=r"loop refill keeps groups by rewards before it has a batch.*leave when=batch out"
    ):
        played({"name": "s", "loop": "refill", "stages": ["reward:seconds=1,when=batch"]}, trace=with_rewards(trace))
