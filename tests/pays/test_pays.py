"""Every system has a workload on which it gains over plain `sync`, and one on which it costs."""

import pytest

from simulator.systems.built_in import BASELINE, built_in_systems
from tests.pays.sweep import NAMES, load, results


def test_every_system_has_a_sweep() -> None:
    assert {*built_in_systems()} - {BASELINE} == {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_it_wins_and_loses_where_it_says(name: str) -> None:
    sweep = load(name)
    assert sweep.wins, "somebody gains"
    assert sweep.loses, "somebody loses"
    found = {str(value): result.runs["gpu_speedup"][1].as_py() for value, result in results(sweep)}
    assert all(found[str(value)] > 1 for value in sweep.wins), found
    assert all(found[str(value)] < 1 for value in sweep.loses), found
