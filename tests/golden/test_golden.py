"""Nothing moved: every stored figure comes out again, floats to nine digits and everything else as it is.

What a change means to move is written anew with `python -m tests.golden` and stands in the changelog under Results changed.
Processors differ in the last digits of powers and exponentials, and in fits by least squares (`facts`), which agree to four.
Columns that are new since the figures were stored are not looked at.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.figures import STORED, figures
from tests.golden.scenarios import SCENARIOS

FIGURES: dict[str, Any] = json.loads(STORED.read_text("utf-8"))
TEXT = {"errors": 1e-9, "facts": 1e-4}
"""Columns of JSON as text, and how closely their numbers agree."""


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
            kept = {key: row[key] for key in row_before if key not in TEXT}
            assert kept == approximately({key: row_before[key] for key in kept}, 1e-9)
            for name, relative in TEXT.items():
                held, held_before = json.loads(row.get(name, "{}")), json.loads(row_before.get(name, "{}"))
                assert held == approximately(held_before, relative)


def approximately(figures: Any, relative: float) -> Any:
    """The same with every float compared so closely."""
    if isinstance(figures, dict):
        return {key: approximately(value, relative) for key, value in figures.items()}
    if isinstance(figures, list):
        return [approximately(value, relative) for value in figures]
    return pytest.approx(figures, rel=relative, abs=0.0) if isinstance(figures, float) else figures
