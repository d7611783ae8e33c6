"""The notebooks run from top to bottom on the shipped trace, and what they claim is there and hangs together."""

import runpy
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt

from traces.errors import InputError

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "budget_policies.py"
FIGURES = {"constant_budget", "acceptance", "policies", "regret"}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    backend = mpl.get_backend()
    with pytest.MonkeyPatch.context() as patch, mpl.rc_context():
        plt.switch_backend("Agg")
        patch.chdir(folder)
        patch.delenv("ROLLOUTSIM_TRACE", raising=False)
        patch.setenv("ROLLOUTSIM_DATA", str(folder))
        patch.setattr(sys, "argv", [str(NOTEBOOK), "--out", "figures"])
        variables = runpy.run_path(str(NOTEBOOK), {"QUICK": True})
        titles = {plt.figure(number).texts[0].get_text() for number in plt.get_fignums()}
        plt.close("all")
        plt.switch_backend(backend)
    return variables, folder / "figures", titles


def test_it_runs_on_the_demo_trace_where_nothing_else_is_at_hand(executed):
    variables, _, _ = executed
    assert variables["PATH"].name == "demo.parquet"
    assert variables["STEP"] == 3


def test_it_saves_every_figure(executed):
    _, folder, _ = executed
    assert {path.stem for path in folder.iterdir()} == FIGURES
    for path in folder.iterdir():
        picture = plt.imread(path)
        assert picture.shape[1] > 1000
        assert picture.std() > 0.05


def test_every_title_is_a_finding_with_its_numbers(executed):
    _, _, titles = executed
    assert len(titles) == len(FIGURES)
    assert all(any(letter.isdigit() for letter in title) for title in titles)


def test_the_best_budget_is_the_fastest_and_never_rises_as_the_batch_grows(executed):
    variables, _, _ = executed
    speedup, budgets, best = variables["SPEEDUP"], variables["BUDGETS"], variables["BEST_BUDGET"]
    assert np.array_equal(speedup[:, 0], np.ones(len(best)))
    for row, budget in zip(speedup, best.values(), strict=True):
        assert row[budgets.index(budget)] == row.max() > 1
    found = list(best.values())
    assert found == sorted(found, reverse=True)


def test_history_helps_and_more_of_it_helps_more(executed):
    variables, _, _ = executed
    windows = variables["WINDOWS"]
    assert windows == [1, 2, 3]  # the demo trace has three RL steps before the last
    found = {key: counts["mean_acceptance_length"] for key, counts in variables["ACCEPTANCE"].items()}
    both = [found["same problem + own output", window] for window in windows]
    assert both == sorted(both)
    assert both[0] > found["own output only, no history", 3] > 1


def test_the_winner_is_the_policy_with_the_least_makespan(executed):
    variables, _, _ = executed
    seconds, policies = variables["MAKESPAN_S"], variables["POLICIES"]
    for column, (slots, winner) in zip(seconds.T, variables["WINNER"].items(), strict=True):
        assert column[policies.index(winner)] == column.min() < column[0]
        short, medium, long = variables["DAS_BUDGETS"][slots]
        assert 0 == short <= medium <= long <= 24
    assert (np.diff(seconds[0]) < 0).all()  # more slots, less time


def test_the_share_closed_lies_in_its_interval_and_below_the_bound(executed):
    variables, _, _ = executed
    closed = variables["CLOSED"]
    assert {slots for _, slots in closed} == set(variables["COMPARED"])
    for (policy, _), (share, low, high) in closed.items():
        if policy == "none":
            assert share == low == high == 0
        elif policy == "oracle":
            assert share > 0.9
        else:
            assert low < share < high <= 1


def test_the_trace_can_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("ROLLOUTSIM_TRACE", str(tmp_path / "mine.parquet"))
    monkeypatch.setattr(sys, "argv", [str(NOTEBOOK)])
    with pytest.raises(InputError, match=r"mine\.parquet"):
        runpy.run_path(str(NOTEBOOK), {"QUICK": True})
