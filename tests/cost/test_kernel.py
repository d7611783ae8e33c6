"""The compiled evaluator against NumPy and SciPy, for every kind of operator."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.recfunctions import structured_to_unstructured
from scipy.interpolate import RegularGridInterpolator

from simulator.compiled import compiled
from simulator.cost import FEATURES, Affine, Profile, Roof, StepWork, Table
from simulator.cost.kernel import ends_of, features_of, outside, step_time
from simulator.cost.operators import row
from simulator.cost.work import WORK, WORK_FIELDS
from simulator.engine.state import STEP
from simulator.records import records

ROWS = 40
COSTS = st.floats(0.0, 1e-3, allow_subnormal=False)
TEXTS = {"name": "p", "model": "m", "device": "d", "source": "s", "uncertainty": "u"}


def random_work(generator: np.random.Generator) -> StepWork:
    """Steps of some decoding sequences and some prefill chunks, at least one of either."""
    chunks = generator.integers(0, 4, ROWS)
    decoding = generator.integers(0, 200, ROWS) + (chunks == 0)
    chunk_tokens = chunks * generator.integers(1, 3000, ROWS)
    chunk_kv = chunk_tokens + chunks * generator.integers(0, 9000, ROWS)
    chunk_pairs = chunk_tokens * (chunk_tokens + 1) // 2 + chunk_tokens * (chunk_kv - chunk_tokens)
    kv = decoding * generator.integers(0, 3000, ROWS)
    query = decoding * generator.integers(1, 33, ROWS)
    longest = np.where(decoding > 0, kv // np.maximum(decoding, 1) + generator.integers(0, 9000, ROWS), 0)
    return StepWork(
        decoding + chunks, query + chunk_tokens, kv + chunk_kv, query * (kv // np.maximum(decoding, 1)) + chunk_pairs,
        chunk_tokens, query + chunk_tokens + generator.integers(0, 9, ROWS), chunks, chunk_kv, chunk_pairs, longest,
        query + chunk_tokens + generator.integers(0, 40, ROWS) / 4,
    )  # fmt: skip


def feature_columns(work: StepWork) -> np.ndarray:
    live, query, kv, pairs, prefill, padded, chunks, chunk_kv, chunk_pairs, longest, experts = work.fields
    none = np.zeros(ROWS)
    decoding = live - chunks
    context = np.divide(kv - chunk_kv, decoding, out=none.copy(), where=decoding > 0)
    width = np.divide(query - prefill, decoding, out=none + 1, where=decoding > 0)
    chunk = np.divide(prefill, chunks, out=none.copy(), where=chunks > 0)
    before = np.divide(chunk_pairs, prefill, out=none.copy(), where=prefill > 0) - (chunk + 1) / 2 * (prefill > 0)
    return np.column_stack([
        live, query, kv, pairs, prefill, padded, chunks, chunk_kv, chunk_pairs, longest, experts,
        kv / live, query / live, decoding, context, width, chunk, before, np.maximum(longest - context, 0),
        np.divide(context, longest, out=none + 1, where=longest > 0), np.maximum(chunks - 1, 0), query - prefill + chunks,
    ])  # fmt: skip


def profile(kind: str, *operators, **more) -> Profile:
    return Profile(kind=kind, operators=operators, **TEXTS, **more)


@st.composite
def tables(draw, name: str = "t") -> Table:
    axes = draw(st.permutations(FEATURES))[: draw(st.integers(1, 4))]
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = tuple(draw(st.lists(st.integers(2, 6), min_size=len(axes), max_size=len(axes))))
    grid = tuple(
        np.cumsum(1.0 + generator.exponential(3000.0 if "kv" in axis else 30.0, size))
        for axis, size in zip(axes, shape, strict=True)
    )
    return Table(name, tuple(axes), grid, generator.uniform(1e-4, 1e-2, shape), draw(st.integers(1, 40)))


def table_reference(table: Table, work: StepWork) -> np.ndarray:
    columns = feature_columns(work)[:, [FEATURES.index(axis) for axis in table.axes]]
    interpolate = RegularGridInterpolator(table.grid, table.values_s, bounds_error=False, fill_value=None)
    return table.repeat * interpolate(columns)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(tables(), st.integers(0, 2**32))
def test_table_is_multilinear_with_linear_extrapolation(table, seed):
    work = random_work(np.random.default_rng(seed))
    expected = table_reference(table, work)
    got = profile("table", table, Affine("one", row(constant=1.0))).operator_times(work)["t"]
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(COSTS, min_size=7, max_size=7),
    st.lists(COSTS, min_size=7, max_size=7),
    st.integers(1, 80),
    st.integers(0, 2**32),
)
def test_affine_and_roof_rows(first, second, repeat, seed):
    first[0] += 1e-6
    second[0] += 1e-6
    work = random_work(np.random.default_rng(seed))
    columns = np.column_stack([np.ones(ROWS), *work.fields[:6]])
    affine = profile("affine", Affine("a", tuple(first), repeat))
    np.testing.assert_allclose(affine.step_time_s(work), repeat * columns @ first, rtol=1e-12)
    roof = profile("roofline", Roof("r", tuple(first), tuple(second), repeat))
    expected = repeat * np.maximum(columns @ first, columns @ second)
    np.testing.assert_allclose(roof.step_time_s(work), expected, rtol=1e-12)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(tables("first"), tables("second"), st.integers(0, 2**32))
def test_a_profile_is_the_sum_of_all_its_operators(first, second, seed):
    second = Table("second", first.axes, first.grid, first.values_s * 3, second.repeat)
    roof = Roof("roof", row(constant=1.0, kv_tokens=1e-7), row(query_tokens=1e-4))
    affine = Affine("affine", row(live=2e-4, constant=1e-3), 3)
    total = profile("table", first, affine, roof, second)
    work = random_work(np.random.default_rng(seed))
    live, query, kv, *_ = work.fields[:5]
    tabled = table_reference(first, work) + table_reference(second, work)
    expected = tabled + np.maximum(1.0 + 1e-7 * kv, 1e-4 * query) + 3 * (1e-3 + 2e-4 * live)
    np.testing.assert_allclose(total.step_time_s(work), expected, rtol=1e-9, atol=1e-9 * np.abs(tabled).max())
    parts = total.operator_times(work)
    assert list(parts) == ["first", "affine", "roof", "second"]
    np.testing.assert_allclose(
        sum(parts.values()), total.step_time_s(work), rtol=1e-9, atol=1e-9 * np.abs(tabled).max()
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.sets(st.sampled_from(FEATURES)), st.integers(0, 2**32))
def test_outside_is_any_feature_beyond_its_range(bounded, seed):
    generator = np.random.default_rng(seed)
    work = random_work(generator)
    columns = feature_columns(work)
    ranges, expected = {}, np.zeros(ROWS, bool)
    for feature in bounded:
        values = columns[:, FEATURES.index(feature)]
        low, high = np.sort(generator.choice(values, 2))  # both ends are values that occur: ends count as inside
        ranges[feature] = (low, high)
        expected |= (values < low) | (values > high)
    model = profile("affine", Affine("a", row(constant=1.0)), valid_range=ranges)
    np.testing.assert_array_equal(model.outside(work), expected)


def test_table_values_on_its_grid_points_are_exact():
    values = np.random.default_rng(1).uniform(1e-3, 1e-2, (3, 4))
    table = Table("t", ("live", "kv_tokens"), (np.array([1.0, 5.0, 9.0]), np.array([0.0, 10.0, 50.0, 70.0])), values)
    live, kv = np.meshgrid(*table.grid, indexing="ij")
    np.testing.assert_allclose(profile("table", table).step_time_s(StepWork(live, live, kv, 0)), values, rtol=1e-15)


@compiled
def total_in_a_compiled_loop(costs, live, query, kv, scratch):
    cost, work = costs[0], scratch[0]
    seconds, outsiders = 0.0, 0
    for step in range(live.size):
        work.live, work.query_tokens, work.padded_tokens, work.kv_tokens = (
            live[step],
            query[step],
            query[step],
            kv[step],
        )
        work.longest_context, work.expert_tokens = kv[step] / live[step], query[step]
        seconds += step_time(cost, work)
        outsiders += outside(cost)
    return seconds, outsiders


@pytest.mark.parametrize("kind", ["affine", "roofline", "table"])
def test_a_compiled_caller_gets_what_python_gets(kind):
    operator = {
        "affine": Affine("a", row(constant=1e-3, query_tokens=1e-5)),
        "roofline": Roof("r", row(constant=5e-3, kv_tokens=1e-7), row(query_tokens=1e-5)),
        "table": Table(
            "t",
            ("query_tokens", "context_tokens"),
            (np.array([1.0, 900.0]), np.array([0.0, 100.0, 3000.0])),
            np.array([[1.0, 2.0, 3.0], [2.0, 5.0, 9.0]]),
        ),
    }[kind]
    model = profile(kind, operator, valid_range={"kv_tokens": (0.0, 100_000.0)})
    live, query, kv, *_ = (column.astype(np.int64) for column in random_work(np.random.default_rng(2)).fields[:5])
    work = StepWork(live, query, kv, 0)
    seconds, outsiders = total_in_a_compiled_loop(model.packed.record, live, query, kv, records(WORK, 1))
    assert seconds == pytest.approx(model.step_time_s(work).sum(), rel=1e-12)
    assert outsiders == model.outside(work).sum()
    assert 0 < outsiders < ROWS


def test_ends_of_records_are_those_of_their_features() -> None:
    """Of a log's records, which have more fields than the work that compiled code was made for."""
    rng = np.random.default_rng(3)
    log = np.zeros(50, STEP)
    for name in STEP.names:
        log[name] = rng.uniform(1, 9, 50)
    features = features_of(structured_to_unstructured(log[3:40][list(WORK_FIELDS)]))
    lowest, highest = ends_of(log[3:40])
    assert np.array_equal(lowest, features.min(axis=0))
    assert np.array_equal(highest, features.max(axis=0))
