"""What a profile says of its errors, and what is assumed where it says nothing."""

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest

from calibration.imports.aiconfigurator import ESTIMATE as THEIRS
from simulator.catalogue import estimate
from simulator.cost import Affine, Table, load_profile
from simulator.cost.document import document_of
from simulator.cost.errors import (
    DERIVED,
    ESTIMATE,
    HOST,
    HOST_CODE,
    HOST_S,
    LINK,
    UNKNOWN_ERROR,
    WHOLE_RUNS,
    Source,
    in_words,
    sources_of,
)
from simulator.cost.operators import row
from simulator.cost.parquet import from_parquet, to_parquet
from simulator.cost.roofline import with_host
from tests.compare.batches import AFFINE, profile
from traces.errors import InputError

NORMAL = 1.6449 / 0.6745
GRID = (np.arange(1.0, 8.0),)
BENT = Table("bent", ("query_tokens",), GRID, np.array([1, 1.1, 1, 1.1, 1, 1.1, 1]))
STRAIGHT = Table("straight", ("query_tokens",), GRID, GRID[0])


def own(found: list[Source]) -> list[Source]:
    return [one for one in found if one.name == "profile"]


def names(found: list[Source]) -> set[str]:
    return {one.name for one in found}


def test_a_typical_error_becomes_a_range_that_holds_nine_of_ten() -> None:
    sources = own(sources_of(profile(error=0.1)))
    assert [one.drafting for one in sources] == [False, True]
    assert sources[0].high == pytest.approx(exp(0.1 * NORMAL), rel=1e-4)
    assert sources[0].low == pytest.approx(1 / sources[0].high)
    errors = np.abs(np.random.default_rng(0).normal(0, 0.1, 10**6))
    held = (errors < log(own(sources_of(profile(error=float(np.median(errors)))))[0].high)).mean()
    assert held == pytest.approx(0.9, abs=0.002)


def test_few_makespans_left_out_tell_less() -> None:
    def high(points: float) -> float:
        held_out = {WHOLE_RUNS: {"points": points, "median": 0.05, "p95": 0.1}}
        return own(sources_of(replace(profile(error=0.5), held_out=held_out)))[0].high

    assert high(3) > high(5) > high(50) > exp(0.05 * NORMAL)
    assert high(1e6) == pytest.approx(exp(0.05 * NORMAL), rel=1e-4)


def test_the_users_word_comes_first_then_a_stated_range() -> None:
    stated = replace(profile(error=0.3), error_factors=(1.0, 1.9))
    (one,) = own(sources_of(stated))
    assert (one.of, one.low, one.high) == ("steps", 1.0, 1.9)
    assert [(one.low, one.high) for one in own(sources_of(stated, 0.1))] == [(0.9, 1.1)] * 2
    for wrong in (1.0, -0.1):
        with pytest.raises(InputError, match="profile error"):
            sources_of(profile(), wrong)


def test_operators_timed_alone_have_errors_of_their_own_and_no_host_time() -> None:
    cost = profile(BENT, STRAIGHT, AFFINE, kind="table")
    found = {one.operators[0]: one for one in own(sources_of(cost))}
    assert list(found) == ["bent", "straight", "a"]
    assert found["straight"].high == 1.0
    assert found["bent"].high == found["a"].high > 1.2, "what was not tried is as far off as the worst"
    (host,) = (one for one in sources_of(cost) if one.name == "host")
    assert (host.of, host.low, host.high) == ("host", 0.0, HOST_S)
    assert "host" not in names(sources_of(profile(error=0.1)))
    (given,) = (one for one in sources_of(profile(error=0.1), step_overhead_s=1e-3) if one.name == "host")
    assert given.of == "overhead"


def test_nothing_known_is_said_and_assumed() -> None:
    assert own(sources_of(profile()))[0].basis == UNKNOWN_ERROR
    assert own(sources_of(profile()))[0].high > 1.25
    words = list(in_words(sources_of(profile())))
    assert words[0] == "profile 0.746 to 1.34 times (unknown: no error published, assumed)"


def test_what_is_no_error_is_refused_or_not_looked_at() -> None:
    with pytest.raises(InputError, match="profile error 400 in the median"):
        sources_of(profile(error=400.0))
    for held_out in ({"a": {"points": 0.0, "median": 0.0}}, {"a": {"p95": 0.1}}, {WHOLE_RUNS: {}}):
        assert own(sources_of(replace(profile(), held_out=held_out)))[0].basis == UNKNOWN_ERROR


def test_links_and_derived_costs_have_their_own() -> None:
    link = Affine("all-reduce", row(constant=1e-4), 64)
    cost = replace(profile(AFFINE, link, error=0.1), derived={"live": 8.0}, derivation="made up")
    found = {one.name: one for one in sources_of(cost)}
    assert (found["link"].operators, found["link"].high) == (("all-reduce",), LINK)
    assert found["profile"].operators == found["device"].operators == ("a",)
    assert (found["derived costs"].low, found["derived costs"].high) == (1.0, DERIVED)
    assert {"link", "derived costs"}.isdisjoint(names(sources_of(profile())))


def test_operators_that_were_not_measured_are_further_off() -> None:
    assert ESTIMATE == THEIRS
    cost = profile(BENT, replace(AFFINE, name=f"norm {ESTIMATE}"), kind="table")
    found = sources_of(cost)
    assert {one.operators for one in own(found)} == {("bent",)}
    (norm,) = (one for one in found if one.name == "estimated operators")
    assert (norm.operators, norm.low, norm.high) == ((f"norm {ESTIMATE}",), 1 / DERIVED, DERIVED)


def test_estimates_are_too_fast_and_never_too_slow() -> None:
    dense, experts = estimate("qwen3-8b", "h100", 1), estimate("qwen3-30b-a3b", "h100", 1)
    assert dense.error_factors == (1.0, 2.1)
    assert experts.error_factors == (1.0, 2.3)


def test_error_factors_come_back_and_are_checked() -> None:
    stated = replace(profile(error=0.1), error_factors=(0.9, 1.5))
    assert document_of(stated)["error_factors"] == [0.9, 1.5]
    assert from_parquet(to_parquet(stated)).error_factors == (0.9, 1.5)
    assert "error_factors" not in document_of(profile())
    for wrong in ((0.0, 1.0), (1.1, 1.2), (0.8, 0.9), (1.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(InputError, match="error_factors"):
            replace(profile(), error_factors=wrong)


def test_shipped_profiles_say_where_their_range_comes_from() -> None:
    for name, basis in {
        "epyc-dense-4-layers": "typical error 5.29%",
        "h100-r1-distill-qwen-7b-published": "typical error 12.00%",
        "h100-llama-3.1-8b-published": UNKNOWN_ERROR,
    }.items():
        assert own(sources_of(load_profile(name)))[0].basis == basis


def test_the_host_beside_kernels_has_an_error_of_its_own() -> None:
    alone = sources_of(profile(AFFINE, error=0.1))
    cost = with_host(profile(AFFINE, error=0.1), 1e-3)
    found = {one.name: one for one in sources_of(cost)}
    assert (found["host"].of, found["host"].operators) == ("level", (HOST,))
    assert (found["host"].low, found["host"].high) == (1 / HOST_CODE, HOST_CODE)
    assert found["profile"].operators == alone[0].operators, "kernels alone"
    whole = sources_of(estimate("qwen3-8b", "h100", 1))
    assert "host" not in names(whole), "an estimate's range is that of whole steps"
    assert HOST in whole[0].operators
