"""Verdicts, and the table that joins everything."""

from dataclasses import replace

import numpy as np
import pytest

from simulator.budgets.policy import by_live
from simulator.compare.bootstrap import Interval
from simulator.compare.report import COMPARISON, compare, verdict
from simulator.cost import Affine, Table
from simulator.cost.operators import row
from tests.compare.batches import AFFINE, MAKERS, batch, profile, rl_step, setup
from traces.errors import InputError


def test_a_verdict_that_flips_within_the_profiles_error_is_undecided() -> None:
    faster, slower, neither = Interval(1.1, 1.3), Interval(0.7, 0.9), Interval(0.9, 1.1)
    assert verdict(faster, (1.02, 1.4)) == "faster"
    assert verdict(slower, (0.6, 0.98)) == "slower"
    assert verdict(faster, (0.99, 1.4)) == verdict(slower, (0.6, 1.01)) == "undecided"
    assert verdict(neither, (0.5, 2.0)) == "no detectable difference"
    assert verdict(None, (1.1, 1.2)) == "not tested"


def test_the_report_joins_them() -> None:
    steps = [rl_step(batch([5, s], 24), step=s) for s in range(2)]
    found = compare(steps, setup(8, profile(error=0.02)), baseline="fixed:4", resamples=40)
    assert found.table.schema == COMPARISON
    rows = {one["policy"]: one for one in found.table.to_pylist()}
    assert list(rows) == list(MAKERS)
    assert not found.notes
    assert rows["fixed:4"]["verdict"] == "baseline"
    assert (rows["none"]["verdict"], rows["none"]["closed"]) == ("slower", 0.0)
    for one in rows.values():
        assert one["bound_s"] <= one["oracle_s"] <= one["makespan_s"]
        assert one["low"] <= one["speedup"] <= one["high"]
        assert one["profile_low"] <= one["speedup"] <= one["profile_high"]
        assert one["makespan_low_s"] < one["makespan_s"] < one["makespan_high_s"]
        assert one["speedup"] == rows["fixed:4"]["makespan_s"] / one["makespan_s"]
        assert 0 <= one["closed"] <= one["closed_of_oracle"] <= 1
        assert (one["resamples"], one["profile_error"]) == (40, 0.02)
    text = found.text().splitlines()
    assert len(text) == 4 + len(MAKERS), "two lines of headings, a rule, the end"
    assert text[-1].startswith("gap: no speculation")
    assert "oracle (knows lengths and acceptance)" in text[-1]
    assert text[3].split()[0] == "none"
    assert text[3].endswith("slower")


def test_close_to_one_under_an_uncertain_profile_is_undecided() -> None:
    # Half of the drafts are in vain and a token costs a third of a pass: about 1, and the profile decides.
    makers = {"none": lambda: by_live([0]), "unlimited": lambda: by_live([255])}
    steps = [rl_step(batch([6, s], 60, a=9.0), step=s, **makers) for s in range(2)]
    dear = profile(Affine("a", row(constant=7e-3, query_tokens=2.2e-4)))
    sure, unsure = (compare(steps, setup(8, dear), resamples=60, profile_error=e, gap=False).table.to_pylist()[1]
                    for e in (0.001, 0.6))  # fmt: skip
    assert sure["verdict"] == "faster"
    assert unsure["profile_low"] < 1 < sure["low"]
    assert unsure["verdict"] == "undecided"
    assert unsure["closed"] is None


def test_what_is_not_known_is_said() -> None:
    steps = [rl_step(batch(5, 6))]
    workload = steps[0].workload
    most = (
        8.0 * (workload.prompt_tokens + workload.output_tokens).max()
    )  # KV tokens of 8 longest rollouts at their ends
    falling = Table("t", ("kv_tokens",), (np.array([0.0, 0.4 * most]),), np.array([2.0, 1.0]))
    found = compare(steps, setup(8, profile(AFFINE, falling, kind="table")), resamples=0)
    assert "unknown: no error published, assumed" in found.notes[0]
    assert found.notes[1].startswith("no bound")
    assert len(found.notes) == 2
    one = found.table.to_pylist()[1]
    assert one["verdict"] == "not tested"
    assert [one[name] for name in ("low", "high", "profile_error", "bound_s", "closed")] == [None] * 5
    assert one["profile_low"] < one["speedup"] < one["profile_high"], "what is assumed counts"
    assert one["closed_of_oracle"] is not None
    assert " - " in found.text()
    with pytest.raises(InputError, match="baseline 'das'"):
        compare(steps, setup(), baseline="das")


def test_an_estimate_decides_only_what_its_own_error_cannot_turn() -> None:
    makers = {"none": lambda: by_live([0]), "fixed:4": lambda: by_live([4])}
    barely, clearly = (rl_step(batch(7, 60, a=a), **makers) for a in (1.0, 9.0))
    cost = profile(error=0.01)
    stated = replace(cost, error_factors=(1.0, 1.9))
    for step, verdicts in ((barely, ["faster", "undecided"]), (clearly, ["faster", "faster"])):
        found = [
            compare([step], setup(8, one), resamples=100, gap=False).table.to_pylist()[1] for one in (cost, stated)
        ]
        assert [one["verdict"] for one in found] == verdicts
        assert found[1]["makespan_low_s"] == pytest.approx(found[1]["makespan_s"], rel=0.05), "never too slow"
        assert found[1]["makespan_high_s"] == pytest.approx(1.9 * found[1]["makespan_s"], rel=0.02)
        assert found[1]["profile_low"] == pytest.approx(found[1]["speedup"] / 1.9, rel=0.05)
