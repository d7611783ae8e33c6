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
def test_simulated_makespans_are_those_measured(path: Path) -> None:
    """Every policy on every batch within 5 %, or what repeats of that run differ by where that is more; so is the regret."""
    truth = ground_truth.read(path)
    profile = load_profile(path.stem.rsplit("-at-", 1)[0])
    found = compare(truth, read(ROOT / truth.about["trace"]), profile)
    assert len(found) >= 5
    for one in found:
        assert abs(one.error) < max(0.05, one.spread), one.row()
    (verdict,) = verdicts(found)
    assert verdict.order_kept
    assert verdict.regret <= max(one.spread for one in found)
