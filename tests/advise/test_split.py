"""What chooses and what judges share no rollout, and history stays what was before."""

import numpy as np
import pytest

from simulator.advise.split import COPIES, MOST_JUDGED, MOST_SEARCHED, split
from traces.errors import InputError
from traces.io import from_table
from traces.synthesis import synth


def trace(prompts=6, steps=3):
    return from_table(synth(prompts=prompts, samples=3, steps=steps, median_tokens=20, max_tokens=60, seed=3))


def test_the_later_half_judges():
    parts = split(trace(steps=5))
    assert (parts.by, parts.searched.steps, parts.judged.steps) == ("RL steps", [0, 1], [2, 3, 4])
    assert parts.searched.trace is parts.judged.trace


def test_steps_that_are_not_asked_for_do_neither():
    parts = split(trace(steps=5), [1, 3])
    assert (parts.searched.steps, parts.judged.steps) == ([1], [3])


def test_one_rl_step_is_judged_after_those_before_it():
    parts = split(trace(steps=4), [2])
    assert (parts.by, parts.searched.steps, parts.judged.steps) == ("RL steps", [0, 1], [2])


def test_many_rl_steps_are_searched_late_and_judged_over_all_of_the_half():
    parts = split(trace(prompts=2, steps=40))
    assert parts.searched.steps == [*range(20 - MOST_SEARCHED, 20)]
    assert len(parts.judged.steps) == MOST_JUDGED
    assert (parts.judged.steps[0], parts.judged.steps[-1]) == (20, 39)


def test_the_first_rl_step_is_split_by_prompts_into_two_whole_batches():
    whole = trace(steps=1)
    parts = split(whole)
    assert parts.by == "prompts"
    halves = [{name.split(" ", 1)[1] for name in part.trace.prompt_ids} for part in (parts.searched, parts.judged)]
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == {*whole.prompt_ids}
    for part in (parts.searched, parts.judged):
        assert (len(part.trace), part.copies) == (len(whole), COPIES)
        lengths = [part.trace.output_tokens[part.trace.prompt == p].tolist() for p in np.unique(part.trace.prompt)]
        assert lengths[0::2] == lengths[1::2]  # each copy is of the same rollouts


def test_one_prompt_cannot_judge():
    with pytest.raises(InputError, match="one prompt and none before it"):
        split(trace(prompts=1, steps=1))
