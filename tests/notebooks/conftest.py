"""The notebooks, each executed once."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest

from tests.notebooks.executed import FOLDER, Cell, execute


class Executed(NamedTuple):
    """What comes of a percent file now: its cells and variables; and the notebook that is kept beside it."""

    cells: list[Cell]
    names: dict[str, Any]
    kept: dict[str, Any]


@pytest.fixture(scope="session")
def executed() -> Callable[[str], Executed]:
    @cache
    def run(name: str) -> Executed:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("ROLLOUTSIM_TRACE", raising=False)
            cells, names = execute(FOLDER / f"{name}.py")
        return Executed(cells, names, json.loads((FOLDER / f"{name}.ipynb").read_text("utf-8")))

    return run
