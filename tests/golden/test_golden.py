"""Nothing moved: every stored figure comes out again, to the bit.

What a change means to move is written anew with `python -m tests.golden` and stands in the changelog under Results changed.
Fits by least squares (`facts`) may differ in the last digits between processors, so those agree to nine. Columns that are
new since the figures were stored are not looked at.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.figures import STORED, figures
from tests.golden.scenarios import SCENARIOS

FIGURES: dict[str, Any] = json.loads(STORED.read_text("utf-8"))


def test_every_scenario_has_figures() -> None:
    assert list(FIGURES) == list(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_moved(name: str, request: pytest.FixtureRequest) -> None:
    golden = SCENARIOS[name]
    data: Path | None = request.getfixturevalue("shared_data") if golden.trace.startswith("shared:") else None
    found, stored = figures(golden, data), FIGURES[name]
    for table, before in stored.items():
        pairs = zip(found[table], before, strict=True) if isinstance(before, list) else [(found[table], before)]
        for row, row_before in pairs:
            assert {key: row[key] for key in row_before if key != "facts"} == without_facts(row_before)
            assert json.loads(row.get("facts", "{}")) == approximately(json.loads(row_before.get("facts", "{}")))


def without_facts(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "facts"}


def approximately(facts: Any) -> Any:
    """The facts with every float compared to nine digits."""
    if isinstance(facts, dict):
        return {key: approximately(value) for key, value in facts.items()}
    return pytest.approx(facts, rel=1e-9) if isinstance(facts, float) else facts
