"""Flattens operators and valid range into the two arrays that `simulator.cost.kernel` reads."""

import numpy as np
import numpy.typing as npt

from simulator.cost.kernel import OPERATOR_WIDTH, ROOF, TABLE
from simulator.cost.operators import MOST_AXES, ROW_KEYS, Affine, Bounds, Operator, Roof
from simulator.cost.work import FEATURES

Packed = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def pack(operators: tuple[Operator, ...], bounds: Bounds) -> Packed:
    """(meta, data) of a sum of operators; repeats are multiplied in and affine rows are added up."""
    ranges = [edge for name in FEATURES for edge in bounds.get(name, (-np.inf, np.inf))]
    rows = [np.array(one.row_s) * one.repeat for one in operators if isinstance(one, Affine)]
    pieces = [np.array(ranges), np.sum(rows, axis=0) if rows else np.zeros(len(ROW_KEYS))]
    filled = sum(piece.size for piece in pieces)
    entries = []
    for one in operators:
        if isinstance(one, Affine):
            continue
        entry = [TABLE, filled, 0] + [0] * (2 * MOST_AXES)
        if isinstance(one, Roof):
            entry[0] = ROOF
            numbers = [np.array(one.memory_s) * one.repeat, np.array(one.compute_s) * one.repeat]
        else:
            entry[2] = len(one.axes)
            for axis, (name, points) in enumerate(zip(one.axes, one.grid, strict=True)):
                entry[3 + 2 * axis : 5 + 2 * axis] = [FEATURES.index(name) + 1, points.size]
            numbers = [*one.grid, one.values_s.ravel() * one.repeat]
        pieces += numbers
        filled += sum(piece.size for piece in numbers)
        assert len(entry) == OPERATOR_WIDTH
        entries += entry
    meta = np.array([len(entries) // OPERATOR_WIDTH, *entries], dtype=np.int64)
    return meta, np.concatenate(pieces)
