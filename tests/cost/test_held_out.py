"""How far tables are off between their points, where time goes, and what a device allows at least."""

import itertools

import numpy as np
import pytest

from simulator.catalogue import load_device, load_model
from simulator.cost import Affine, Profile, StepWork, Table, roofline
from simulator.cost.breakdown import OTHER, breakdown
from simulator.cost.held_out import held_out
from simulator.cost.model_config import model_shape
from simulator.cost.operators import row
from simulator.cost.roofs import roofs


def profile(*operators, **facts) -> Profile:
    kind = "table" if any(isinstance(one, Table) for one in operators) else "affine"
    return Profile("toy", kind, operators, "m", "d", "s", "u", **facts)


X = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
Y = np.array([10.0, 20.0, 50.0])


def test_a_straight_table_has_no_error_and_a_bent_one_has_it_where_it_bends():
    straight = Table("straight", ("live", "context_tokens"), (X, Y), X[:, None] + 2 * Y)
    bent = Table("bent", ("live",), (X,), X**2)
    found = held_out(profile(straight, bent))
    assert found["straight"] == {"points": 2 * 3 + 5, "median": pytest.approx(0), "p95": pytest.approx(0, abs=1e-12)}
    # left out are 2 and 8: (1 + (2-1)/(4-1) * (16-1)) / 4 and (16 + (8-4)/(16-4) * (256-16)) / 64
    errors = [6 / 4 - 1, 96 / 64 - 1]
    expected = {"points": 2, "median": np.median(errors), "p95": np.quantile(errors, 0.95)}
    assert found["bent"] == pytest.approx(expected)


def test_what_was_not_measured_counts_in_neither_direction():
    axes = ("decode_seqs", "decode_context", "decode_width")
    grid = (X, Y, np.array([1.0, 2.0, 3.0]))
    values = np.random.default_rng(0).random((5, 3, 3)) + 1
    table = Table("t", axes, grid, values, when="any_decode")
    assert held_out(profile(table, MS))["t"]["points"] == 2 * 9 + 15 + 15
    derived = {"decode_width": 1.0, "kv_tokens": 200.0}
    some = held_out(profile(table, MS, derived=derived, derivation="so"))
    # by sequences (1, 2, 4) at all three contexts and (4, 8, 16) at 10, as 16 x 10 <= 200; by context 1, 2 and 4 sequences
    assert some["t"]["points"] == 4 + 3
    changed = values.copy()
    changed[..., 1:] = changed[-1, -1] = 99.0
    table = Table("t", axes, grid, changed, when="any_decode")
    assert held_out(profile(table, MS, derived=derived, derivation="so")) == some


def test_what_the_profile_recorded_comes_first():
    recorded = {"bent": {"points": 9.0, "median": 0.01, "p95": 0.02}}
    assert held_out(profile(Table("bent", ("live",), (X,), X**2), held_out=recorded)) == recorded


def test_tables_of_two_points_and_other_operators_have_nothing_to_leave_out():
    assert held_out(profile(MS, Table("t", ("live",), (X[:2],), X[:2]))) == {}


MS = Affine("overhead", row(constant=1e-3))


def test_breakdown_sums_to_the_step_and_names_the_largest():
    operators = [Affine(f"part {rank}", row(constant=rank * 1e-3)) for rank in range(1, 11)]
    work = StepWork.decode([1, 8, 64], 100)
    parts = breakdown(profile(*operators), work, most_named=3)
    assert list(parts) == ["part 10", "part 9", "part 8", OTHER]
    np.testing.assert_allclose(sum(parts.values()), profile(*operators).step_time_s(work), rtol=1e-12)
    assert parts[OTHER] == pytest.approx([sum(range(1, 8)) * 1e-3] * 3)
    assert OTHER not in breakdown(profile(*operators[:4]), work, most_named=3)  # a single other one keeps its name


@pytest.mark.parametrize(
    "model",
    [
        *("qwen3-8b", "llama-3.1-8b", "qwen3-32b-fp8", "qwen3.5-27b"),
        *("qwen3-30b-a3b", "deepseek-v3", "gemma-3-27b", "gpt-oss-20b", "llama-4-scout", "qwen3-next-80b-a3b"),
    ],
)
def test_roofs_are_those_of_the_roofline_estimate(model):
    """A dense model's roofline is the higher roof; with experts or windows two are added up: between it and their sum."""
    device, config = load_device("h200"), load_model(model)
    estimate = roofline(config, device)
    limits = roofs(estimate, model_shape(config), device, [1, 7, 64, 512], [0, 1024, 32768])
    higher, total = np.maximum(limits.memory_s, limits.compute_s), limits.memory_s + limits.compute_s
    work = StepWork.decode(limits.live, limits.context_tokens)
    if model_shape(config).experts or model_shape(config).windowed_layers:
        assert (estimate.step_time_s(work) >= higher * (1 - 5e-3)).all()  # between points of the table of experts
        assert (estimate.step_time_s(work) <= total * (1 + 5e-3)).all()
    else:
        np.testing.assert_allclose(limits.ratio, 1.0, rtol=1e-12)
        np.testing.assert_allclose(estimate.step_time_s(work), higher, rtol=1e-12)


def test_roofs_count_every_byte_and_operation():
    device = {"bandwidth_bytes_per_s": 4e12, "peak_flops_per_s": 1e15}
    shape = model_shape(load_model("qwen3-8b"))
    limits = roofs(profile(MS), shape, device, [3], [1000])
    projections = 36 * (4096 * (32 + 2 * 8) * 128 + 32 * 128 * 4096 + 3 * 4096 * 12288)
    norms = 36 * (2 * 4096 + 2 * 128) + 4096
    weights = projections + norms + 4096 * 151936
    assert limits.memory_s[0, 0] == pytest.approx((2 * weights + 3 * 1000 * 2 * 36 * 8 * 128 * 2) / 4e12, rel=1e-12)
    assert limits.compute_s[0, 0] == pytest.approx((3 * 2 * weights + 3 * 1000 * 4 * 36 * 32 * 128) / 1e15, rel=1e-12)
    assert limits.ratio.shape == (1, 1)


def test_roofs_know_what_the_profile_is_valid_for():
    bounded = profile(MS, valid_range={"live": (1.0, 8.0), "context_tokens": (0.0, 100.0)})
    limits = roofs(bounded, model_shape(load_model("qwen3-0.6b")), load_device("h200"), [1, 8, 9], [100, 101])
    cases = itertools.product((True, True, False), (True, False))
    assert limits.inside.ravel().tolist() == [live and context for live, context in cases]
