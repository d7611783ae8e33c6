"""Sensitivity to the profile's error, verdicts, and the table that joins everything."""

import numpy as np
import pytest

from simulator.budgets.policy import by_live
from simulator.compare.bootstrap import Interval
from simulator.compare.report import COMPARISON, compare, verdict
from simulator.compare.sensitivity import corners, scaled_parts, under_profile_error
from simulator.cost import Affine, Roof, StepWork, Table
from simulator.cost.draft_cost import DraftCost
from simulator.cost.operators import row
from tests.compare.batches import AFFINE, MAKERS, batch, profile, rl_step, setup
from traces.errors import InputError

WORK = StepWork(4, 10, 100, 300, 6)


def seconds(*operators, factors=(1.0, 1.0, 1.0), kind="table") -> float:
    return float(scaled_parts(profile(*operators, kind=kind), factors).step_time_s(WORK))


def test_parts_are_scaled_apart() -> None:
    affine = Affine("a", row(constant=1, live=1, query_tokens=2, kv_tokens=0.5, pairs=0.1, prefill_tokens=3))
    fixed, tokens, context = 1.0, 4 + 20 + 18, 50 + 30
    for factors in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (0.5, 2, 3)):
        assert seconds(affine, factors=factors, kind="affine") == pytest.approx(
            factors[0] * fixed + factors[1] * tokens + factors[2] * context
        )
    roof = Roof("r", row(constant=5, kv_tokens=0.1), row(query_tokens=1.2))
    found = [seconds(roof, factors=f, kind="roofline") for f in ((1, 1, 1), (1, 2, 1), (1, 1, 2))]
    assert found == [pytest.approx(s) for s in (15, 24, 25)]
    dense = Table("d", ("query_tokens",), (np.array([0.0, 20.0]),), np.array([2.0, 6.0]))
    attention = Table(
        "k", ("live", "context_tokens"), (np.array([0.0, 8.0]), np.array([0.0, 50.0])), np.array([[1, 1], [1, 9.0]])
    )
    assert [seconds(dense, factors=f) for f in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2))] == [4, 6, 6, 4]
    assert [seconds(attention, factors=f) for f in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2))] == [3, 4, 3, 5]


def test_corners_are_those_that_can_change_a_speedup() -> None:
    no_context = profile(Affine("a", row(constant=1, query_tokens=1)))
    assert sorted(corners(no_context, 0.25)) == [(0.75, 1.25, 1.0), (1.25, 0.75, 1.0)]
    assert len(list(corners(profile(), 0.1))) == 6
    assert len(list(corners(profile(), 0.1, DraftCost(per_step_s=1.0)))) == 8
    assert not list(corners(profile(Affine("a", row(constant=1))), 0.1))
    with pytest.raises(InputError, match="profile error 1"):
        list(corners(profile(), 1.0))


def test_scaling_all_alike_changes_no_speedup_and_a_corner_does() -> None:
    step, names = rl_step(batch(1, 12)), ["none", "fixed:4"]
    factors, found = under_profile_error([step], setup(64), names, 0.5)
    speedups = dict(zip(factors, found[:, 0] / found[:, 1], strict=True))
    assert speedups[1.5, 0.5, 0.5] > speedups[0.5, 1.5, 1.5], "dear passes favour speculation, dear tokens do not"


def test_a_verdict_that_flips_within_the_profiles_error_is_undecided() -> None:
    faster, slower, neither = Interval(1.1, 1.3), Interval(0.7, 0.9), Interval(0.9, 1.1)
    assert verdict(faster, (1.02, 1.4)) == verdict(faster, None) == "faster"
    assert verdict(slower, (0.6, 0.98)) == "slower"
    assert verdict(faster, (0.99, 1.4)) == verdict(slower, (0.6, 1.01)) == "undecided"
    assert verdict(neither, (0.5, 2.0)) == "no detectable difference"
    assert verdict(None, (1.1, 1.2)) == "not tested"


def test_the_report_joins_them() -> None:
    steps = [rl_step(batch([5, s], 24), step=s) for s in range(2)]
    found = compare(steps, setup(8, profile(error=0.12)), baseline="fixed:4", resamples=40)
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
        assert one["speedup"] == rows["fixed:4"]["makespan_s"] / one["makespan_s"]
        assert 0 <= one["closed"] <= one["closed_of_oracle"] <= 1
        assert (one["resamples"], one["profile_error"]) == (40, 0.12)
    text = found.text().splitlines()
    assert len(text) == 2 + len(MAKERS)
    assert text[-1].startswith("gap: no speculation")
    assert "oracle (knows lengths and acceptance)" in text[-1]
    assert text[1].startswith("none")
    assert text[1].endswith("slower")


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
    assert [note.split(":")[0] for note in found.notes] == ["profile error unknown", "no bound"]
    one = found.table.to_pylist()[1]
    assert one["verdict"] == "not tested"
    assert [one[name] for name in ("low", "high", "profile_low", "bound_s", "closed")] == [None] * 5
    assert one["closed_of_oracle"] is not None
    assert " - " in found.text()
    with pytest.raises(InputError, match="baseline 'das'"):
        compare(steps, setup(), baseline="das")
