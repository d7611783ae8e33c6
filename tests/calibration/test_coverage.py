"""The stated 90 % ranges against everything that was measured: they hold what they promise, and do not hold everything."""

from pathlib import Path

import pytest
from scipy.stats import binomtest

from calibration.imports.aiconfigurator import import_aiconfigurator
from calibration.truth.compare import Comparison
from simulator.budgets.policy import by_live
from simulator.catalogue import load_model
from simulator.compare.sensitivity import bars, span, steps_of
from simulator.cost.draft_cost import DraftCost
from simulator.cost.errors import sources_of
from simulator.engine.cluster import simulate
from tests.benchmarks import coverage
from tests.compare.batches import batch, setup


@pytest.fixture(scope="module")
def truth() -> list[list[Comparison]]:
    return list(coverage.ground_truth())


@pytest.fixture(scope="module")
def recorded() -> list[coverage.Held]:
    return [one for name in coverage.RECORDINGS for one in coverage.recorded(name)]


def share(found: list[coverage.Held]) -> float:
    return sum(one.inside for one in found) / len(found)


def test_ground_truth_lies_in_the_range_as_often_as_stated(truth: list[list[Comparison]]) -> None:
    found = list(coverage.makespans(truth))
    assert len(found) == 20
    assert 0.85 <= share(found) <= 0.95


def test_recordings_of_vllm_do_within_what_so_few_runs_show(recorded: list[coverage.Held]) -> None:
    assert len(recorded) == 16
    assert binomtest(sum(one.inside for one in recorded), 16, 0.9).pvalue > 0.05
    assert not all(one.inside for one in recorded)


def test_all_together_lie_in_the_range_as_often_as_stated(
    truth: list[list[Comparison]], recorded: list[coverage.Held], shared_data: Path
) -> None:
    found = [*coverage.makespans(truth), *coverage.on_gpus(shared_data), *recorded]
    assert 0.85 <= share(found) <= 0.95
    assert all(one.inside for one in found if one.of == "vLLM on GPUs")


def test_speedups_lie_in_the_range_that_is_left_when_common_errors_cancel(truth: list[list[Comparison]]) -> None:
    found = list(coverage.speedups(truth))
    assert len(found) == 16
    assert binomtest(sum(one.inside for one in found), 16, 0.9).pvalue > 0.05


def test_a_profile_that_is_a_third_too_slow_is_found_out() -> None:
    """Negative control."""
    assert share(list(coverage.makespans(list(coverage.ground_truth(1.33))))) < 0.2


def test_what_is_printed_names_every_run_outside() -> None:
    held = [coverage.Held("some", "a", 1.0, 0.9, 1.1), coverage.Held("some", "b", 2.0, 0.9, 1.1)]
    told = list(coverage.lines(held))
    assert told == [
        "outside: some, b: 2.000 measured, 0.900 to 1.100 stated",
        "some                           1 of   2 = 50%, as good as a true share of 1% to 99%",
    ]


def test_kernels_links_derived_costs_and_the_host_each_contribute(shared_data: Path) -> None:
    folder = shared_data / "profiles/aiconfigurator"
    profile = import_aiconfigurator(folder, load_model("qwen3-30b-a3b"), "h200_sxm", "vllm", 2)
    drafting = setup(16, profile, draft_cost=DraftCost(per_step_s=1e-3))
    never, always = (simulate(batch(1, 24), by_live([most]), drafting).logs for most in (0, 4))
    moved = [bars(profile, sources_of(profile), steps_of([logs])) for logs in (never, always)]
    plain, found = ({name: span(effects) for name, effects in one.items()} for one in moved)
    for name in ("profile", "device", "estimated operators", "link", "host", "derived costs", "drafting"):
        assert found[name][1] > 1.005, name
    assert plain["derived costs"] == plain["drafting"] == (1.0, 1.0), "nothing is verified"
    assert plain["host"][1] < found["host"][1]
