"""Flattens operators and valid range into the record that `simulator.cost.kernel` reads."""

from collections.abc import Iterable

import numpy as np

from simulator.cost.kernel import AXIS, BOUND, COST, NOTHING, OPERATOR, ROOF, ROW, TABLE
from simulator.cost.operators import ROW_KEYS, WHEN, Affine, Bounds, Operator, Roof, Table
from simulator.cost.work import FEATURES
from simulator.records import Pointing

UNEVEN = ("longest_context", "excess_context", "evenness")
"""Features that say how uneven a batch is."""
assert ROW.names == ROW_KEYS


def pack(operators: tuple[Operator, ...], bounds: Bounds) -> Pointing:
    """Return a sum of operators; repeats are multiplied in, affine rows and tables on one grid are added up."""
    affine = [np.array(one.row_s) * one.repeat for one in operators if isinstance(one, Affine)]
    rows = [np.sum(affine, axis=0) if affine else np.zeros(len(ROW_KEYS))]
    entries: list[tuple[int, ...]] = []
    axes: list[tuple[int, ...]] = []
    data, filled = [np.empty(0)], 0
    for roof in (one for one in operators if isinstance(one, Roof)):
        entries.append((ROOF, len(rows), WHEN.index("always"), NOTHING, 0, 0))
        rows += [np.array(roof.memory_s) * roof.repeat, np.array(roof.compute_s) * roof.repeat]
    for table in _merged(one for one in operators if isinstance(one, Table)):
        first = len(axes)
        for name, points in zip(table.axes, table.grid, strict=True):
            axes.append((FEATURES.index(name), points.size, filled, filled))
            filled += points.size
        per = NOTHING if table.per is None else FEATURES.index(table.per)
        entries.append((TABLE, filled, WHEN.index(table.when), per, len(table.axes), first))
        data += [*table.grid, table.values_s.ravel() * table.repeat]
        filled += table.values_s.size
    ranges = [(number, *bounds[feature]) for number, feature in enumerate(FEATURES) if feature in bounds]
    tables = [one for one in operators if isinstance(one, Table)]
    read = {*bounds, *(table.per for table in tables), *(axis for table in tables for axis in table.axes)}
    packed = Pointing(COST, uneven=not read.isdisjoint(UNEVEN))
    packed.point(
        rows=np.array([tuple(row) for row in rows], ROW), bounds=np.array(ranges, BOUND), operators=np.array(entries, OPERATOR),
        axes=np.array(axes, AXIS), data=np.concatenate(data), features=np.zeros(len(FEATURES)),
    )  # fmt: skip
    return packed


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
