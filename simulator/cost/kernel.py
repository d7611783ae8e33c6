"""Seconds of one decode step, compiled: one evaluator for every cost model, in Python and inside the simulation kernel.

A cost model is packed into two flat arrays, so a compiled loop can carry it without a Python callable:

    data[0:7]     seconds per unit of 1, live, query_tokens, kv_tokens, pairs, prefill_tokens, padded_tokens: the affine
                  operators' sum
    data[7:]      what the ranges and the other operators point at
    meta[0:2]     number of bounded features, number of other operators
    meta[2:]      a pair for each bounded feature (feature, where its lowest and highest value are in data), then for
                  each operator OPERATOR_WIDTH integers: kind, where its numbers start in data, when, per, number of
                  axes, then (feature, grid points) of up to four axes
    ROOF          two affine rows, memory then compute
    TABLE         the grid of each axis, then the values, last axis fastest; multiplied by feature `per` (-1: none)

Features are numbered as in `simulator.cost.work.FEATURES`.
"""

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Features = tuple[float, ...]

ROOF = 1
TABLE = 2
ROW_WIDTH = 7
OPERATOR_WIDTH = 13
FEATURES = 21
# features that decide when an operator runs
PREFILL_SEQS = 6
DECODE_SEQS = 12
# when an operator runs: with which steps
ALWAYS, DECODE_ONLY, PREFILL_ONLY, MIXED, ANY_DECODE, ANY_PREFILL = range(6)


@compiled
def features(
    live: float, query: float, kv: float, pairs: float, prefill: float, padded: float, chunks: float, chunk_kv: float,
    chunk_pairs: float, longest: float,
) -> Features:  # fmt: skip
    """Every feature of a step from its ten sums; `work.StepWork` says what they are, `work.FEATURES` in what order.

    Several prefill chunks count as equal ones of their mean length, at the context that gives them the same pairs.
    """
    decoding = live - chunks
    context = (kv - chunk_kv) / max(decoding, 1.0)
    width = (query - prefill) / decoding if decoding > 0 else 1.0
    chunk = prefill / max(chunks, 1.0)
    before = chunk_pairs / prefill - (chunk + 1) / 2 if prefill > 0 else 0.0
    excess = max(longest - context, 0.0)
    evenness = context / longest if longest > 0 else 1.0
    return (
        float(live), float(query), float(kv), float(pairs), float(prefill), float(padded), float(chunks), float(chunk_kv),
        float(chunk_pairs), float(longest), kv / live, query / live, float(decoding), context, width, chunk, before, excess,
        evenness, max(chunks - 1.0, 0.0), float(query - prefill + chunks),
    )  # fmt: skip


@compiled
def _row(data: FloatArray, at: int, f: Features) -> float:
    """Affine row at `at`: seconds."""
    seconds: float = data[at] + data[at + 1] * f[0] + data[at + 2] * f[1] + data[at + 3] * f[2]
    seconds += data[at + 4] * f[3] + data[at + 5] * f[4] + data[at + 6] * f[5]
    return seconds


@compiled
def _runs(when: int, f: Features) -> bool:
    """Whether an operator takes part in the step."""
    if when == ALWAYS:
        return True
    decoding, prefilling = f[DECODE_SEQS] > 0, f[PREFILL_SEQS] > 0
    if when == ANY_DECODE:
        return decoding
    if when == ANY_PREFILL:
        return prefilling
    if when == MIXED:
        return decoding and prefilling
    return decoding != prefilling and decoding == (when == DECODE_ONLY)


@compiled
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


@compiled
def _along(data: FloatArray, cell: int, value: float) -> float:
    """How far `value` lies along its grid cell, 0 to 1 within it."""
    fraction: float = (value - data[cell]) / (data[cell + 1] - data[cell])
    return fraction


@compiled
def _line(data: FloatArray, at: int, along: float) -> float:
    seconds: float = data[at] + along * (data[at + 1] - data[at])
    return seconds


@compiled
def _plane(data: FloatArray, at: int, stride: int, along0: float, along1: float) -> float:
    low = _line(data, at, along1)
    return low + along0 * (_line(data, at + stride, along1) - low)


@compiled
def _cube(data: FloatArray, at: int, stride0: int, stride1: int, along0: float, along1: float, along2: float) -> float:
    low = _plane(data, at, stride1, along1, along2)
    return low + along0 * (_plane(data, at + stride0, stride1, along1, along2) - low)


@compiled
def _table(meta: IntArray, data: FloatArray, entry: int, f: Features) -> float:
    """Multilinear interpolation, going on along the edge cells beyond the grid."""
    axes = meta[entry + 4]
    at = meta[entry + 1]
    points0 = meta[entry + 6]
    x = f[meta[entry + 5]]
    cell = _cell(data, at, points0, x)
    along0 = _along(data, cell, x)
    corner = cell - at
    at += points0
    if axes == 1:
        return _line(data, at + corner, along0)
    points1 = meta[entry + 8]
    x = f[meta[entry + 7]]
    cell = _cell(data, at, points1, x)
    along1 = _along(data, cell, x)
    corner = corner * points1 + cell - at
    at += points1
    if axes == 2:
        return _plane(data, at + corner, points1, along0, along1)
    points2 = meta[entry + 10]
    x = f[meta[entry + 9]]
    cell = _cell(data, at, points2, x)
    along2 = _along(data, cell, x)
    corner = corner * points2 + cell - at
    at += points2
    if axes == 3:
        return _cube(data, at + corner, points1 * points2, points2, along0, along1, along2)
    points3 = meta[entry + 12]
    x = f[meta[entry + 11]]
    cell = _cell(data, at, points3, x)
    along3 = _along(data, cell, x)
    corner = corner * points3 + cell - at + at + points3
    stride = points2 * points3
    low = _cube(data, corner, stride, points3, along1, along2, along3)
    high = _cube(data, corner + points1 * stride, stride, points3, along1, along2, along3)
    return low + along0 * (high - low)


@compiled
def step_time(meta: IntArray, data: FloatArray, f: Features) -> float:
    """Seconds of one decode step with these `features`."""
    seconds = _row(data, 0, f)
    for index in range(meta[1]):
        entry = 2 + 2 * meta[0] + index * OPERATOR_WIDTH
        if not _runs(meta[entry + 2], f):
            continue
        if meta[entry] == ROOF:
            at = meta[entry + 1]
            seconds += max(_row(data, at, f), _row(data, at + ROW_WIDTH, f))
            continue
        per = meta[entry + 3]
        factor = 1.0 if per < 0 else f[per]
        if factor != 0.0:
            seconds += factor * _table(meta, data, entry, f)
    return seconds


@compiled
def outside(meta: IntArray, data: FloatArray, f: Features) -> bool:
    """Whether any feature of the step, derived ones included, lies outside the model's valid range."""
    for index in range(meta[0]):
        value = f[meta[2 + 2 * index]]
        at = meta[3 + 2 * index]
        if not data[at] <= value <= data[at + 1]:
            return True
    return False


@compiled
def step_times(meta: IntArray, data: FloatArray, work: FloatArray) -> FloatArray:
    """`step_time` of every row of float64[steps, 10], the fields of StepWork."""
    seconds = np.empty(work.shape[0])
    for row in range(work.shape[0]):
        w = work[row]
        seconds[row] = step_time(meta, data, features(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9]))
    return seconds


@compiled
def features_of(work: FloatArray) -> FloatArray:
    """Every feature of every row of float64[steps, 10], the fields of StepWork; float64[steps, features]."""
    found = np.empty((work.shape[0], FEATURES))
    for row in range(work.shape[0]):
        w = work[row]
        f = features(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9])
        for which in range(FEATURES):
            found[row, which] = f[which]
    return found


@compiled
def outsides(meta: IntArray, data: FloatArray, work: FloatArray) -> BoolArray:
    """`outside` of every row of float64[steps, 10], the fields of StepWork."""
    flags = np.empty(work.shape[0], np.bool_)
    for row in range(work.shape[0]):
        w = work[row]
        flags[row] = outside(meta, data, features(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8], w[9]))
    return flags
