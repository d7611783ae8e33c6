"""Profiles as values: scaling, shapes, what is refused, and the written form."""

import json
from fractions import Fraction

import numpy as np
import pytest
import yaml

from simulator.cost import Affine, Profile, Roof, StepWork, Table, load_profile
from simulator.cost.document import document_of, parse
from simulator.cost.operators import row
from tests.cost.packed import assert_packed_alike
from traces.errors import InputError

TEXTS = {"name": "p", "model": "m", "device": "d", "source": "s", "uncertainty": "u"}
CONSTANT = Affine("overhead", row(constant=1e-3))


def mixed() -> Profile:
    grid = (np.array([1.0, 8.0, 64.0]), np.array([0.0, 1000.0, 9000.0]))
    values = np.array([[1e-4, 3e-4, 7e-4], [2e-4, 9e-4, 3e-3], [4e-4, 1.7e-3, 1.3e-2]])
    table = Table("attention", ("live", "context_tokens"), grid, values, repeat=28)
    roof = Roof("mlp", row(constant=3.3e-3, kv_tokens=1.3e-8), row(query_tokens=1.7e-5), repeat=2)
    return Profile(
        kind="table",
        operators=(CONSTANT, roof, table),
        **TEXTS,
        valid_range={"query_tokens": (1.0, 512.0)},
        relative_error=0.07,
        notes="n",
        drafter_costs={"eagle": {"per_proposal_s": 3e-3}, "ngram": {"verify_fraction": 0.1}},
    )


WORK = StepWork.decode(np.array([[1], [7], [50]]), np.array([0.0, 333.0, 5000.0, 20_000.0]), 3)


@pytest.mark.parametrize("factor", [0.125, 0.5, 2.0, 1024.0])
def test_scaling_by_a_power_of_two_is_exact(factor):
    before, after = mixed(), mixed().scaled(factor)
    np.testing.assert_array_equal(after.step_time_s(WORK), factor * before.step_time_s(WORK))
    np.testing.assert_array_equal(after.outside(WORK), before.outside(WORK))
    assert after.drafter_costs["eagle"]["per_proposal_s"] == factor * 3e-3
    assert after.drafter_costs["ngram"]["verify_fraction"] == 0.1
    assert after.name != before.name


def test_scaling_by_any_factor_and_bad_factors():
    np.testing.assert_allclose(mixed().scaled(0.3).step_time_s(WORK), 0.3 * mixed().step_time_s(WORK), rtol=1e-14)
    for factor in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="scale factor"):
            mixed().scaled(factor)


def test_shapes_follow_the_work():
    assert mixed().step_time_s(WORK).shape == (3, 4)
    assert mixed().outside(WORK).dtype == bool
    assert mixed().step_time_s(StepWork(1, 1, 0, 0)).shape == ()
    assert {name: seconds.shape for name, seconds in mixed().operator_times(WORK).items()} == {
        "overhead": (3, 4), "mlp": (3, 4), "attention": (3, 4)
    }  # fmt: skip
    assert mixed().operator_times(WORK)["overhead"] == pytest.approx(1e-3)


def test_decode_work_counts_tokens_and_pairs():
    work = StepWork.decode(live=4, context_tokens=100, query_per_seq=3)
    assert [float(value) for value in work.fields] == [4, 12, 400, 4 * 3 * 100, 0, 12, 0, 0, 0, 100, 12]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1, 0, 0, 0), "live = 0"),
        ((1, -1, 0, 0, 0), "query_tokens = -1"),
        ((1, 1, float("nan"), 0, 0), "kv_tokens = nan"),
        ((1, 1, 0, 0, float("inf")), "prefill_tokens = inf"),
        (([1, 2], [1, 2, 3], 0, 0, 0), "do not broadcast"),
    ],
)
def test_impossible_work_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        StepWork(*values)


def test_table_axes_bound_the_valid_range_unless_it_is_declared():
    grid = (np.array([2.0, 16.0]),)
    first = Table("first", ("live",), grid, np.array([1.0, 2.0]))
    second = Table("second", ("live",), (np.array([1.0, 9.0]),), np.array([1.0, 2.0]))
    both = Profile(kind="table", operators=(first, second), **TEXTS)
    assert both.valid_range == {"live": (2.0, 9.0)}
    assert both.outside(StepWork([1, 2, 9, 10], 16, 0, 0)).tolist() == [True, False, False, True]
    declared = Profile(kind="table", operators=(first, second), **TEXTS, valid_range={"live": (1.0, 32.0)})
    assert declared.valid_range == {"live": (1.0, 32.0)}
    apart = Table("apart", ("live",), (np.array([20.0, 30.0]),), np.array([1.0, 2.0]))
    with pytest.raises(InputError, match="grids of live do not overlap"):
        Profile(kind="table", operators=(first, apart), **TEXTS)


def falling(**valid_range) -> Profile:
    """Costs 3 ms at 10 tokens and 1 ms at 20: extrapolated, 0 at 25."""
    table = Table("t", ("query_tokens",), (np.array([10.0, 20.0]),), np.array([3e-3, 1e-3]))
    return Profile(kind="table", operators=(table,), **TEXTS, valid_range=valid_range)


def test_a_cost_that_can_vanish_in_the_valid_range_is_refused():
    assert falling().step_time_s(StepWork(1, 24, 0, 0)) == pytest.approx(0.2e-3)
    falling(query_tokens=(1.0, 24.9))
    for highest in (25.0, 26.0):
        with pytest.raises(InputError, match="within the valid range"):
            falling(query_tokens=(1.0, highest))
    with pytest.raises(InputError, match="least of 'kv'"):
        Profile(kind="affine", operators=(Affine("kv", row(kv_tokens=1e-6)),), **TEXTS)
    Profile(
        kind="affine", operators=(Affine("kv", row(kv_tokens=1e-6)),), **TEXTS, valid_range={"kv_tokens": (1.0, 9.0)}
    )
    Profile(kind="affine", operators=(Affine("per token", row(query_tokens=1e-6)),), **TEXTS)


def test_the_lowest_cost_is_found_on_inner_grid_lines():
    values = np.array([[2.0, 2.0, 2.0], [2.0, 0.0, 2.0], [2.0, 2.0, 2.0]])
    axis = np.array([1.0, 2.0, 3.0])
    table = Table("t", ("live", "query_tokens"), (axis, axis), values)
    with pytest.raises(InputError, match="can cost 0 s"):
        Profile(kind="table", operators=(table,), **TEXTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "spline"}, "kind 'spline' is unknown: use affine"),
        ({"kind": "table"}, "no operator is a table"),
        ({"operators": ()}, "operators is empty"),
        ({"operators": (CONSTANT, CONSTANT)}, r"operators\[1\].name 'overhead'"),
        ({"operators": (Roof("r", row(constant=1.0), row(live=1.0)),)}, "is of kind roof"),
        ({"source": " "}, "source is empty"),
        ({"valid_range": {"live": (3.0, 2.0)}}, r"valid_range.live = \[3, 2\]"),
        ({"valid_range": {"live": (0.0, 0.5)}}, "highest >= 1"),
        ({"valid_range": {"tokens": (1.0, 2.0)}}, "valid_range.tokens is not a feature"),
        ({"relative_error": -0.1}, "relative_error = -0.1"),
        ({"drafter_costs": {"e": {"x_s": -1.0}}}, "drafter_costs.e.x_s = -1"),
    ],
)
def test_profiles_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Profile(**{"kind": "affine", "operators": (CONSTANT,), **TEXTS, **changes})


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump])
def test_written_form_reads_back_to_the_same_costs(write):
    for before in (mixed(), load_profile("h100-llama-3.1-8b-published")):
        after = parse(write(document_of(before)))
        assert_packed_alike(after, before)
        assert document_of(after) == document_of(before)


def test_numbers_are_kept_to_the_last_bit():
    cost = 3.92645679e-08
    model = Profile(kind="affine", operators=(Affine("a", row(constant=cost)),), **TEXTS)
    assert Fraction(float(model.step_time_s(StepWork(1, 1, 0, 0)))) == Fraction(cost)
