"""Seconds of one decode step, compiled: one evaluator for every cost model, in Python and inside the simulation kernel.

A cost model is packed (`packing.pack`) into one record, `Cost`, which points at arrays: the sum of the affine operators and
two rows for each roof, the bounds of the valid range, the other operators, their axes, and the numbers of the tables.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled, entry
from simulator.cost.work import FEATURE, WORK, WORK_FIELDS, Features, Work
from simulator.records import FLOAT, Array, Pointing, array_field, layout, record_field

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

ROOF, TABLE = range(2)
"""Kinds of operators that are not affine."""
ALWAYS, DECODE_ONLY, PREFILL_ONLY, MIXED, ANY_DECODE, ANY_PREFILL = range(6)
"""When an operator runs: with which steps."""
NOTHING = -1


class Row:
    """Seconds per unit of each: an affine function of the work."""

    constant: float
    live: float
    query_tokens: float
    kv_tokens: float
    pairs: float
    prefill_tokens: float
    padded_tokens: float


class Bound:
    """The valid range of one feature."""

    feature: int
    lowest: float
    highest: float


class Axis:
    """One axis of a table: its feature, and its grid points data[grid : grid + points]; `cell`: where it was read last."""

    feature: int
    points: int
    grid: int
    cell: int


class Operator:
    """A roof: rows[at] and rows[at + 1]. A table: its values data[at:], last axis fastest, times feature `per`."""

    kind: int
    at: int
    when: int
    per: int
    axes: int
    axis: int


class Cost:
    """A cost model: rows[0] is the sum of its affine operators. `features`: those of the step that is being priced."""

    uneven: bool  # whether it depends on how uneven the contexts of a batch are
    rows: Array[Row]
    bounds: Array[Bound]
    operators: Array[Operator]
    axes: Array[Axis]
    data: Array[float]
    features: Array[float]


ROW, BOUND, AXIS, OPERATOR, COST = layout(Row), layout(Bound), layout(Axis), layout(Operator), layout(Cost)
N_FEATURES = len(FEATURE.names)

rows_of, bounds_of, operators_of = (
    array_field("rows", ROW),
    array_field("bounds", BOUND),
    array_field("operators", OPERATOR),
)
axes_of, data_of = array_field("axes", AXIS), array_field("data", FLOAT)
features_in = record_field("features", FEATURE)
numbers_of = array_field("features", FLOAT)


@compiled
def derive(work: Work, f: Features) -> None:
    """Fill in every feature of a step from its work.

    Several prefill chunks count as equal ones of their mean length, at the context that gives them the same pairs.
    """
    live, chunks, prefill, longest = work.live, work.prefill_seqs, work.prefill_tokens, work.longest_context
    decoding = live - chunks
    context = (work.kv_tokens - work.prefill_kv_tokens) / max(decoding, 1.0)
    chunk = prefill / max(chunks, 1.0)
    f.live, f.query_tokens, f.kv_tokens, f.pairs = live, work.query_tokens, work.kv_tokens, work.pairs
    f.prefill_tokens, f.padded_tokens, f.prefill_seqs = prefill, work.padded_tokens, chunks
    f.prefill_kv_tokens, f.prefill_pairs, f.longest_context = work.prefill_kv_tokens, work.prefill_pairs, longest
    f.expert_tokens = work.expert_tokens
    f.context_tokens = work.kv_tokens / live
    f.query_per_seq = work.query_tokens / live
    f.decode_seqs = decoding
    f.decode_context = context
    f.decode_width = (work.query_tokens - prefill) / decoding if decoding > 0 else 1.0
    f.prefill_chunk = chunk
    f.prefill_context = work.prefill_pairs / prefill - (chunk + 1) / 2 if prefill > 0 else 0.0
    f.excess_context = max(longest - context, 0.0)
    f.evenness = context / longest if longest > 0 else 1.0
    f.further_chunks = max(chunks - 1.0, 0.0)
    f.sampled_tokens = work.query_tokens - prefill + chunks


@compiled
def _affine(row: Row, f: Features) -> float:
    seconds = row.constant + row.live * f.live + row.query_tokens * f.query_tokens + row.kv_tokens * f.kv_tokens
    seconds += row.pairs * f.pairs + row.prefill_tokens * f.prefill_tokens + row.padded_tokens * f.padded_tokens
    return seconds


@compiled
def _runs(when: int, f: Features) -> bool:
    """Whether an operator takes part in the step."""
    if when == ALWAYS:
        return True
    decoding, prefilling = f.decode_seqs > 0, f.prefill_seqs > 0
    if when == ANY_DECODE:
        return decoding
    if when == ANY_PREFILL:
        return prefilling
    if when == MIXED:
        return decoding and prefilling
    return decoding != prefilling and decoding == (when == DECODE_ONLY)


@compiled
def _cell(data: Array[float], axis: Axis, value: float) -> int:
    """Where in `data` the grid cell begins that holds `value`; the first or the last one beyond the grid."""
    low, high = axis.grid, axis.grid + axis.points - 1
    at = axis.cell  # of step after step the values are close
    if (data[at] <= value or at == low) and (value < data[at + 1] or at + 1 == high):
        return at
    while high - low > 1:
        middle = (low + high) >> 1
        if data[middle] <= value:
            low = middle
        else:
            high = middle
    axis.cell = low
    return low


@compiled
def _along(data: Array[float], cell: int, value: float) -> float:
    """How far `value` lies along its grid cell, 0 to 1 within it."""
    return (value - data[cell]) / (data[cell + 1] - data[cell])


@compiled
def _line(data: Array[float], at: int, along: float) -> float:
    return data[at] + along * (data[at + 1] - data[at])


@compiled
def _plane(data: Array[float], at: int, stride: int, along0: float, along1: float) -> float:
    low = _line(data, at, along1)
    return low + along0 * (_line(data, at + stride, along1) - low)


@compiled
def _cube(
    data: Array[float], at: int, stride0: int, stride1: int, along0: float, along1: float, along2: float
) -> float:
    low = _plane(data, at, stride1, along1, along2)
    return low + along0 * (_plane(data, at + stride0, stride1, along1, along2) - low)


@compiled
def _table(cost: Cost, operator: Operator, features: Array[float]) -> float:
    """Multilinear interpolation, going on along the edge cells beyond the grid."""
    data, axes, first, at = data_of(cost), axes_of(cost), operator.axis, operator.at
    axis = axes[first]
    cell = _cell(data, axis, features[axis.feature])
    along0, at0 = _along(data, cell, features[axis.feature]), cell - axis.grid
    if operator.axes == 1:
        return _line(data, at + at0, along0)
    axis = axes[first + 1]
    cell = _cell(data, axis, features[axis.feature])
    along1, at1, points1 = _along(data, cell, features[axis.feature]), at0 * axis.points + cell - axis.grid, axis.points
    if operator.axes == 2:
        return _plane(data, at + at1, points1, along0, along1)
    axis = axes[first + 2]
    cell = _cell(data, axis, features[axis.feature])
    along2, at2, points2 = _along(data, cell, features[axis.feature]), at1 * axis.points + cell - axis.grid, axis.points
    if operator.axes == 3:
        return _cube(data, at + at2, points1 * points2, points2, along0, along1, along2)
    axis = axes[first + 3]
    cell = _cell(data, axis, features[axis.feature])
    along3, at3, points3 = _along(data, cell, features[axis.feature]), at2 * axis.points + cell - axis.grid, axis.points
    stride = points2 * points3
    low = _cube(data, at + at3, stride, points3, along1, along2, along3)
    high = _cube(data, at + at3 + points1 * stride, stride, points3, along1, along2, along3)
    return low + along0 * (high - low)


@compiled
def step_time(cost: Cost, work: Work) -> float:
    """Seconds of one decode step; leaves its features in `cost.features`, where `outside` finds them."""
    f, features, rows, operators = features_in(cost), numbers_of(cost), rows_of(cost), operators_of(cost)
    derive(work, f)
    seconds = _affine(rows[0], f)
    for index in range(operators.size):
        operator = operators[index]
        if not _runs(operator.when, f):
            continue
        if operator.kind == ROOF:
            seconds += max(_affine(rows[operator.at], f), _affine(rows[operator.at + 1], f))
            continue
        factor = 1.0 if operator.per == NOTHING else features[operator.per]
        if factor != 0.0:
            seconds += factor * _table(cost, operator, features)
    return seconds


@compiled
def outside(cost: Cost) -> bool:
    """Whether any feature of the step that was priced last, derived ones included, lies outside the model's valid range."""
    features, bounds = numbers_of(cost), bounds_of(cost)
    for index in range(bounds.size):
        bound = bounds[index]
        if not bound.lowest <= features[bound.feature] <= bound.highest:
            return True
    return False


@entry
def _price(costs: Array[Cost], work: Array[Work], seconds: Array[float], flags: Array[bool]) -> None:
    cost = costs[0]
    for step in range(work.size):
        seconds[step] = step_time(cost, work[step])
        flags[step] = outside(cost)


@entry
def _derive_each(work: Array[Work], features: Array[Features]) -> None:
    for step in range(work.size):
        derive(work[step], features[step])


@entry
def _ends(
    work: Array[Work], scratch: Array[Features], values: FloatArray, lowest: FloatArray, highest: FloatArray
) -> None:
    for step in range(work.size):
        derive(work[step], scratch[0])
        for feature in range(values.size):
            lowest[feature] = min(lowest[feature], values[feature])
            highest[feature] = max(highest[feature], values[feature])


def step_times(cost: Pointing, work: FloatArray) -> FloatArray:
    """Seconds of every row of float64[steps, 11], the fields of `work.Work`."""
    return _priced(cost, work)[0]


def outsides(cost: Pointing, work: FloatArray) -> BoolArray:
    """Whether each row of float64[steps, 11] lies outside the model's valid range."""
    return _priced(cost, work)[1]


def features_of(work: FloatArray) -> FloatArray:
    """Every feature of every row of float64[steps, 11]; float64[steps, features]."""
    found = np.empty((work.shape[0], N_FEATURES))
    _derive_each(_records(work), found.view(FEATURE)[:, 0])
    return found


def ends_of(work: "npt.NDArray[Any]") -> tuple[FloatArray, FloatArray]:
    """Least and most of every feature over records that begin as `work.Work` does, infinite without any; float64[features]."""
    assert (work.dtype.names or ())[: len(WORK_FIELDS)] == tuple(WORK_FIELDS), "compiled code takes one kind of record"
    rows: Any = np.ndarray(work.shape, WORK, work, strides=work.strides)
    lowest, values = np.full(N_FEATURES, np.inf), np.empty(N_FEATURES)
    highest = -lowest
    _ends(rows, values.view(FEATURE), values, lowest, highest)
    return lowest, highest


def _priced(cost: Pointing, work: FloatArray) -> tuple[FloatArray, BoolArray]:
    seconds, flags = np.empty(work.shape[0]), np.empty(work.shape[0], np.bool_)
    _price(cost.record, _records(work), seconds, flags)
    return seconds, flags


def _records(work: FloatArray) -> Array[Work]:
    rows: Array[Work] = np.ascontiguousarray(work, np.float64).view(WORK)[:, 0]
    return rows
