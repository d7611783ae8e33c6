"""Partial rollouts: what is in flight, drawn, stopped, carried and scored adds up, and with nothing to stop it is sync."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from simulator.testing import example_trace
from traces.errors import InputError
from traces.io import from_table
from traces.trace import Trace

PROFILE = "h100-llama-3.1-8b-published"
S_PER_TOKEN = 1e-3


def made(seed: int, steps: int | None = None) -> Trace:
    """RL steps of equal groups, with lengths that differ a lot."""
    rng = np.random.default_rng(seed)
    steps, groups, samples = steps or int(rng.integers(2, 6)), int(rng.integers(1, 6)), int(rng.integers(1, 5))
    step, group, sample = np.indices((steps, groups, samples)).reshape(3, -1)
    count = step.size
    columns = {
        "step": step, "sample": sample, "prompt_tokens": rng.integers(1, 30, count),
        "output_tokens": np.ceil(np.exp(rng.normal(3, 1.2, count))),
    }  # fmt: skip
    ints = {name: pa.array(column.astype(np.int32)) for name, column in columns.items()}
    return from_table(pa.table({"prompt_id": [f"p{one}" for one in group], **ints}), "made")


def played(trace: Trace, *systems: dict[str, Any], slots: int = 1000, replicas: int = 2) -> Result:
    engine = {"max_num_seqs": slots, "replicas": replicas}
    document = {
        "trace": "made",
        "profile": PROFILE,
        "drafter": {"kind": "none"},
        "systems": [*systems],
        "engine": engine,
    }
    return run(build(document), trace)


def steps_of(loop: str, trace: Trace, slots: int = 1000, stage: str = "log_probs") -> tuple[pd.DataFrame, pd.DataFrame]:
    stages = [f"{stage}:s_per_token={S_PER_TOKEN}"]
    result = played(trace, {"name": "s", "loop": loop, "stages": stages}, slots=slots)
    return result.to_pandas("rl_steps"), result.to_pandas("rollouts")


@pytest.mark.parametrize("seed", range(100))
def test_tokens_carried_computed_again_and_scored_add_up(seed: int) -> None:
    """What an RL step puts out is what finished in it, and what the next one carries; each has its log-probs then, prompt and
    all. What is carried is computed again, prompt and all, and nothing else is: every rollout that is in flight has a slot.
    """  # fmt: skip
    trace, rng = made(seed), np.random.default_rng(seed)
    loop = f"partial:share={rng.choice([0.2, 0.7, 1, 2, 5])},prompts={rng.choice([1, 1.5, 2, 9])},log_probs=outputs"
    steps, rollouts = steps_of(loop, trace)
    prompt, output = trace.prompt_tokens.astype(int), trace.output_tokens.astype(int)
    assert sorted(rollouts["output_tokens"]) == sorted(output)
    assert steps["trained"].tolist() == [int((trace.step == step).sum()) for step in trace.steps]
    finished = (rollouts["prompt_tokens"] + rollouts["output_tokens"]).groupby(rollouts["step"]).sum()
    scored = (steps["train_s"] / S_PER_TOKEN).to_numpy()
    carried = np.append(steps["carried_tokens"].to_numpy()[1:], 0)
    # carried ones are computed again with their prompts; the same prompts are scored when they are stopped
    again = steps["recomputed_tokens"].to_numpy()
    prompts = np.append((again - steps["carried_tokens"])[1:], 0)
    for j, step in enumerate(steps["step"]):
        assert scored[j] == pytest.approx(finished.get(step, 0) + carried[j] + prompts[j], rel=1e-9)
    assert again[0] == 0
    assert (prompts >= 0).all()
    assert (prompts <= np.append(steps["carried"].to_numpy()[1:], 0) * prompt.max()).all()


@pytest.mark.parametrize("seed", range(40))
def test_other_stages_are_of_the_batch(seed: int) -> None:
    trace = made(seed)
    loop = "partial:share=2,log_probs="
    update = [steps_of(f"{loop}{what}", trace, stage="update")[0]["train_s"].tolist() for what in ("batch", "outputs")]
    assert update[0] == update[1]
    batch = steps_of(f"{loop}batch", trace)[0]
    assert np.isclose(batch["train_s"].sum(), S_PER_TOKEN * (trace.prompt_tokens + trace.output_tokens).sum())


def test_only_the_pass_of_the_sampling_policy_is_over_outputs() -> None:
    trace = made(4)
    one, two = (
        steps_of(f"partial:share=2,log_probs={what}", trace)[0]["train_s"].to_numpy() for what in ("batch", "outputs")
    )
    stages = [f"log_probs:passes=2,s_per_token={S_PER_TOKEN}"]
    both = played(trace, {"name": "s", "loop": "partial:share=2,log_probs=outputs", "stages": stages})
    assert np.allclose(both.to_pandas("rl_steps")["train_s"], one + two)
    assert (two.sum() - one.sum()) > 0


@pytest.mark.parametrize("seed", range(60))
def test_in_flight_is_the_share(seed: int) -> None:
    trace, share = made(seed), [0.3, 1.0, 1.7][seed % 3]
    per_step = int((trace.step == 0).sum())
    result = played(trace, {"name": "s", "loop": f"partial:share={share}"}, replicas=1)
    live = result.to_pandas("steps").groupby("step")["live"].max()
    most = max(round(share * per_step), 1)
    assert live.max() <= most
    assert live.iloc[0] == min(most, len(trace))
    same = played(trace, {"name": "s", "loop": f"partial:rollouts={most}"}, replicas=1)
    for table in ("rl_steps", "rollouts", "steps"):
        assert getattr(same, table) == getattr(result, table)


@pytest.mark.parametrize("seed", range(60))
def test_no_more_prompts_begin_than_were_drawn(seed: int) -> None:
    trace = made(seed)
    groups = len({prompt for prompt, step in zip(trace.prompt.tolist(), trace.step.tolist(), strict=True) if step == 0})
    samples = int((trace.step == 0).sum()) // groups
    for prompts in (1.0, 1.5, 2.0):
        result = played(trace, {"name": "s", "loop": f"partial:share=50,prompts={prompts}"}, replicas=1)
        live = result.to_pandas("steps").groupby("step")["live"].max().iloc[0]
        assert live == min(int(np.ceil(prompts * groups)) * samples, len(trace))


@pytest.mark.parametrize("seed", range(40))
def test_with_all_in_flight_and_all_needed_it_is_sync_to_the_bit(seed: int) -> None:
    trace = made(seed, steps=1)
    systems = [
        {
            "name": name,
            "loop": loop,
            "stages": ["reward:seconds=0.25,servers=2", "log_probs:s_per_token=1e-5", "update:seconds=1"],
        }
        for name, loop in (("sync", "sync"), ("partial", "partial:share=1,prompts=1,log_probs=outputs"))
    ]
    result = played(trace, *systems, slots=3)
    for table in ("rl_steps", "rollouts", "steps", "spans"):
        rows: Any = getattr(result, table)
        sync, partial = (
            rows.filter(pa.compute.equal(rows["system"], name)).drop_columns(["system"]) for name in ("sync", "partial")
        )
        assert sync == partial, table


@pytest.mark.parametrize("seed", range(40))
def test_with_as_many_prompts_drawn_as_needed_every_rl_step_is_syncs(seed: int) -> None:
    """Over several RL steps the clock does not begin at zero again, so seconds may differ in their last digits."""
    trace = made(seed)
    systems = [
        {"name": loop, "loop": loop, "stages": ["log_probs:s_per_token=1e-5", "update:seconds=1", "sync:seconds=0.5"]}
        for loop in ("sync", "partial:share=1,prompts=1,log_probs=outputs")
    ]
    steps = played(trace, *systems, slots=3).to_pandas("rl_steps")
    sync, partial = (
        steps[steps["system"] == one["name"]].drop(columns="system").reset_index(drop=True) for one in systems
    )
    pd.testing.assert_frame_equal(sync, partial, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("loop", "told"),
    [
        ("partial", "needs the rollouts in flight"),
        ("partial:rollouts=3,share=2", "needs the rollouts in flight"),
        ("partial:share=0", "give a number from 0.001"),
        ("partial:share=nan", "give a number from 0.001"),
        ("partial:rollouts=9,prompts=0.5", "give a number from 1"),
        ("partial:rollouts=9,log_probs=all", "use batch or outputs"),
        ("tests.scenario.test_partial:Scored", "scores_outputs is True"),
    ],
)
def test_what_means_nothing_is_refused(loop: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        build({"trace": "t", "profile": PROFILE, "systems": [{"name": "s", "loop": loop}]})


class Scored:
    """Is interrupted before it has anything to score."""

    lag = 1
    interrupts = True
    scores_outputs = True


def test_groups_of_a_trace_that_mixes_them_are_drawn_whole() -> None:
    trace = example_trace()
    order = np.lexsort((trace.prompt, trace.sample, trace.step))
    mixed = from_table(trace.table.take(pa.array(order)), "mixed")
    for loop in ("partial:share=0.5,prompts=1", "partial:share=3,prompts=1.3"):
        steps = played(mixed, {"name": "s", "loop": loop}).to_pandas("rl_steps")
        assert steps["trained"].tolist() == [15, 15, 15]
