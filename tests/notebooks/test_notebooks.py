"""The notebooks run from top to bottom, the ones with outputs show what they say now, and what they claim holds together."""

import base64
import io
import re
from collections.abc import Callable

import nbformat
import numpy as np
import pytest
from matplotlib import pyplot as plt

from tests.notebooks.conftest import Executed
from tests.notebooks.executed import FOLDER, NAMES, cells_of, execute
from traces.errors import InputError

MINE = re.compile(r"/(tmp|home|root|work|Users|opt)/|\d\d:\d\d:\d\d")
LARGEST = 200_000
"""Bytes of a notebook."""


def text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def outputs(kept: dict[str, object], kind: str) -> list[list[dict[str, object]]]:
    """Outputs of one kind, by code cell."""
    cells = [cell for cell in kept["cells"] if cell["cell_type"] == "code"]
    return [[one for one in cell["outputs"] if one["output_type"] == kind] for cell in cells]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_the_cells_of_its_percent_file(name: str) -> None:
    kept = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(kept)
    cells = [("markdown" if cell.markdown else "code", cell.source) for cell in cells_of(FOLDER / f"{name}.py")]
    assert [(cell.cell_type, cell.source) for cell in kept.cells] == cells, "make notebooks writes them anew"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_what_it_prints_and_draws_now(name: str, executed: Callable[[str], Executed]) -> None:
    cells, _, kept = executed(name)
    code = [cell for cell in cells if not cell.markdown]
    printed = ["".join(text(one["text"]) for one in some) for some in outputs(kept, "stream")]
    assert printed == [cell.printed for cell in code], "make notebooks writes them anew"
    for cell, some in zip(code, outputs(kept, "display_data"), strict=True):
        assert len(some) == len(cell.pictures)
        for one, now in zip(some, cell.pictures, strict=True):
            shown, drawn = (
                plt.imread(io.BytesIO(png), format="png") for png in (base64.b64decode(one["data"]["image/png"]), now)
            )
            assert shown.shape == drawn.shape
            assert np.abs(shown - drawn).mean() < 0.03, "another version of a font moves letters, and no more"
            assert drawn[..., :3].std() > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_with_the_answer_and_every_figure_with_its_finding(
    name: str, executed: Callable[[str], Executed]
) -> None:
    cells, _, _ = executed(name)
    opening = " ".join(cells[0].source.split())
    assert "**" in opening[:200]
    findings = [line for cell in cells for line in cell.printed.splitlines()]
    assert len(findings) == sum(len(cell.pictures) for cell in cells) >= 4
    for finding in findings:
        assert finding in opening
        assert any(letter.isdigit() for letter in finding)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_this_machine_is_in_it_and_it_is_small(name: str) -> None:
    file = FOLDER / f"{name}.ipynb"
    kept = nbformat.read(file, as_version=4)
    shown = [one.get("text", "") for cell in kept.cells for one in cell.get("outputs", [])]
    assert not any(MINE.search(one) for one in shown)
    assert kept.metadata == {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                             "language_info": {"name": "python"}}  # fmt: skip
    assert file.stat().st_size < LARGEST


@pytest.mark.parametrize("name", ["which_budget", "recorded_run"])
def test_the_trace_can_be_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLOUTSIM_TRACE", "mine.parquet")
    with pytest.raises(InputError, match=r"mine\.parquet"):
        execute(FOLDER / f"{name}.py")


def test_the_best_budget_is_the_fastest_and_never_rises_as_the_batch_grows(executed: Callable[[str], Executed]) -> None:
    names = executed("which_budget").names
    speedup, budgets, best = names["SPEEDUP"], names["BUDGETS"], list(names["BEST_BUDGET"].values())
    assert np.array_equal(speedup[:, 0], np.ones(len(best)))
    for row, budget in zip(speedup, best, strict=True):
        assert row[budgets.index(budget)] == row.max() > 1
    assert best == sorted(best, reverse=True)


def test_more_history_helps_more(executed: Callable[[str], Executed]) -> None:
    length, windows = (executed("which_budget").names[name] for name in ("LENGTH", "WINDOWS"))
    for name in ("same problem + own output", "same problem", "all problems + own output"):
        found = [length[name, window] for window in windows]
        assert found == sorted(found)
        assert found[0] > length["own output only, no history", windows[-1]] > 1


def test_the_winner_is_the_policy_with_the_least_makespan(executed: Callable[[str], Executed]) -> None:
    names = executed("which_budget").names
    seconds, policies = names["MAKESPAN_S"], names["POLICIES"]
    for column, winner in zip(seconds.T, names["WINNER"].values(), strict=True):
        assert column[policies.index(winner)] == column.min() < column[0]
    for short, medium, long in names["DAS_BUDGETS"].values():
        assert 0 == short <= medium <= long <= 24
    for policy, (share, low, high) in names["CLOSED"].items():
        assert share == low == high == 0 if policy == "none" else 0 < low < share < high <= 1
    makespan, rollout = names["BY_ROLLOUT"]["das"]
    assert rollout < makespan, "it drafts for the longest"


def test_das_pays_by_what_repeats_and_what_it_has_seen(executed: Callable[[str], Executed]) -> None:
    names = executed("does_das_pay").names
    for found in names["BY_REUSE"].values():
        das = [one[0] for one in found]
        assert das == sorted(das)
        assert das[0] < 1.05 < 2 < das[-1]
    seen = [one[0] for one in names["BY_SEEN"]]
    assert seen[0] < 0.7 * min(seen[1:])
    behind = [one[0] / one[1] for one in names["BY_SLOTS"]]
    assert behind[0] < 0.9 < 1 < behind[-1]
    rollouts, whole = names["GAINS"]
    share = names["SHARE"]
    assert whole == pytest.approx(1 / (1 - share + share / rollouts), rel=0.01)


def test_the_calibration_says_how_wrong_it_is(executed: Callable[[str], Executed]) -> None:
    names = executed("calibrating_a_gpu").names
    assert len(names["FOUND"]) == 20
    assert names["INSIDE"] >= 16
    assert np.abs(names["ERRORS"]).max() < 0.2
    assert max(one.regret for one in names["JUDGED"]) < 0.05
    assert all(price[64] > price[1] >= 1 for price in names["PRICE"].values())
