"""Runs grow with their work: eight times as much takes about eight times as long, not sixty-four."""

import math
import time

import pytest

from simulator.replay import run
from tests.benchmarks.extremes import case

LARGER = 8
STEEPEST = 1.5
"""Power of the size that seconds may grow with; between 0.7 and 1.1 on a quiet machine, 2 where something looks at all others."""


def seconds(kind: str, size: int) -> float:
    """CPU seconds of a run, the less of two."""
    scenario, trace = case(kind, size)
    found = []
    for _ in range(2):
        begun = time.process_time()
        run(scenario, trace)
        found.append(time.process_time() - begun)
    return min(found)


@pytest.mark.parametrize(("kind", "size"), [
    ("arrivals", 5_000), ("replicas", 16), ("live-drafted", 2_048), ("blocks", 60_000), ("blocks-drafted", 60_000),
])  # fmt: skip
def test_seconds_grow_as_the_work_does(kind: str, size: int) -> None:
    slope = math.log(seconds(kind, LARGER * size) / seconds(kind, size)) / math.log(LARGER)
    assert slope < STEEPEST
