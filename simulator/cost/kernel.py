"""Seconds of one decode step, compiled: one evaluator for every cost model, in Python and inside the simulation kernel.

A cost model is packed into two flat arrays, so a compiled loop can carry it without a Python callable:

    data[0:14]    valid range: (lowest, highest) of live, query_tokens, kv_tokens, pairs, prefill_tokens,
                  context_tokens, query_per_seq
    data[14:20]   seconds per unit of 1, live, query_tokens, kv_tokens, pairs, prefill_tokens: the affine operators' sum
    data[20:]     what the other operators point at
    meta[0]       number of other operators, each described by OPERATOR_WIDTH integers from meta[1] on:
                  kind, where its numbers start in data, number of axes, then (feature, grid points) of up to three axes
    ROOF          two affine rows, memory then compute
    TABLE         the grid of each axis, then the values, last axis fastest
"""

import numpy as np
import numpy.typing as npt
from numba import njit

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

ROOF = 1
TABLE = 2
RANGE_FEATURES = 7
AFFINE_AT = 2 * RANGE_FEATURES
ROW_WIDTH = 6
OPERATORS_AT = AFFINE_AT + ROW_WIDTH
OPERATOR_WIDTH = 9


@njit(cache=True, inline="always")
def _row(data: FloatArray, at: int, live: float, query: float, kv: float, pairs: float, prefill: float) -> float:
    """Affine row at `at`: seconds."""
    seconds: float = data[at] + data[at + 1] * live + data[at + 2] * query + data[at + 3] * kv
    seconds += data[at + 4] * pairs + data[at + 5] * prefill
    return seconds


@njit(cache=True, inline="always")
def _feature(which: int, live: float, query: float, kv: float, pairs: float, prefill: float) -> float:
    """Value of feature number `which`, counted as in `simulator.cost.work.FEATURES` from 1."""
    if which == 1:
        value = live
    elif which == 2:
        value = query
    elif which == 3:
        value = kv
    elif which == 4:
        value = pairs
    elif which == 5:
        value = prefill
    elif which == 6:
        value = kv / live
    else:
        value = query / live
    return value


@njit(cache=True, inline="always")
def _cell(data: FloatArray, start: int, points: int, value: float) -> int:
    """Index of the grid cell that holds `value`; the first or the last one beyond the grid."""
    low = start
    high = start + points - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if data[middle] <= value:
            low = middle
        else:
            high = middle
    return low


@njit(cache=True, error_model="numpy")
def step_time(
    meta: IntArray,
    data: FloatArray,
    live: float,
    query_tokens: float,
    kv_tokens: float,
    pairs: float,
    prefill_tokens: float,
) -> float:
    """Seconds of one decode step; tables are multilinear and go on along their edge cells beyond the grid."""
    seconds = _row(data, AFFINE_AT, live, query_tokens, kv_tokens, pairs, prefill_tokens)
    for index in range(meta[0]):
        entry = 1 + index * OPERATOR_WIDTH
        at = meta[entry + 1]
        if meta[entry] == ROOF:
            memory = _row(data, at, live, query_tokens, kv_tokens, pairs, prefill_tokens)
            compute = _row(data, at + ROW_WIDTH, live, query_tokens, kv_tokens, pairs, prefill_tokens)
            seconds += max(memory, compute)
            continue
        axes = meta[entry + 2]
        points = meta[entry + 4]
        x = _feature(meta[entry + 3], live, query_tokens, kv_tokens, pairs, prefill_tokens)
        cell = _cell(data, at, points, x)
        along0 = (x - data[cell]) / (data[cell + 1] - data[cell])
        corner = cell - at
        at += points
        if axes == 1:
            corner += at
            seconds += data[corner] + along0 * (data[corner + 1] - data[corner])
            continue
        points = meta[entry + 6]
        x = _feature(meta[entry + 5], live, query_tokens, kv_tokens, pairs, prefill_tokens)
        cell = _cell(data, at, points, x)
        along1 = (x - data[cell]) / (data[cell + 1] - data[cell])
        corner = corner * points + cell - at
        at += points
        if axes == 2:
            corner += at
            next0 = corner + points
            low = data[corner] + along1 * (data[corner + 1] - data[corner])
            high = data[next0] + along1 * (data[next0 + 1] - data[next0])
            seconds += low + along0 * (high - low)
            continue
        stride1 = meta[entry + 8]
        stride0 = points * stride1
        x = _feature(meta[entry + 7], live, query_tokens, kv_tokens, pairs, prefill_tokens)
        cell = _cell(data, at, stride1, x)
        along2 = (x - data[cell]) / (data[cell + 1] - data[cell])
        corner = corner * stride1 + cell + stride1
        next1 = corner + stride1
        low = data[corner] + along2 * (data[corner + 1] - data[corner])
        high = data[next1] + along2 * (data[next1 + 1] - data[next1])
        plane0 = low + along1 * (high - low)
        corner += stride0
        next1 += stride0
        low = data[corner] + along2 * (data[corner + 1] - data[corner])
        high = data[next1] + along2 * (data[next1 + 1] - data[next1])
        plane1 = low + along1 * (high - low)
        seconds += plane0 + along0 * (plane1 - plane0)
    return seconds


@njit(cache=True, error_model="numpy")
def outside(
    meta: IntArray,
    data: FloatArray,
    live: float,
    query_tokens: float,
    kv_tokens: float,
    pairs: float,
    prefill_tokens: float,
) -> bool:
    """Whether any feature of the step, derived ones included, lies outside the model's valid range."""
    for which in range(1, RANGE_FEATURES + 1):
        value = _feature(which, live, query_tokens, kv_tokens, pairs, prefill_tokens)
        if not data[2 * which - 2] <= value <= data[2 * which - 1]:
            return True
    return False


@njit(cache=True)
def step_times(
    meta: IntArray,
    data: FloatArray,
    live: FloatArray,
    query_tokens: FloatArray,
    kv_tokens: FloatArray,
    pairs: FloatArray,
    prefill_tokens: FloatArray,
) -> FloatArray:
    """`step_time` of every row of five equally long arrays."""
    seconds = np.empty(live.shape[0])
    for row in range(live.shape[0]):
        seconds[row] = step_time(
            meta, data, live[row], query_tokens[row], kv_tokens[row], pairs[row], prefill_tokens[row]
        )
    return seconds


@njit(cache=True)
def outsides(
    meta: IntArray,
    data: FloatArray,
    live: FloatArray,
    query_tokens: FloatArray,
    kv_tokens: FloatArray,
    pairs: FloatArray,
    prefill_tokens: FloatArray,
) -> BoolArray:
    """`outside` of every row of five equally long arrays."""
    flags = np.empty(live.shape[0], np.bool_)
    for row in range(live.shape[0]):
        flags[row] = outside(meta, data, live[row], query_tokens[row], kv_tokens[row], pairs[row], prefill_tokens[row])
    return flags
