"""Workloads of rollouts that begin with kept prefixes, against loops over their tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.drafting.acceptance import Acceptance
from simulator.drafting.drafter import past_rows
from simulator.drafting.suffix import Suffix
from simulator.engine.workload import workload_of
from simulator.resumed import relaid, resumed
from simulator.testing import example_trace
from simulator.transforms.prefixes import Kept, previous_rows

TRACE = example_trace()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.booleans())
def test_drafts_are_as_recorded_at_the_same_place(seed: int, prefix: bool) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, rng.integers(1, 6))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tables = {budget: rng.integers(0, 4, (int(offsets[-1]), 2)).astype(np.uint8) for budget in range(256)}
    for table in tables.values():
        table[:, 1] += table[:, 0]
    found = Acceptance(offsets, lambda budget: tables[255 if prefix else budget], prefix)
    rows = np.sort(rng.choice(lengths.size, rng.integers(1, lengths.size + 1), replace=False))
    tokens = rng.integers(1, 12, rows.size)
    other = relaid(found, rows, tokens)
    for budget in (1, 3):
        other.serve([budget])
        table, at = other.tables[other.table_of[budget]], 0
        for row, total in zip(rows.tolist(), tokens.tolist(), strict=True):
            for position in range(total):
                accepted, drafted = (0, 0)
                if position < lengths[row]:
                    accepted, drafted = tables[255 if prefix else budget][offsets[row] + position].tolist()
                assert table[at].tolist() == [min(accepted, total - position), drafted]
                at += 1
        assert at == other.offsets[-1] == len(table)


@pytest.mark.parametrize("seed", range(5))
def test_rollouts_say_the_prefix_then_what_was_recorded(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(TRACE.step == 1)
    previous, lengths = previous_rows(TRACE, rows), TRACE.output_tokens
    previous[rng.random(rows.size) < 0.2] = -1
    prefix = np.array([rng.integers(0, lengths[b] + 1) if b >= 0 else 0 for b in previous])
    recorded = lengths[rows].astype(np.int64)
    total = np.where(previous < 0, recorded, np.maximum(prefix + rng.integers(0, 9, rows.size), 1))
    acceptance = Suffix().accept(TRACE, rows, past_rows(TRACE, 1, 16))
    workload = workload_of(TRACE, rows, acceptance, None, arrivals=False)
    found = resumed(workload, TRACE, rows, Kept(previous, prefix, total))
    left = [i for i in range(rows.size) if prefix[i] < total[i]]
    assert len(found) == len(left)
    assert found.begun_tokens.tolist() == [prefix[i] for i in left]
    assert found.output_tokens.tolist() == [total[i] for i in left]
    assert found.prompt.tolist() == workload.prompt[left].tolist()
    assert found.texts is not None
    for place, i in enumerate(left):
        own = TRACE.tokens[TRACE.offsets[rows[i]] :][: recorded[i]].tolist()
        before = TRACE.tokens[TRACE.offsets[previous[i]] :][: lengths[previous[i]]].tolist() if previous[i] >= 0 else []
        said = before[: prefix[i]] + own[prefix[i] :]
        said = (said + before[len(said) :])[: total[i]]
        start = found.texts.output_starts[place]
        assert found.texts.outputs[start : start + len(said)].tolist() == said


def test_where_nothing_is_kept_it_is_the_same_workload() -> None:
    rows = np.flatnonzero(TRACE.step == 1)
    workload = workload_of(TRACE, rows, Suffix().accept(TRACE, rows, rows[:0]), None, arrivals=False)
    nothing = Kept(
        previous_rows(TRACE, rows), np.zeros(rows.size, np.int64), TRACE.output_tokens[rows].astype(np.int64)
    )
    assert resumed(workload, TRACE, rows, nothing) is workload
