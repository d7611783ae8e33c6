"""The answer follows from the range alone, and what would settle it from what makes the range wide."""

from math import inf, log
from types import SimpleNamespace

import pytest

from simulator.advise.judge import Judged, Moved
from simulator.advise.verdict import verdict


def judged(speedup: float, sampled: float = 0.0, below: float = 0.0, above: float = 0.0) -> Judged:
    candidate = SimpleNamespace(name="ngram fixed:4")
    return Judged(candidate, 1.0, speedup, log(1 + sampled), log(1 + below), log(1 + above), None, 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        (judged(1.5, sampled=0.2, below=0.2, above=0.2), "enable"),
        (judged(1.5, sampled=0.2, below=0.6, above=0.6), "cannot tell"),
        (judged(1.5, sampled=0.4, below=0.4, above=0.4), "cannot tell"),
        (judged(0.9, sampled=0.05), "do not enable"),
        (judged(0.9, sampled=0.2), "cannot tell"),
        (judged(1.0), "do not enable"),
        (judged(1.01, sampled=0.005), "do not enable"),  # sure, and not worth it
        (judged(2.0, sampled=inf), "cannot tell"),
    ],
)
def test_the_range_decides(found, answer):
    assert verdict(found).answer == answer


def test_costs_alone_are_told_of_with_what_a_measurement_would_do():
    found = judged(1.5, sampled=0.1, below=0.7, above=0.7)
    enough = verdict(found, Moved(log(1.1), log(1.05), log(1.05), None), "measure")
    assert len(enough.settles) == 1
    assert "measure" in enough.settles[0]
    assert "which would settle it" in enough.settles[0]
    short = verdict(found, Moved(log(1.1), log(1.6), log(1.6), None), "measure")
    assert "would not settle it alone" in short.settles[0]


def test_prompts_alone_are_told_of_with_how_many_more():
    (told,) = verdict(judged(1.1, sampled=0.21), Moved(0.0, 0.0, 0.0, None)).settles
    assert "about 4 times as many prompts" in told  # twice as wide as the gain is large
    (told,) = verdict(judged(1.1, sampled=inf), Moved(0.0, 0.0, 0.0, None)).settles
    assert "far more" in told


def test_both_together_are_told_of():
    (told,) = verdict(judged(1.2, sampled=0.15, below=0.15, above=0.15), Moved(0.0, 0.1, 0.1, None)).settles
    assert "only together" in told


def test_costs_that_are_known_well_already_are_not_to_be_measured():
    found = judged(1.5, sampled=0.1, below=0.7, above=0.7)
    (told,) = verdict(found, Moved(0.0, log(1.8), log(1.8), None), "measure").settles
    assert "measure" not in told
    assert "remain" in told
    assert len(verdict(found).settles) == 1  # an error that the user gave
