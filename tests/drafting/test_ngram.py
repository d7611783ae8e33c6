"""Prompt lookup, compiled, against search through lists: drafted and accepted at every position and budget."""

import random

import numpy as np
import pytest

from simulator.drafting.acceptance import count_at
from simulator.drafting.ngram import Ngram
from simulator.drafting.settings import NgramSettings
from simulator.scenario import build
from tests.drafting.rollouts import Case, random_case, replay_rows
from tests.reference.lookup import draft_ngram, measured
from traces.errors import InputError


@pytest.mark.parametrize("seed", range(80))
def test_every_position_drafts_and_accepts_what_search_does(seed: int) -> None:
    rng = random.Random(f"ngram{seed}")
    case = random_case(rng, prompts=6, samples=3, longest=60)
    shortest = rng.randint(1, 6)
    drafter = Ngram(shortest, rng.randint(shortest, 9))
    trace = case.trace()
    acceptance = drafter.accept(trace, replay_rows(trace), np.empty(0, np.int64))
    assert acceptance.prefix
    rollouts = [(case.prompts[number], output) for number, group in enumerate(case.now) for output in group]
    found = acceptance.tables[0].tolist()
    for i, (prompt, output) in enumerate(rollouts):
        for p in range(len(output)):
            draft = draft_ngram(prompt + output[:p], drafter.prompt_lookup_min, drafter.prompt_lookup_max, 255)
            assert tuple(found[acceptance.offsets[i] + p]) == measured(draft, output[p:]), (drafter, prompt, output, p)
    budget = rng.choice((0, 1, 2, 5))  # one table serves them all: the draft of a budget is a prefix of the longest
    steps = drafted = accepted = 0
    for prompt, output in rollouts:
        p = 0
        while p < len(output):
            draft = draft_ngram(prompt + output[:p], drafter.prompt_lookup_min, drafter.prompt_lookup_max, budget)
            right, proposed = measured(draft, output[p:])
            steps, drafted, accepted, p = steps + 1, drafted + proposed, accepted + right, p + right + 1
    counts = count_at(acceptance, budget)
    assert (counts.sequence_steps, counts.drafted_tokens, counts.accepted_tokens) == (steps, drafted, accepted)


def test_a_long_loop_is_drafted_from_its_first_turn() -> None:
    n = 32_768  # far too long for anything that walks back through the loop at every position
    table = (
        Ngram()
        .accept(trace := Case([[]], [[[1]]], [[[7] * n]]).trace(), replay_rows(trace), replay_rows(trace))
        .tables[0]
    )
    tokens = np.arange(n)
    np.testing.assert_array_equal(table[:, 1], np.minimum(np.maximum(tokens - 5, 0), 255))
    np.testing.assert_array_equal(table[:, 0], np.minimum(table[:, 1], n - tokens))


def test_prompts_that_were_not_recorded_are_not_searched() -> None:
    case = Case([[1, 2, 3]], [[[1]]], [[[1, 2, 3, 1, 2]]])
    trace = case.trace()
    bare = type(trace)(trace.table.drop_columns(["prompt_token_ids"]), trace.source, trace.sha256)
    drafter = Ngram(1, 2)
    with_prompt = drafter.accept(trace, replay_rows(trace), np.empty(0, np.int64)).tables[0]
    without = drafter.accept(bare, replay_rows(bare), np.empty(0, np.int64)).tables[0]
    assert with_prompt[:, 1].tolist() == [0, 3, 3, 3, 3]
    assert without[:, 1].tolist() == [0, 0, 0, 0, 3]


def test_settings_are_those_of_vllm() -> None:
    assert NgramSettings().drafter() == Ngram(5, 5)
    assert NgramSettings(prompt_lookup_max=4).drafter() == Ngram(4, 4)
    assert NgramSettings(prompt_lookup_min=2).drafter() == Ngram(2, 2)
    with pytest.raises(InputError, match="no longer than the longest"):
        NgramSettings(prompt_lookup_min=3, prompt_lookup_max=2).drafter()
    document = {
        "trace": "t",
        "profile": "p",
        "policies": ["none"],
        "drafter": {"kind": "ngram", "prompt_lookup_max": 3},
    }
    assert build(document).drafter.drafter() == Ngram(3, 3)
    with pytest.raises(InputError, match=r"prompt_lookup_min.*0"):
        build(document | {"drafter": {"kind": "ngram", "prompt_lookup_min": 0}})
