"""Systems that change the workload, beside what they report: ratios come out as published, seconds are an estimate's."""

import pytest

from tests.reports.workloads import broad, latent, mixed, short

RATIOS = {"LiteReason: after over before": 0.1, "DLER: before over after": 0.25}
"""How far off ratios of one rollout's seconds are at most."""


def test_ratios_of_one_rollout_come_out_as_published() -> None:
    found = [one for figures in (latent, short) for one in figures() if one.what in RATIOS]
    assert len(found) == 3
    for one in found:
        assert one.ours == pytest.approx(one.published, rel=RATIOS[one.what]), one


def test_wide_groups_are_kept_more_often_and_made_faster() -> None:
    for one in broad():
        if one.what.startswith("BroRL: samples/s, 512 over 16"):
            assert one.ours > 1.5, one
        if "kept" in one.what:
            assert one.ours == pytest.approx(one.published, rel=0.15), one


def test_mixed_groups_are_those_of_probability() -> None:
    assert mixed(2, 1.0) == pytest.approx(1 / 3)  # Beta(1, 1): 2 p (1 - p) on average
    assert mixed(1, 0.7) == pytest.approx(0)
