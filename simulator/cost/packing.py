"""Flattens operators and valid range into the two arrays that `simulator.cost.kernel` reads."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from simulator.cost.kernel import OPERATOR_WIDTH, ROOF, TABLE
from simulator.cost.operators import MOST_AXES, ROW_KEYS, WHEN, Affine, Bounds, Operator, Roof, Table
from simulator.cost.work import FEATURES

Packed = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def pack(operators: tuple[Operator, ...], bounds: Bounds) -> Packed:
    """(meta, data) of a sum of operators; repeats are multiplied in, affine rows and tables on one grid are added up."""
    rows = [np.array(one.row_s) * one.repeat for one in operators if isinstance(one, Affine)]
    pieces = [np.sum(rows, axis=0) if rows else np.zeros(len(ROW_KEYS))]
    filled = pieces[0].size
    ranges: list[int] = []
    for number, feature in enumerate(FEATURES):
        if feature not in bounds:
            continue
        ranges += [number, filled]
        pieces.append(np.array(bounds[feature]))
        filled += 2
    entries: list[int] = []
    tables = _merged(one for one in operators if isinstance(one, Table))
    packed: list[Roof | Table] = [*(one for one in operators if isinstance(one, Roof)), *tables]
    for one in packed:
        if isinstance(one, Roof):
            entry = [ROOF, filled, 0, -1, 0]
            numbers = [np.array(one.memory_s) * one.repeat, np.array(one.compute_s) * one.repeat]
        else:
            per = -1 if one.per is None else FEATURES.index(one.per)
            entry = [TABLE, filled, WHEN.index(one.when), per, len(one.axes)]
            for name, points in zip(one.axes, one.grid, strict=True):
                entry += [FEATURES.index(name), points.size]
            numbers = [*one.grid, one.values_s.ravel() * one.repeat]
        pieces += numbers
        filled += sum(piece.size for piece in numbers)
        entries += entry + [0] * (OPERATOR_WIDTH - len(entry))
    assert OPERATOR_WIDTH == 5 + 2 * MOST_AXES
    meta = np.array([len(ranges) // 2, len(entries) // OPERATOR_WIDTH, *ranges, *entries], dtype=np.int64)
    return meta, np.concatenate(pieces)


def reads(packed: Packed, names: Iterable[str]) -> bool:
    """Whether the packed cost model looks at any of these features."""
    meta = packed[0]
    operators = meta[2 + 2 * meta[0] :].reshape(-1, OPERATOR_WIDTH)
    tables = operators[operators[:, 0] == TABLE]
    axes = [tables[tables[:, 4] > axis, 5 + 2 * axis] for axis in range(MOST_AXES)]
    used = np.concatenate([meta[2 : 2 + 2 * meta[0] : 2], tables[:, 3], *axes])
    return bool(np.isin([FEATURES.index(name) for name in names], used).any())


def _merged(tables: Iterable[Table]) -> list[Table]:
    """Tables that run in the same steps over the same grid, added up: layers of one model usually are."""
    groups: dict[tuple[object, ...], list[Table]] = {}
    for one in tables:
        grid = tuple(points.tobytes() for points in one.grid)
        groups.setdefault((one.axes, grid, one.when, one.per), []).append(one)
    return [
        Table(group[0].name, group[0].axes, group[0].grid, sum(one.values_s * one.repeat for one in group),  # type: ignore[arg-type]
              1, group[0].when, group[0].per)
        for group in groups.values()
    ]  # fmt: skip
