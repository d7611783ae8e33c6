"""Whoever makes a drafter's tables, they are what the engine reads, or an error says what they are instead."""

from typing import Any

import numpy as np
import pytest

from simulator.drafting.acceptance import Acceptance, count_each, no_drafts
from simulator.limits import LARGEST_BUDGET
from traces.errors import InputError

RIGHT = np.array([[0, 2], [1, 1], [3, 4]], np.uint8)


@pytest.mark.parametrize("prefix", [True, False], ids=["one table", "a table a budget"])
@pytest.mark.parametrize(
    ("table", "message"),
    [
        (RIGHT.tolist(), "a drafter's table is list: it must be uint8[3, 2]"),
        (RIGHT.astype(np.int64), "a drafter's table is int64[3, 2]: it must be uint8[3, 2]"),
        (RIGHT[:2], "a drafter's table is uint8[2, 2]: it must be uint8[3, 2]"),
        (RIGHT[:, ::-1], "more accepted than drafted at position 0: mend the drafter"),
    ],
)
def test_tables_that_no_engine_can_read_are_refused(table: Any, message: str, prefix: bool) -> None:
    with pytest.raises(InputError) as refused:
        Acceptance(np.array([0, 1, 3]), lambda budget: table, prefix).serve([4])
    assert message in str(refused.value)


@pytest.mark.parametrize("prefix", [True, False], ids=["one table", "a table a budget"])
def test_a_table_is_served_as_it_was_made(prefix: bool) -> None:
    made = Acceptance(np.array([0, 1, 3]), lambda budget: RIGHT, prefix)
    made.serve([4])
    assert made.tables[made.table_of[4]].tolist() == RIGHT.tolist()


def test_where_nothing_is_drafted_there_is_no_table() -> None:
    """A hundred million million tokens: any table of theirs would need more memory than there is."""
    acceptance = no_drafts(np.array([0, 10**14]))
    acceptance.serve([0, 3, LARGEST_BUDGET])
    assert acceptance.serves(np.array([7]))
    assert acceptance.laid_out.tolist() == [(0, 0)]
    assert count_each(acceptance, 4).tolist() == [[10**14], [0], [0]]
