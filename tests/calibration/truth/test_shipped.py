"""The simulator held to the clock of machines that were measured: profiles and ground truth as they are shipped."""

from pathlib import Path

import pytest

from calibration.truth import ground_truth
from calibration.truth.compare import compare, verdicts
from simulator.cost.profiles import load_profile
from traces.io import read

ROOT = Path(__file__).parents[3]
TRUTHS = sorted((ROOT / "calibration" / "ground_truth").glob("*.parquet"))


def test_ground_truth_is_shipped() -> None:
    assert TRUTHS


@pytest.mark.parametrize("path", TRUTHS, ids=lambda path: path.stem)
def test_simulated_makespans_are_within_five_percent_of_the_measured(path: Path) -> None:
    """Every policy on every batch, and no choice by the simulation costs more than repeats of one policy differ by."""
    truth = ground_truth.read(path)
    profile = load_profile(path.stem.rsplit("-at-", 1)[0])
    found = compare(truth, read(ROOT / truth.about["trace"]), profile)
    assert len(found) >= 5
    for one in found:
        assert abs(one.error) < 0.05, one.row()
        assert one.outside_fraction < 0.05
    (verdict,) = verdicts(found)
    assert verdict.order_kept
    assert verdict.regret <= max(one.spread for one in found)
