"""Published systems that transform their workload: switched off they are the baseline; what they do is arithmetic."""

from typing import Any

import numpy as np
import pytest

from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from simulator.testing import example_trace, with_rewards
from simulator.transforms.tables import with_column
from tests.transforms.traces import trace_of
from traces.errors import InputError
from traces.trace import Trace

PROFILE = "h100-llama-3.1-8b-published"
NOTHING = {"kind": "none"}
OFF = {
    "width": ["width:times=1", "width:prompts=1"],
    "compress": ["compress:to=1,cap=100000"],
    "grow": ["grow:factor=1"],
    "latent": ["latent:span=8,steps=2,share=0"],
}


def played(trace: Trace, *systems: Any, **engine: Any) -> Result:
    settings = {"max_num_seqs": 8, "replicas": 2} | engine
    return run(build({"trace": "made up", "profile": PROFILE, "systems": [*systems], "engine": settings}), trace)


def of(result: Result, table: str, system: str) -> Any:
    found = result.to_pandas(table)
    own = found[found["system"] == system]
    return own.drop(
        columns=["system", "wall_s", "transforms", "assumes", "changed", "lossless"], errors="ignore"
    ).reset_index(drop=True)


@pytest.mark.parametrize("transforms", OFF.values(), ids=OFF)
@pytest.mark.parametrize("policy", ["none", "fixed:3"])
def test_switched_off_is_the_baseline_to_the_bit(transforms: list[str], policy: str) -> None:
    plain = {"name": "plain", "policy": policy, "drafter": {"kind": "suffix"}}
    result = played(with_rewards(example_trace()), plain, plain | {"name": "off", "transforms": transforms})
    for table in ("runs", "rl_steps", "rollouts", "steps"):
        assert of(result, table, "off").equals(of(result, table, "plain")), table


def test_rewards_alone_change_no_second() -> None:
    result = played(with_rewards(example_trace()), "sync", {"name": "s", "policy": "none", "transforms": ["cosine"]})
    for table in ("rl_steps", "rollouts", "steps"):
        assert of(result, table, "s").equals(of(result, table, "sync")), table


def test_the_published_files_run_and_say_what_they_assume() -> None:
    trace = with_rewards(example_trace())
    names = ["sync", "brorl", "dler", "litereason", "long_cot"]
    runs = played(trace, *names).to_pandas("runs").set_index("system")
    assert runs.index.tolist() == names
    assert runs["lossless"].to_dict() == {
        "sync": True,
        "brorl": True,
        "dler": False,
        "litereason": False,
        "long_cot": False,
    }
    assert (runs.loc[names[1:], "assumes"].str.len() > 10).all()


def test_the_result_tells_what_transforms_made_of_the_workload() -> None:
    trace = trace_of(output_tokens=[10, 60, 100], reward=[0, 1, 1])
    system = {"name": "s", "drafter": NOTHING, "transforms": ["compress:cap=50", "width:samples=3"]}
    told = played(trace, system).document()["runs"][0]["changed"]
    assert told["compress"] == pytest.approx({"mean_tokens": 110 / 3, "truncated_share": 2 / 3, "mean_reward": 0})
    assert told["width"] == {"mixed_groups": 0.0}


def groups_of(rewards: Any, samples: int, needed: int) -> Trace:
    """RL steps of so many groups of 5 tokens, with a reward for each rollout; rewards: of all rollouts, group by group."""
    number = np.arange(rewards.size) // samples
    return trace_of(
        step=number // needed, prompt_id=[f"p{one}" for one in number], sample=np.arange(rewards.size) % samples,
        prompt_tokens=np.full(rewards.size, 3), output_tokens=np.full(rewards.size, 5), reward=rewards.astype(float),
    )  # fmt: skip


REFILL = {"name": "refill", "loop": "refill", "drafter": NOTHING}


def generated(trace: Trace) -> list[int]:
    """Rollouts that each RL step generates under refill."""
    return played(trace, REFILL).to_pandas("rl_steps")["rollouts"].tolist()


@pytest.mark.parametrize("every", [1, 2, 3])
def test_an_rl_step_generates_its_samples_over_the_share_of_groups_kept(every: int) -> None:
    """Where the last of every so many groups is mixed, it takes just as many times the rollouts."""
    samples, needed, steps = 4, 6, 6
    mixed = np.arange(needed * steps) % every == every - 1
    rewards = np.where(np.arange(samples) % 2, mixed[:, None], False).ravel()
    assert generated(groups_of(rewards, samples, needed)) == [samples * needed * every] * (steps // every)


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("samples", [4, 16])
def test_samples_per_rl_step_follow_from_the_pass_rate(chance: float, samples: int) -> None:
    """Groups until the r-th mixed one are negative binomial: r / q of them on average, with variance r (1 - q) / q^2."""
    needed, steps = 40, 30
    rewards = np.random.default_rng(samples).random((needed * steps, samples)) < chance
    found = generated(groups_of(rewards.ravel(), samples, needed))
    kept = needed * len(found)
    share = 1 - chance**samples - (1 - chance) ** samples
    z = (sum(found) / samples - kept / share) / np.sqrt(max(kept * (1 - share), 1e-3) / share**2)
    assert abs(z) < 4


def test_of_hard_prompts_wider_groups_are_kept_more_often() -> None:
    """As many rollouts of fewer prompts: more of them are trained on."""
    rewards = np.random.default_rng(0).random((400, 32)) < 0.05
    kept = {}
    for width, prompts in ((4, 40), (32, 5)):
        trace = groups_of(rewards.ravel(), 32, 40)
        system = REFILL | {"transforms": [f"width:samples={width},prompts={prompts / 40}"]}
        row = played(trace, system).to_pandas("runs").iloc[0]
        kept[width] = row["samples_per_s"] * row["run_s"] / row["rollouts"]
    assert kept[32] > 1.5 * kept[4]


@pytest.mark.parametrize(("tokens", "span", "steps"), [(720, 30, 8), (114, 38, 11)])
def test_latent_steps_alone_take_the_time_of_their_forward_passes(tokens: int, span: int, steps: int) -> None:
    """At batch 1 a decode step takes nearly the same whatever it writes: the ratio of seconds is that of tokens."""
    trace = trace_of(output_tokens=[tokens] * 3, prompt_tokens=[1] * 3)
    systems = [{"name": "text", "drafter": NOTHING}]
    systems.append(systems[0] | {"name": "latent", "transforms": [f"latent:span={span},steps={steps}"]})
    result = played(trace, *systems, max_num_seqs=1, replicas=1).to_pandas("runs").set_index("system")
    ratio = result.loc["latent", "makespan_s"] / result.loc["text", "makespan_s"]
    assert result.loc["latent", "output_tokens"] == 3 * (tokens // span) * steps
    assert ratio == pytest.approx(steps / span, rel=0.02)  # the context is shorter, too


def test_a_capped_response_replays_its_recorded_drafts() -> None:
    """A cap leaves the drafts before it as they were: what is cut is decoded as the whole one up to there."""
    trace = example_trace()
    system = {"name": "cut", "policy": "fixed:3", "drafter": {"kind": "suffix"}, "transforms": ["compress:cap=50"]}
    whole = played(trace, system | {"name": "whole", "transforms": []}).to_pandas("rollouts")
    cut = played(trace, system).to_pandas("rollouts")
    assert (cut["output_tokens"] == whole["output_tokens"].clip(upper=50)).all()
    assert cut["accepted_tokens"].sum() > 0
    first = whole["step"] == 0  # no history yet: a short rollout drafts from its own output alone
    short = first & (whole["output_tokens"] <= 50)
    assert short.any()
    assert cut.loc[short, "accepted_tokens"].equals(whole.loc[short, "accepted_tokens"])


UNFIT = {
    "turns": ("litereason", "have turns"),
    "arrival_s": ("brorl", "engine.arrivals"),
    "reward": ("dler", "no reward in 1 of its rows"),
}
"""A column that a trace has more of, or less, and one of the systems that cannot do with it, and why."""


@pytest.mark.parametrize("name", UNFIT)
def test_a_system_that_cannot_run_a_trace_is_left_out_and_others_run(name: str) -> None:
    trace = with_rewards(example_trace())
    rewards = trace.table["reward"].to_pylist()
    values = {
        "turns": [[{"generated_tokens": tokens, "wait_s": 1.0}] for tokens in trace.output_tokens.tolist()],
        "arrival_s": np.arange(len(trace)) * 0.25,
        "reward": [float("nan"), *rewards[1:]],
    }
    trace = with_column(trace, name, values[name])
    system, why = UNFIT[name]
    result = played(trace, "sync", system)
    assert result.runs["system"].to_pylist() == ["sync"]
    assert why in result.about["left_out"][system]
    with pytest.raises(InputError, match=why):
        played(trace, system)


def test_a_system_whose_loop_keeps_no_group_is_left_out() -> None:
    trace = groups_of(np.zeros(60), 5, 4)
    told = played(trace, "sync", REFILL).about["left_out"]
    assert "loop refill keeps too few groups for one RL step" in told["refill"]
    with pytest.raises(InputError, match="too few groups"):
        played(trace, REFILL, "sync")
