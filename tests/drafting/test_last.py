"""The last rollout of the slot as draft, compiled, against search through lists."""

import random

import numpy as np
import pyarrow as pa
import pytest

from simulator.drafting.acceptance import count_at
from simulator.drafting.drafter import past_rows
from simulator.drafting.last import Last, latest_of_slot
from simulator.drafting.settings import LastSettings
from tests.drafting.rollouts import Case, random_case, replay_rows
from tests.reference.lookup import Slot, draft_last, measured, previous_of
from traces.io import from_table
from traces.trace import Trace


def slots(case: Case) -> list[tuple[list[int] | None, list[int]]]:
    """(previous, current) rollout of each slot of step 1, in the order of the trace."""
    return [
        (past[sample] if sample < len(past) else None, output)
        for past, group in zip(case.past, case.now, strict=True)
        for sample, output in enumerate(group)
    ]


@pytest.mark.parametrize("seed", range(120))
def test_every_position_drafts_and_accepts_what_search_does(seed: int) -> None:
    rng = random.Random(f"last{seed}")
    case = random_case(rng, prompts=6, samples=4, longest=60)
    for past, group in zip(case.past, case.now, strict=True):  # some rollouts begin as the previous one did
        for sample, previous in enumerate(past[: len(group)]):
            if rng.random() < 0.5:
                group[sample] = previous[: rng.randint(0, len(previous))] + group[sample]
    drafter = Last(resync=rng.random() < 0.8, min_match=rng.randint(1, 4))
    trace = case.trace()
    acceptance = drafter.accept(trace, replay_rows(trace), past_rows(trace, 1, drafter.window))
    assert acceptance.prefix
    found = acceptance.tables[0].tolist()
    for i, (previous, output) in enumerate(slots(case)):
        for p in range(len(output)):
            draft = draft_last(previous, output[:p], drafter.resync, drafter.min_match, 255)
            expected = measured(draft, output[p:])
            assert tuple(found[acceptance.offsets[i] + p]) == expected, (drafter, previous, output, p)
    budget = rng.choice((0, 1, 2, 5))  # one table serves them all: the draft of a budget is a prefix of the longest
    steps = drafted = accepted = 0
    for previous, output in slots(case):
        p = 0
        while p < len(output):
            draft = draft_last(previous, output[:p], drafter.resync, drafter.min_match, budget)
            right, proposed = measured(draft, output[p:])
            steps, drafted, accepted, p = steps + 1, drafted + proposed, accepted + right, p + right + 1
    counts = count_at(acceptance, budget)
    assert (counts.sequence_steps, counts.drafted_tokens, counts.accepted_tokens) == (steps, drafted, accepted)


def trace_of(steps: list[dict[Slot, list[int]]]) -> Trace:
    """The rollouts of each RL step by slot; the rows in no particular order."""
    rows = [(step, *slot, tokens) for step, group in enumerate(steps) for slot, tokens in group.items()]
    random.Random(len(rows)).shuffle(rows)
    columns = {
        "step": pa.array([row[0] for row in rows], pa.int32()),
        "prompt_id": pa.array([row[1] for row in rows]),
        "sample": pa.array([row[2] for row in rows], pa.int32()),
        "prompt_tokens": pa.array([0] * len(rows), pa.int32()),
        "output_tokens": pa.array([len(row[3]) for row in rows], pa.int32()),
        "token_ids": pa.array([row[3] for row in rows], pa.list_(pa.int32())),
    }
    return from_table(pa.table(columns))


@pytest.mark.parametrize("seed", range(20))
def test_the_source_is_the_latest_rollout_of_the_slot_in_the_window(seed: int) -> None:
    rng = random.Random(f"slots{seed}")
    every = [(prompt, sample) for prompt in "abc" for sample in range(3)]
    steps: list[dict[Slot, list[int]]] = [
        {slot: rng.choices(range(3), k=rng.randint(1, 9)) for slot in every if rng.random() < 0.6} for _ in range(4)
    ]
    steps = [step or {("a", 0): [1]} for step in steps]
    trace = trace_of(steps)
    rows = np.flatnonzero(trace.step == 3)
    for window in (1, 2, 3):
        past = past_rows(trace, 3, window)
        for row, source in zip(rows, latest_of_slot(trace, rows, past), strict=True):
            slot = (trace.prompt_ids[trace.prompt[row]], int(trace.sample[row]))
            previous = None if source < 0 else trace.tokens[trace.offsets[source] : trace.offsets[source + 1]].tolist()
            assert previous == previous_of(slot, steps[3 - window : 3])
        table = Last(window=window).accept(trace, rows, past).tables[0]
        offsets = np.concatenate([[0], np.cumsum(trace.output_tokens[rows])])
        for i, row in enumerate(rows):
            slot = (trace.prompt_ids[trace.prompt[row]], int(trace.sample[row]))
            expected = measured(draft_last(previous_of(slot, steps[3 - window : 3]), [], True, 2, 255), steps[3][slot])
            assert tuple(table[offsets[i]]) == expected


def test_a_repeated_rollout_is_accepted_whole_and_a_loop_is_found_again() -> None:
    n = 32_768  # far too long for anything that walks back through the loop at every position
    case = Case([[]], [[[7] * n, [7] * n]], [[[7] * n, [8] + [7] * n]])
    trace = case.trace()
    acceptance = Last().accept(trace, replay_rows(trace), past_rows(trace, 1, 1))
    same, shifted = acceptance.tables[0][:n], acceptance.tables[0][n:]
    left = np.minimum(n - np.arange(n), 255)
    np.testing.assert_array_equal(same, np.stack([left, left], axis=1))
    # After the 8 the longest match of p - 1 sevens ends at p - 1 and later; p is nearest, and followed but at the very end.
    assert shifted[:3].tolist() == [[0, 255], [0, 0], [0, 0]]
    np.testing.assert_array_equal(shifted[3:-1, 1], np.minimum(n - np.arange(3, n), 255))
    np.testing.assert_array_equal(shifted[3:-1, 0], shifted[3:-1, 1])


def test_settings_and_names() -> None:
    assert LastSettings().drafter() == Last(window=1, resync=True, min_match=2)
    assert Last().describe() == "last(window=1, resync, min_match=2)"
    assert Last(resync=False).describe() == "last(window=1, no resync)"
    assert Last().lossless
    assert Last().learns_from == {"history"}
