"""The shipped recording is of a run that learns, its rollouts have a heavy tail, and history helps if it is the prompt's own."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "traces" / "data" / "countdown.parquet"


@pytest.fixture
def variables(executed):
    return executed("recorded_run").names


def test_it_is_the_shipped_trace_of_the_size_it_says(variables):
    trace, origin = variables["TRACE"], variables["ORIGIN"]
    assert variables["PATH"].samefile(SHIPPED)
    assert SHIPPED.stat().st_size < 15e6
    assert len(trace.prompt_ids) >= 64
    assert len(trace.steps) >= 20
    assert len(trace) == len(trace.steps) * len(trace.prompt_ids) * origin["settings"]["samples"]
    assert origin["command"].startswith("rolloutsim calibrate record --out ")
    assert {"hardware", "versions", "settings", "phases", "sft_s"} <= set(origin)


def test_the_reward_rises(variables):
    reward, quarter = variables["REWARD"], variables["QUARTER"]
    assert variables["Z_SCORE"] >= 3
    assert reward[-quarter:].min() > reward[:quarter].max()


def test_lengths_have_a_heavy_tail(variables):
    trace, cut = variables["TRACE"], variables["TRUNCATED"]
    assert variables["TAIL"] >= 5  # an exponential distribution has 6.6, a normal one with a third of its mean 1.8
    assert (trace.output_tokens[cut] == variables["CAP"]).all()


def test_the_problems_own_past_helps_and_another_problems_does_not(variables):
    for own, other in variables["GAIN"].values():
        assert own > 0.1
        assert other < own / 2


def test_logprobs_are_of_two_policies(variables):
    table, old, new = variables["TRACE"].table, variables["OLD"], variables["NEW"]
    assert (old <= 0).all()
    assert (new <= 0).all()
    assert (old != new).mean() > 0.5
    assert (variables["OUTSIDE"] < 0.2).all()
    assert pc.all(pc.equal(pc.list_value_length(table.column("next_logprobs")), table.column("output_tokens"))).as_py()


def test_each_steps_rollouts_come_from_the_policy_after_the_step_before(variables):
    """A token that a step's policy finds hard, at the start of a response, is as rare in the next step as it said."""
    trace, steps = variables["TRACE"], variables["STEPS"]
    first = trace.tokens[trace.offsets[:-1]]
    new = variables["NEW"][trace.offsets[:-1]]
    scores = []
    for step in steps[:-1]:
        here, there = np.flatnonzero(trace.step == step), trace.step == step + 1
        for prompt in range(len(trace.prompt_ids)):
            mine = here[trace.prompt[here] == prompt]
            chance = dict(zip(first[mine].tolist(), np.exp(new[mine]).tolist(), strict=True))
            drawn = first[there & (trace.prompt == prompt)]
            for token, probability in chance.items():
                expected, variance = drawn.size * probability, drawn.size * probability * (1 - probability)
                if variance > 0.1:
                    scores.append(((drawn == token).sum() - expected) / np.sqrt(variance))
    scores = np.array(scores)
    assert scores.size > 500
    assert abs(scores.mean() * np.sqrt(scores.size)) < 5  # scores within a prompt depend on each other a little
    assert 0.7 < scores.var() < 1.3
