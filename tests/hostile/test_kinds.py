"""Hostile inputs of every kind end in a right answer or in one line."""

import pytest

from tests.hostile.kinds import KINDS, faults


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_inputs(kind: str) -> None:
    tried, found = faults(kind, 0)
    assert tried > 40
    assert not found, "\n".join(found[:20])
