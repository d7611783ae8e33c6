"""Tables held to the device's data sheet and to more work never costing less: what is kept, what is moved, what is said."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from calibration.imports.aic_bounds import Timed, held, told
from simulator.cost import Table

GRID = (np.array([1.0, 2.0, 4.0, 8.0]), np.array([1.0, 16.0, 256.0]), np.array([1.0, 2.0, 9.0]))
AXES = ("decode_seqs", "decode_context", "decode_width")
positive = st.floats(1e-6, 1e-2)


def table(values, name="kernel") -> Table:
    values = np.asarray(values, dtype=float)
    return Table(name, AXES[: values.ndim], GRID[: values.ndim], values)


def test_what_already_rises_is_kept_to_the_bit():
    values = np.array([1.1e-5, 1.1e-5, 2.3e-5, 9.7e-5])
    one = held(Timed(table(values), 0.9e-5))
    np.testing.assert_array_equal(one.table.values_s, values)
    assert told([one]) == ""


def test_a_slow_small_step_and_its_neighbours_meet_at_their_geometric_mean():
    one = held(Timed(table([4e-5, 1e-5, 5e-5, 9e-5])))
    np.testing.assert_allclose(one.table.values_s, [2e-5, 2e-5, 5e-5, 9e-5], rtol=1e-12)
    np.testing.assert_allclose(one.moved, [2, 2, 1, 1], rtol=1e-12)
    assert told([one]) == (
        "2 of 4 cells were moved so that more work never costs less (isotonic regression), by 100.0% in the median and "
        "2.00 times at most (kernel)."
    )


def test_what_beats_the_device_is_raised_to_it():
    least = np.array([1e-5, 2e-5, 4e-5, 8e-5])
    one = held(Timed(table([0.5e-5, 3e-5, 4e-5, 9e-5]), least))
    np.testing.assert_allclose(one.table.values_s, [1e-5, 3e-5, 4e-5, 9e-5], rtol=1e-12)
    np.testing.assert_allclose(one.raised, [2, 1, 1, 1], rtol=1e-12)
    assert told([one]) == (
        "1 of 4 cells were raised to what the device's data sheet allows, by 100.0% in the median and 2.00 times at most "
        "(kernel)."
    )


@given(arrays(np.float64, (4, 3, 3), elements=positive), st.floats(0, 1e-5))
def test_after_all_axes_nothing_falls_along_any_and_nothing_beats_the_device(values, unit):
    least = unit * GRID[0][:, None, None] * GRID[1][:, None] * GRID[2]
    found = held(Timed(table(values), least)).table.values_s
    assert all((np.diff(found, axis=axis) >= -1e-12 * found.max()).all() for axis in range(3))
    assert (found >= least * (1 - 1e-12)).all()


@given(arrays(np.float64, 4, elements=positive))
def test_along_one_axis_no_other_rising_table_is_closer(values):
    """Isotonic regression by its own definition: the largest mean up to a place of the least mean from it on."""
    logs = np.log(values)
    best = [max(min(logs[low : high + 1].mean() for high in range(at, 4)) for low in range(at + 1)) for at in range(4)]
    np.testing.assert_allclose(np.log(held(Timed(table(values))).table.values_s), best, rtol=1e-9)


def test_cells_are_counted_over_all_tables():
    first, second = held(Timed(table([3e-5, 1e-5, 4e-5, 5e-5]))), held(Timed(table([1e-5, 2e-5, 3e-5, 4e-5], "other")))
    assert "2 of 8 cells" in told(itertools.chain([first], [second]))
