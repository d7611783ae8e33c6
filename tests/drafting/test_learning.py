"""Draft models that learn: the law that their acceptance follows, domain by domain, and draws that all versions share."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.learning import relaxed
from simulator.drafting.learnt import Learnt, relaxed_curve
from simulator.drafting.model import Modelled
from simulator.testing import check_drafter, example_trace
from traces.errors import InputError

SHARE = st.floats(0, 1)
CURVE = AcceptanceCurve((0.6, 0.5, 0.4), spread=0.1, drift_per_step=0.05)
EAGLE = Modelled("eagle", CURVE)
LIMIT = (0.9, 0.8, 0.7)


def learnt(*samples: int, half_life: float = 50.0, domains: int = 1) -> Learnt:
    trace = example_trace()
    return Learnt(EAGLE, LIMIT, half_life, np.arange(len(trace)) % domains, np.array(samples))


@given(SHARE, SHARE, st.floats(0, 1e6), st.floats(1e-6, 1e9))
def test_the_law(start: float, limit: float, samples: float, half_life: float) -> None:
    found = float(relaxed(start, limit, samples, half_life))
    assert found == pytest.approx(limit + (start - limit) * 2 ** (-samples / half_life), abs=1e-15)
    assert min(start, limit) - 1e-15 <= found <= max(start, limit) + 1e-15
    halfway = float(relaxed(start, limit, samples + half_life, half_life))
    assert halfway - limit == pytest.approx((found - limit) / 2, abs=1e-12)
    assert float(relaxed(start, limit, 0.0, half_life)) == start
    assert float(relaxed(start, limit, samples, np.inf)) == start
    assert float(relaxed(start, limit, 1e9, 1e-6)) == limit


def test_a_curve_relaxes_position_by_position() -> None:
    curve = relaxed_curve(CURVE, LIMIT, 50, 50)
    assert curve.conditional == pytest.approx((0.75, 0.65, 0.55))
    assert (curve.spread, curve.drift_per_step) == (CURVE.spread, CURVE.drift_per_step)
    assert relaxed_curve(CURVE, (0.8,), 50, 50).conditional == pytest.approx((0.7, 0.65, 0.6))
    with pytest.raises(InputError, match="3 draft positions, and limits are given for 2"):
        relaxed_curve(CURVE, (0.8, 0.7), 1, 1)


def test_versions_accept_more_where_they_know_more() -> None:
    """One draw decides at a position under every version, so the better ones accept a superset; others' domains stay."""
    trace = example_trace()
    rows, past = np.arange(len(trace)), np.arange(0)
    tables = [
        learnt(*samples, domains=2).accept(trace, rows, past, 3).tables[0] for samples in ((0, 0), (30, 0), (300, 0))
    ]
    assert (tables[0] == EAGLE.accept(trace, rows, past, 3).tables[0]).all()
    mine = np.repeat(rows % 2 == 0, trace.output_tokens)
    for before, after in pairwise(tables):
        assert (after[:, 0] >= before[:, 0]).all()
        assert (after[mine, 0] > before[mine, 0]).any()
        assert (after[~mine] == before[~mine]).all()
    never = learnt(10**6, 10**6, half_life=np.inf, domains=2).accept(trace, rows, past, 3).tables[0]
    assert (never == tables[0]).all()


def test_it_is_a_drafter() -> None:
    check_drafter(learnt(10, 200, domains=2))
