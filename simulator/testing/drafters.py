"""Conformance of a drafter."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from simulator.cost.draft_cost import DraftCost
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.drafter import Drafter, past_rows
from simulator.limits import LARGEST_BUDGET
from simulator.testing.examples import SEED, example_trace
from traces.io import from_table
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]

PLAIN = ("step", "prompt_id", "sample", "prompt_tokens", "prompt_token_ids")


def check_drafter(drafter: Drafter, trace: Trace | None = None) -> None:
    """Assert that a drafter keeps its contract.

    Checked: tables are uint8; accepted <= drafted <= budget; what is accepted ends with the rollout; smaller budgets get no more;
    where it says that one table serves all budgets the smaller budget's draft is a prefix; the same seed gives the same tables
    and the order of the rollouts does not matter; what is drafted at a position does not depend on tokens after it, nor on
    where the rollout ends, nor on other rollouts of the same RL step, nor on RL steps outside its window.
    """
    trace = trace or example_trace()
    rows = np.flatnonzero(trace.step == trace.steps[-1])
    past = past_rows(trace, trace.steps[-1], drafter.window)
    assert isinstance(drafter.cost, DraftCost), "cost is a DraftCost"
    assert isinstance(drafter.lossless, bool), "lossless is True or False"
    assert drafter.describe(), "describe() names it"
    acceptance = drafter.accept(trace, rows, past, SEED)
    left = _left(acceptance)
    before = None
    for budget in (0, 1, 3, 8, LARGEST_BUDGET):
        accepted, drafted = _table(acceptance, budget)
        assert (accepted <= drafted).all(), "no more is accepted than drafted"
        assert (drafted <= budget).all(), "a draft keeps to its budget"
        assert (accepted <= left).all(), "what is accepted ends with the rollout"
        if acceptance.prefix and before is not None:
            assert (accepted >= before).all(), "a larger budget accepts no less"
        before = accepted
        repeated = _table(drafter.accept(trace, rows, past, SEED), budget)
        assert (accepted == repeated[0]).all(), "the same seed gives the same drafts"
        assert (drafted == repeated[1]).all(), "the same seed gives the same drafts"
        backwards = drafter.accept(trace, rows[::-1].copy(), past, SEED)
        for table, other in zip((accepted, drafted), _table(backwards, budget), strict=True):
            parts = np.split(other, backwards.offsets[1:-1])[::-1]
            assert (table == np.concatenate(parts)).all(), "the order of the rollouts does not matter"
        if "siblings" not in drafter.learns_from:
            for i in (0, rows.size - 1):
                alone = _table(drafter.accept(trace, rows[i : i + 1], past, SEED), budget)
                span = slice(acceptance.offsets[i], acceptance.offsets[i + 1])
                assert (alone[1] == drafted[span]).all(), "siblings are not known yet"
    if drafter.needs_tokens:
        _check_no_foresight(drafter, trace, rows, past)


def _check_no_foresight(drafter: Drafter, trace: Trace, rows: Int64, past: Int64) -> None:
    longest = int(rows[trace.output_tokens[rows].argmax()])
    half = int(trace.output_tokens[longest]) // 2
    changed = from_table(trace.table, trace.source)
    start = trace.offsets[longest]
    tokens = changed.tokens.copy()
    tokens[start + half : start + int(trace.output_tokens[longest])] += 1
    vars(changed)["tokens"] = tokens  # where the trace keeps what it has flattened once
    one, short = np.array([longest]), _cut(trace, longest, half)
    for budget in (1, 8):
        drafted = _table(drafter.accept(trace, one, past, SEED), budget)[1]
        other = _table(drafter.accept(changed, one, past, SEED), budget)[1]
        assert (drafted[: half + 1] == other[: half + 1]).all(), "a draft must not depend on tokens after it"
        ended = _table(drafter.accept(short, one, past, SEED), budget)[1]
        assert (drafted[:half] == ended).all(), "a draft must not depend on where the rollout ends"


def _cut(trace: Trace, row: int, tokens: int) -> Trace:
    """The trace with one rollout shorter, its tokens and lengths alone."""
    table = trace.table.combine_chunks()
    kept: dict[str, Any] = {name: table.column(name) for name in table.column_names if name in PLAIN}
    for name, value in (("output_tokens", tokens), ("token_ids", table.column("token_ids")[row].as_py()[:tokens])):
        column = table.column(name)
        kept[name] = pa.chunked_array(
            [*column.slice(0, row).chunks, pa.array([value], column.type), *column.slice(row + 1).chunks]
        )
    return from_table(pa.table(kept), trace.source)


def _table(acceptance: Acceptance, budget: int) -> tuple[Int64, Int64]:
    acceptance.serve([budget])
    table = acceptance.tables[acceptance.table_of[budget]]
    assert table.dtype == np.uint8, "tables are uint8"
    accepted, drafted = np.minimum(table.astype(np.int64), budget).T
    return accepted, drafted


def _left(acceptance: Acceptance) -> Int64:
    lengths = np.diff(acceptance.offsets)
    return np.repeat(acceptance.offsets[1:], lengths) - np.arange(int(acceptance.offsets[-1]))
