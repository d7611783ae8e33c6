"""Groups of another width: what is kept, what is drawn, and how often groups are mixed."""

import time
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.special

from simulator.transforms.resolve import resolve_transform
from simulator.transforms.width import Width, width
from tests.transforms.traces import by_name, random_trace, trace_of
from traces.errors import InputError
from traces.io import from_table
from traces.trace import Trace
from traces.validation import validate

BY_TOKEN = {"token_ids", "logprobs", "accept_lengths", "draft_lengths", "prompt_token_ids"}


def groups(trace: Trace) -> dict[tuple[int, str], list[dict[str, Any]]]:
    """Rows of each group, those of lower samples first."""
    found = defaultdict(list)
    for row in sorted(trace.table.to_pylist(), key=lambda row: row["sample"]):
        found[row["step"], row["prompt_id"]].append(row)
    return found


def with_pass_rate(prompts: int, samples: int, chance: Any, seed: int = 0) -> Trace:
    """One RL step of groups whose answers are right with these probabilities, by prompt."""
    rng = np.random.default_rng(seed)
    right = rng.random((prompts, samples)) < np.broadcast_to(np.asarray(chance).reshape(-1, 1), (prompts, 1))
    prompt, sample = np.indices((prompts, samples)).reshape(2, -1)
    return trace_of(
        prompt_id=[f"p{number}" for number in prompt], sample=sample, prompt_tokens=np.full(prompt.size, 9),
        step=np.zeros(prompt.size, int), output_tokens=np.full(prompt.size, 7), reward=right.ravel().astype(float),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(150))
def test_rollouts_that_were_recorded_stay_as_they_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    trace, samples = random_trace(seed), int(rng.integers(1, 9))
    before, made = groups(trace), Width(samples).rollouts(trace, seed)
    validate(made.table, "made")
    grows = any(len(rows) < samples for rows in before.values())
    assert before.keys() == groups(made).keys()
    for name, rows in groups(made).items():
        assert len(rows) == samples
        own, drawn = rows[: len(before[name])], rows[len(before[name]) :]
        dropped = BY_TOKEN if grows else set()
        assert own == [{k: v for k, v in row.items() if k not in dropped} for row in before[name][:samples]]
        top = before[name][-1]["sample"]
        assert [row["sample"] for row in drawn] == list(range(top + 1, top + 1 + len(drawn)))
        for row in drawn:
            assert row | {"sample": 0} in [one | {"sample": 0} for one in own]
    if not grows:
        assert made.has_tokens == trace.has_tokens


@pytest.mark.parametrize("seed", range(60))
def test_a_wider_group_has_all_of_a_narrower_one(seed: int) -> None:
    trace = random_trace(seed)
    narrow, wide = (by_name(Width(samples).rollouts(trace, 3)) for samples in (9, 12))
    assert narrow == {name: wide[name] for name in narrow}
    assert by_name(Width(times=2).rollouts(trace, 3)).keys() >= by_name(trace).keys()


@pytest.mark.parametrize("seed", range(60))
def test_what_is_as_wide_already_is_returned_itself(seed: int) -> None:
    trace = random_trace(seed)
    assert Width().rollouts(trace, seed) is trace
    assert Width(times=1).rollouts(trace, seed) is trace
    even = Width(4).rollouts(trace, seed)
    assert Width(4, prior=0.5).rollouts(even, seed) is even


def test_drawn_rollouts_stand_behind_the_last_of_their_group() -> None:
    trace = trace_of(prompt_id=["a", "b", "a", "b"], sample=[1, 0, 0, 1], output_tokens=[1, 2, 3, 4])
    made = Width(3).rollouts(trace, 0).table
    assert made.column("prompt_id").to_pylist() == ["a", "b", "a", "a", "b", "b"]
    assert made.column("sample").to_pylist() == [1, 0, 0, 2, 1, 2]


def test_draws_are_uniform_over_the_group() -> None:
    made = Width(30_003).rollouts(trace_of(output_tokens=[1, 2, 3]), 5)
    counts = np.bincount(made.output_tokens[3:], minlength=4)[1:]
    z = (counts - 10_000) / np.sqrt(30_000 * (1 / 3) * (2 / 3))
    assert np.abs(z).max() < 4


@pytest.mark.parametrize("share", [0.2, 0.25, 0.5, 0.9])
def test_a_share_of_the_prompts_is_kept_and_of_all_alike(share: float) -> None:
    kept = np.zeros(20)
    trace = with_pass_rate(20, 2, 0.5)
    for seed in range(400):
        made = Width(prompts=share).rollouts(trace, seed)
        names = {int(name[1:]) for name in made.prompt_ids}
        assert len(names) == round(share * 20)
        assert len(made) == 2 * len(names)
        kept[list(names)] += 1
    z = (kept - 400 * share) / np.sqrt(400 * share * (1 - share))
    assert np.abs(z).max() < 4  # 80 values in all tests: less than one in 100 times by chance


def test_the_same_prompts_are_kept_in_every_rl_step() -> None:
    columns: dict[str, list[Any]] = {"step": [], "prompt_id": [], "sample": [], "output_tokens": []}
    for step in range(3):
        for prompt in range(8):
            for name, value in (("step", step), ("prompt_id", f"p{prompt}"), ("sample", 0), ("output_tokens", 5)):
                columns[name].append(value)
    made = Width(prompts=0.5).rollouts(trace_of(**columns), 1)
    found = groups(made).keys()
    assert {prompt for step, prompt in found if step == 0} == {prompt for step, prompt in found if step == 2}
    assert len(found) == 12


def test_a_prompt_is_left_of_every_rl_step() -> None:
    assert len(Width(prompts=0.01).rollouts(with_pass_rate(3, 2, 0.5), 0)) == 2


def mixed_share(trace: Trace) -> float:
    return Width().facts(trace)["mixed_groups"]


@pytest.mark.parametrize("samples", [2, 4, 16, 64])
@pytest.mark.parametrize("chance", [0.02, 0.3, 0.9])
def test_a_group_is_mixed_as_often_as_probability_says(samples: int, chance: float) -> None:
    trace, groups_ = with_pass_rate(4000, 64, chance), 4000
    expected = 1 - chance**samples - (1 - chance) ** samples
    found = mixed_share(Width(samples).rollouts(trace, 0))
    error = np.sqrt(max(expected * (1 - expected), 1e-4) / groups_)
    assert abs(found - expected) < 4 * error


def test_wider_groups_are_mixed_more_often() -> None:
    rng = np.random.default_rng(1)
    trace = with_pass_rate(600, 512, rng.beta(0.4, 0.6, 600))
    shares = [mixed_share(Width(samples).rollouts(trace, 0)) for samples in (2, 4, 8, 16, 64, 512)]
    assert shares == sorted(set(shares))


def test_copies_alone_mix_no_group_and_a_prior_does_as_it_says() -> None:
    trace = with_pass_rate(3000, 4, np.repeat([0.0, 1.0, 0.5], 1000))
    uniform = with_pass_rate(1, 4, 0.0)
    assert mixed_share(Width(64).rollouts(uniform, 0)) == 0
    assert mixed_share(Width(64).rollouts(trace, 0)) == mixed_share(trace)
    for prior in (0.5, 1.0, 3.0):
        made = Width(64, prior=prior).rollouts(trace, 0)
        validate(made.table, "made")
        # of a group with 4 of 4 alike, the other 60 are so, too, with the odds of a beta-binomial
        alike = np.exp(scipy.special.betaln(prior + 64, prior) - scipy.special.betaln(prior + 4, prior))
        rewards = made.table.column("reward").to_numpy().reshape(3000, 64)
        before = trace.table.column("reward").to_numpy().reshape(3000, 4)
        uniform_before = before.min(1) == before.max(1)
        still = (rewards.min(1) == rewards.max(1))[uniform_before]
        z = (still.mean() - alike) / np.sqrt(alike * (1 - alike) / still.size)
        assert abs(z) < 4


def test_with_a_prior_lengths_are_those_of_the_same_reward_where_the_group_has_it() -> None:
    trace = trace_of(output_tokens=[10, 11, 3, 4], reward=[1, 1, 0, 0])
    made = Width(4000, prior=1.0).rollouts(trace, 0).table.to_pandas()
    assert (made["output_tokens"] >= 10).equals(made["reward"] == 1)
    assert set(made["output_tokens"]) == {3, 4, 10, 11}
    many = trace_of(prompt_id=["a", "a", "b"], sample=[0, 1, 0], output_tokens=[8, 9, 7], reward=[0.9, 0.1, 0.75])
    made = Width(900, prior=1.0).rollouts(many, 0).table.to_pandas()
    of_b = made[made["prompt_id"] == "b"]
    assert set(of_b["reward"]) == {0.75, np.float32(0.1)}, "what the group has, else the least of all"
    assert set(of_b["output_tokens"]) == {7}
    assert set(made[made["prompt_id"] == "a"]["reward"]) == {np.float32(0.9), np.float32(0.1)}
    alone = Width(4000, prior=1.0).rollouts(trace_of(output_tokens=[10, 11], reward=[1, 1]), 0).table.to_pandas()
    assert set(alone["reward"]) == {0, 1}
    assert set(alone["output_tokens"]) == {10, 11}


def test_drawn_rewards_and_lengths_follow_their_laws() -> None:
    """Of 3 right of 4, rollouts drawn besides are right with (P + 3) / (2 P + 4) on average, each right one as often."""
    groups_, prior = 3000, 0.5
    prompt, sample = np.indices((groups_, 4)).reshape(2, -1)
    trace = trace_of(
        prompt_id=[f"p{one}" for one in prompt], sample=sample, step=np.zeros(prompt.size, int), prompt_tokens=prompt,
        output_tokens=10 + sample, reward=(sample != 2).astype(float),
    )  # fmt: skip
    made = Width(24, prior=prior).rollouts(trace, 4)
    drawn = made.sample > 3
    lengths = made.output_tokens[drawn]
    right = made.table.column("reward").to_numpy()[drawn]
    assert ((lengths != 12) == (right == 1)).all()
    chance, total = (prior + 3) / (2 * prior + 4), 2 * prior + 4
    shares = right.reshape(groups_, 20).mean(axis=1)
    spread = np.sqrt(chance * (1 - chance) * (1 / 20 + (19 / 20) / (total + 1)))  # of a beta-binomial share
    assert abs(shares.mean() - chance) < 4 * spread / np.sqrt(groups_)
    counts = np.array([(lengths == one).sum() for one in (10, 11, 13)])
    z = (counts - counts.sum() / 3) / np.sqrt(counts.sum() * 2 / 9)
    assert np.abs(z).max() < 4


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("width", "changes nothing"),
        ("width:", "changes nothing"),
        ("width:prior=1", "changes nothing"),
        ("width:samples=0", "whole number from 1"),
        ("width:samples=1e3", "whole number"),
        ("width:samples=100001", "100000"),
        ("width:times=-1", "whole number"),
        ("width:samples=2,times=2", "two widths"),
        ("width:prompts=0", "number from 1e-09 to 1"),
        ("width:prompts=nan", "number from"),
        ("width:prompts=1.5", "number from"),
        ("width:samples=4,prior=-1", "number from 0"),
        ("width:samples=4,samples=5", "twice"),
        ("width:wide=4", "use samples=, times=, prompts=, prior="),
        ("width:4", "write key=value"),
    ],
)
def test_what_cannot_be_is_refused(spec: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        resolve_transform(spec)


def test_what_a_trace_lacks_is_named() -> None:
    with pytest.raises(InputError, match="1 rollouts have no reward"):
        Width(4, prior=1.0).rollouts(trace_of(output_tokens=[3]), 0)
    with pytest.raises(InputError, match="2 rollouts have no reward"):
        Width(4, prior=1.0).rollouts(trace_of(output_tokens=[3, 3, 3], reward=[0.1, None, float("nan")]), 0)
    with pytest.raises(InputError, match="begin at 0"):
        Width(4).rollouts(trace_of(output_tokens=[3], sample=[2**31 - 1]), 0)


def test_half_a_million_rollouts_take_little_time() -> None:
    step, prompt, sample = np.indices((10, 128, 16)).reshape(3, -1)
    names = pa.array([f"p{one}" for one in prompt.tolist()])
    numbers = {
        "step": step,
        "sample": sample,
        "prompt_tokens": prompt,
        "output_tokens": sample * 7 + 1,
        "reward": sample % 2,
    }
    trace = from_table(pa.table({"prompt_id": names} | {name: pa.array(values) for name, values in numbers.items()}))
    for one in (width("samples=512"), width("samples=512,prior=0.5")):
        started = time.perf_counter()
        assert len(one.rollouts(trace, 0)) == 655_360
        assert time.perf_counter() - started < 60  # some 0.5 s; a loop over pairs would take hours
