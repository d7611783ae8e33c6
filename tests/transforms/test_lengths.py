"""Lengths that shrink and grow: the law, the cap, and what is left of each column."""

from typing import Any

import numpy as np
import pytest

from simulator.transforms.lengths import Compress, Grow
from simulator.transforms.resolve import resolve_transform
from tests.transforms.traces import by_name, random_trace, trace_of, turns_of
from traces.errors import InputError
from traces.validation import validate

BY_TOKEN = {"token_ids", "logprobs", "accept_lengths", "draft_lengths"}


def expected(row: dict[str, Any], factor: float, cap: int, tokens: bool) -> dict[str, Any]:
    """What becomes of a rollout, by definition."""
    wanted = max(round(row["output_tokens"] * factor), 1)
    length = min(wanted, cap)
    made = {name: value for name, value in row.items() if tokens or name not in BY_TOKEN} | {"output_tokens": length}
    for name in BY_TOKEN & made.keys():
        made[name] = made[name][:length]
        if name == "accept_lengths":
            made[name] = [min(one, length - at) for at, one in enumerate(made[name])]
    if wanted > cap:
        made["finish_reason"] = "length"
        if "reward" in made:
            made["reward"] = 0.0
    return made


@pytest.mark.parametrize("seed", range(300))
def test_each_rollout_becomes_what_the_definition_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    trace = random_trace(seed, binary=False)
    cap = int(rng.integers(1, 15))
    first = trace.steps[0]
    if seed % 2:
        factor, over = float(rng.choice([1.0, 0.9, 0.4, 0.05])), int(rng.integers(0, 6))
        one: Any = Compress(to=factor, over=over, cap=cap)
        factors = {step: factor ** (min((step - first) / over, 1.0) if over else 1.0) for step in trace.steps}
    else:
        factor = float(rng.choice([1.0, 1.1, 2.0, 0.7]))
        one, factors = Grow(factor, cap), {step: np.power(factor, float(step - first)) for step in trace.steps}
    made = one.rollouts(trace, 0)
    validate(made.table, "made")
    scaled = any(
        max(round(row["output_tokens"] * factors[row["step"]]), 1) != row["output_tokens"]
        for row in trace.table.to_pylist()
    )
    rows = {name: expected(row, factors[row["step"]], cap, not scaled) for name, row in by_name(trace).items()}
    found = by_name(made)
    if "finish_reason" in made.table.column_names:
        rows = {name: {"finish_reason": None} | row for name, row in rows.items()}
    assert list(found) == list(rows)
    assert found == rows


@pytest.mark.parametrize("seed", range(100))
def test_order_and_law_hold(seed: int) -> None:
    """Shorter stays shorter; a later RL step has shrunk no less."""
    trace = random_trace(seed)
    made = Compress(to=0.3, cap=6).rollouts(trace, 0) if len(trace.steps) > 1 else trace
    for step in trace.steps:
        mine = trace.step == step
        before, after = trace.output_tokens[mine], made.output_tokens[mine]
        order = np.argsort(before, kind="stable")
        assert (np.diff(after[order]) >= 0).all()
        assert (after <= before).all()


def test_the_last_rl_step_reaches_what_was_asked_for() -> None:
    trace = trace_of(step=[3, 4, 5, 7], output_tokens=[1000] * 4)
    assert Compress(to=0.0625).rollouts(trace, 0).output_tokens.tolist() == [1000, 500, 250, 62]
    assert Compress(to=0.0625, over=2).rollouts(trace, 0).output_tokens.tolist() == [1000, 250, 62, 62]
    assert Compress(to=0.0625, over=0).rollouts(trace, 0).output_tokens.tolist() == [62] * 4
    assert Grow(2.0, 4500).rollouts(trace, 0).output_tokens.tolist() == [1000, 2000, 4000, 4500]


def test_a_cap_may_be_a_share_of_the_first_mean() -> None:
    trace = trace_of(step=[0, 0, 1], output_tokens=[100, 300, 400], reward=[1, 1, 1])
    made = Compress(cap_share=0.5).rollouts(trace, 0)
    assert made.output_tokens.tolist() == [100, 100, 100]
    assert made.table.column("reward").to_pylist() == [1, 0, 0]
    assert made.table.column("finish_reason").to_pylist() == [None, "length", "length"]
    assert Compress(cap_share=0.5).facts(made) == {"mean_tokens": 100, "truncated_share": 2 / 3, "mean_reward": 1 / 3}


@pytest.mark.parametrize("seed", range(60))
def test_what_changes_nothing_returns_the_trace_itself(seed: int) -> None:
    trace = random_trace(seed)
    assert Compress(cap=12).rollouts(trace, 0) is trace
    assert Compress().rollouts(trace, 0) is trace
    assert Grow().rollouts(trace, 0) is trace
    assert Grow(1.0, 12).rollouts(trace, 0) is trace


@pytest.mark.parametrize("seed", range(100))
def test_turns_end_with_the_rollout(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 20, 6).tolist()
    trace, cap = trace_of(output_tokens=lengths, turns=[turns_of(rng, n) for n in lengths]), int(rng.integers(1, 20))
    made = Compress(cap=cap).rollouts(trace, 0)
    validate(made.table, "made")
    for before, after in zip(trace.table.to_pylist(), made.table.to_pylist(), strict=True):
        assert (before["turns"] is None) == (after["turns"] is None)
        if before["turns"] is None:
            continue
        left, wanted = cap, []
        for turn in before["turns"]:
            if left > 0:
                ends = before["output_tokens"] > cap and turn["generated_tokens"] >= left
                wanted.append({
                    "generated_tokens": min(turn["generated_tokens"], left), "wait_s": 0.0 if ends else turn["wait_s"],
                })  # fmt: skip
            left -= turn["generated_tokens"]
        assert after["turns"] == wanted


def test_what_is_too_long_for_a_number_is_cut() -> None:
    trace = trace_of(step=[0, 2000], output_tokens=[10, 10])
    assert Grow(1000.0, 50).rollouts(trace, 0).output_tokens.tolist() == [10, 50]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("compress", "neither how far"),
        ("compress:over=4", "neither how far"),
        ("compress:to=0", "number from 1e-06 to 1"),
        ("compress:to=1.2", "number from"),
        ("compress:to=nan", "number from"),
        ("compress:cap=0", "whole number from 1"),
        ("compress:cap=0.5", "whole number from 1"),
        ("compress:cap=5,cap_share=2", "two caps"),
        ("compress:cap_share=-1", "number from"),
        ("compress:to=0.5,over=-1", "whole number"),
        ("compress:limit=5", "use cap=, cap_share=, to=, over="),
        ("grow", "needs a factor"),
        ("grow:window=10", "needs a factor"),
        ("grow:factor=0", "number from 0.001"),
        ("grow:factor=inf", "number from"),
        ("grow:factor=2,window=0", "whole number from 1"),
    ],
)
def test_what_cannot_be_is_refused(spec: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        resolve_transform(spec)


def test_what_a_trace_lacks_is_named() -> None:
    with pytest.raises(InputError, match=r"one RL step only.*over=0"):
        Compress(to=0.5).rollouts(trace_of(output_tokens=[9]), 0)
    turns = [[{"generated_tokens": 9, "wait_s": 1.0}]]
    with pytest.raises(InputError, match="turns"):
        Compress(to=0.5, over=0).rollouts(trace_of(output_tokens=[9], turns=turns), 0)
