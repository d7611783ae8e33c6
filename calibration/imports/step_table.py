"""Step times that somebody measured: a CSV file of requests, tokens of each, context, tensor parallelism and latency."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from simulator.cost.model import Profile
from simulator.cost.operators import Affine, Bounds, Operator, Table, row
from traces.errors import InputError

Float64 = npt.NDArray[np.float64]

AXES = {"num_reqs": "live", "tokens_per_req": "query_per_seq", "context_len": "context_tokens"}
"""Our feature for each column that spans the grid."""
COLUMNS = (*AXES, "tp", "latency_ms")
LEAST = {"num_reqs": 1.0, "tokens_per_req": 1.0, "context_len": 0.0, "tp": 1.0}
MILLI = 1e-3
MOST_SHOWN = 5


def import_step_table(path: Path, model: str, device: str, tp: int | None = None) -> Profile:
    """Profile of the whole step by requests, query tokens of each and context, for one tensor parallelism.

    `tp` may be left out where the file has one. A point measured several times counts as its median. Raises InputError,
    naming them, where points of the grid are missing: nothing is filled in.
    """
    table = _read(path)
    measured = sorted(int(value) for value in table["tp"].unique())
    if tp is None and len(measured) > 1:
        raise InputError(f"{path}: tp is {', '.join(map(str, measured))}: choose one with --tp")
    tp = measured[0] if tp is None else tp
    if tp not in measured:
        raise InputError(
            f"{path}: tp = {tp} is not measured, but {', '.join(map(str, measured))}: choose one with --tp"
        )
    rows = table[table["tp"] == tp]
    points = rows.groupby(list(AXES))["latency_ms"].median()
    grid = {name: np.unique(rows[name].to_numpy(np.float64)) for name in AXES}
    _check_full(path, points, grid)
    seconds = points.to_numpy(np.float64) * MILLI  # sorted by the axes in order, so the last varies fastest
    fixed: Bounds = {AXES[name]: (float(axis[0]), float(axis[0])) for name, axis in grid.items() if axis.size == 1}
    repeats = len(rows) - len(points)
    return Profile(
        name=f"{model} on {device}, tp {tp}",
        kind="table" if len(fixed) < len(AXES) else "affine",
        operators=(_operator(grid, seconds),),
        model=model,
        device=f"{tp} x {device}" if tp > 1 else device,
        source=f"step times in {path.name}: {len(rows):,} rows at tp {tp}",
        uncertainty="steps between the measured ones are interpolated linearly; what their measurement leaves out is unknown",
        valid_range=fixed,
        parallel={"tensor_parallel_size": tp},
        notes=f"{repeats:,} repeated measurements count by their median." if repeats else "",
    )


def _operator(grid: dict[str, Float64], seconds: Float64) -> Operator:
    """A table over the axes that vary; a constant where none does."""
    varying = {AXES[name]: axis for name, axis in grid.items() if axis.size > 1}
    if not varying:
        return Affine("step", row(constant=float(seconds[0])))
    shape = tuple(axis.size for axis in varying.values())
    return Table("step", tuple(varying), tuple(varying.values()), seconds.reshape(shape))


def _check_full(path: Path, points: pd.Series[float], grid: dict[str, Float64]) -> None:
    known = set(points.index)
    missing = [point for point in itertools.product(*grid.values()) if point not in known]
    if missing:
        shown = "; ".join(
            ", ".join(f"{name} {value:g}" for name, value in zip(grid, point, strict=True))
            for point in missing[:MOST_SHOWN]
        )
        more = f" and {len(missing) - MOST_SHOWN:,} more" if len(missing) > MOST_SHOWN else ""
        raise InputError(
            f"{path}: not measured: {shown}{more}: measure them, or leave out the grid lines that are not full"
        )


def _read(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, skipinitialspace=True)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: cannot be read ({reason}): expected a CSV file with {', '.join(COLUMNS)}") from None
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing or table.empty:
        problem = f"column {missing[0]} is missing" if missing else "has no rows"
        raise InputError(f"{path}: {problem}: expected a CSV file with {', '.join(COLUMNS)}")
    for name in COLUMNS:
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        least = LEAST.get(name, np.nextafter(0, 1))
        bad = ~(np.isfinite(values) & (values >= least)) | ((name == "tp") & (values != np.rint(values)))
        if bad.any():
            first = int(np.argmax(bad))
            limit = f">= {least:g}" if name in LEAST else "> 0"
            raise InputError(f"{path}, line {first + 2}, {name} = {table[name][first]!r}: give a finite number {limit}")
        table[name] = values
    return table
