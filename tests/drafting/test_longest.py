"""Longest matching, compiled, against the brute-force replay: drafted and accepted at every position."""

import random

import numpy as np
import pyarrow as pa
import pytest

from simulator.drafting.acceptance import Acceptance, count_at, count_each
from simulator.drafting.drafter import past_rows
from simulator.drafting.suffix import Suffix
from tests.drafting.rollouts import Case, random_case, random_drafter, replay_rows
from tests.reference.suffix import replay_longest, sequence_steps
from traces.io import from_table

SEEDS = range(50)


def accept(drafter: Suffix, case: Case) -> Acceptance:
    trace = case.trace()
    return drafter.accept_from(trace, replay_rows(trace), drafter.learn(trace, past_rows(trace, 1, drafter.window)))


@pytest.mark.parametrize("scope", ["problem", "global", "request"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("prompt", [True, False])
def test_every_position_drafts_and_accepts_what_brute_force_does(scope: str, own: bool, prompt: bool) -> None:
    drafted_tokens = 0
    for seed in SEEDS:
        rng = random.Random(f"{seed}{scope}{own}{prompt}")
        case = random_case(rng, prompts=9, samples=4, longest=40)
        d = random_drafter(rng, scope, own, prompt, "longest")
        acceptance = accept(d, case)
        assert acceptance.tables.shape[0] == 1, "one table serves every budget"
        table, offsets = acceptance.tables[0], acceptance.offsets
        settings = {"depth": d.depth, "factor": d.factor, "min_prob": d.min_prob, "use_own": own}
        for i, (history, prompt_tokens, output) in enumerate(case.replayed(scope, d.depth, prompt)):
            accepted, drafted = replay_longest(history, prompt_tokens, output, **settings)
            part = table[offsets[i] : offsets[i + 1]]
            assert (part[:, 1].tolist(), part[:, 0].tolist()) == (drafted, accepted), (
                d,
                history,
                prompt_tokens,
                output,
            )
            drafted_tokens += sum(drafted)
    assert (drafted_tokens > 0) == (own or scope != "request")


@pytest.mark.parametrize("seed", range(12))
def test_counts_at_a_constant_budget_equal_decoding_step_by_step(seed: int) -> None:
    rng = random.Random(f"{seed}count")
    case = random_case(rng, prompts=6, samples=3, longest=40)
    d = random_drafter(rng, rng.choice(("problem", "global", "request")), True, bool(seed % 2), "longest")
    trace = case.trace()
    rows, history = replay_rows(trace), d.learn(trace, past_rows(trace, 1, d.window))
    replayed = case.replayed(d.scope, d.depth, d.prompt)
    settings = {"depth": d.depth, "factor": d.factor, "min_prob": d.min_prob}
    for budget in (0, 1, 2, 5, 255):
        each = [sequence_steps(*rollout, budget, **settings) for rollout in replayed]
        counts = d.count(trace, rows, history, budget)
        assert (counts.sequence_steps, counts.drafted_tokens, counts.accepted_tokens) == tuple(np.sum(each, axis=0))
        assert (counts.rollouts, counts.output_tokens) == (len(replayed), sum(len(r[2]) for r in replayed))
        acceptance = d.accept_from(trace, rows, history)
        assert counts == count_at(acceptance, budget)
        np.testing.assert_array_equal(count_each(acceptance, budget).T, each)


def test_budget_of_zero_drafts_nothing_and_has_no_acceptance_rate() -> None:
    case = Case([[]], [[[1, 2, 3]]], [[[1, 2, 3]]])
    counts = count_at(accept(Suffix(), case), 0)
    assert (counts.sequence_steps, counts.drafted_tokens, counts.draft_acceptance_rate) == (3, 0, None)
    counts = count_at(accept(Suffix(), case), 1)  # 1, then 2 drafted after it, accepted, and the bonus token 3
    assert (counts.sequence_steps, counts.mean_acceptance_length, counts.draft_acceptance_rate) == (2, 1.5, 1.0)


def test_drafts_end_at_255_tokens_which_is_the_largest_budget() -> None:
    case = Case([[]], [[[5] * 1000]], [[[5] * 600]])
    table = accept(Suffix(own=False, depth=64, factor=8.0), case).tables[0]
    assert table.max() == 255
    tokens = np.arange(600)
    np.testing.assert_array_equal(table[:, 1], np.minimum(8 * np.minimum(tokens, 63), 255))
    np.testing.assert_array_equal(table[:, 0], np.minimum(table[:, 1], 600 - tokens))


def test_history_is_the_window_of_steps_before() -> None:
    whole = Case([[1]], [[[1, 2]]], [[[1, 2], [3]]]).trace()
    at = whole.table.column_names.index("step")
    steps = pa.array([3, 1, 4], pa.int32())  # one rollout each, not in the order of time
    trace = from_table(whole.table.set_column(at, whole.table.schema.field(at), steps))
    assert past_rows(trace, 4, 1).tolist() == [0]
    assert past_rows(trace, 4, 2).tolist() == [1, 0]
    assert past_rows(trace, 5, 9).tolist() == [1, 0, 2]
    assert past_rows(trace, 1, 9).tolist() == []
