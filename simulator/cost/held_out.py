"""How far a table is off between its points: points left out, predicted from their neighbours."""

import numpy as np
import numpy.typing as npt

from simulator.cost.model import Profile
from simulator.cost.operators import Table

Float64 = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def held_out(profile: Profile) -> dict[str, dict[str, float]]:
    """Relative errors of each table's points when they are left out: how many `points`, their `median` and `p95`.

    Along each axis every other inner grid point is predicted from its two neighbours, as the table would be; only measured
    ones count, which are those within what `derived` says was measured. What the profile recorded itself when it was made
    (`Profile.held_out`) comes first: its tables may hold points that are none of the measured ones.
    """
    if profile.held_out:
        return {name: dict(errors) for name, errors in profile.held_out.items()}
    found = {}
    for one in profile.operators:
        if not isinstance(one, Table):
            continue
        measured = _measured(one, profile)
        errors = np.concatenate([_errors(one, axis, measured) for axis in range(len(one.axes))])
        if errors.size:
            median, p95 = np.quantile(errors, [0.5, 0.95])
            found[one.name] = {"points": float(errors.size), "median": float(median), "p95": float(p95)}
    return found


def _errors(table: Table, axis: int, measured: BoolArray) -> Float64:
    points = table.grid[axis]
    out = np.arange(1, points.size - 1, 2)
    values, known = np.moveaxis(table.values_s, axis, -1), np.moveaxis(measured, axis, -1)
    share = (points[out] - points[out - 1]) / (points[out + 1] - points[out - 1])
    predicted = values[..., out - 1] + share * (values[..., out + 1] - values[..., out - 1])
    asked = known[..., out - 1] & known[..., out] & known[..., out + 1] & (values[..., out] > 0)
    return np.asarray(np.abs(predicted[asked] / values[..., out][asked] - 1))


def _measured(table: Table, profile: Profile) -> BoolArray:
    """Which grid points lie within what was measured of each feature; kv_tokens follow from those of decoding."""
    names = dict(zip(table.axes, np.meshgrid(*table.grid, indexing="ij"), strict=True))
    if "decode_seqs" in names and "decode_context" in names:
        names["kv_tokens"] = names["decode_seqs"] * names["decode_context"]
    within = np.ones(table.values_s.shape, np.bool_)
    for feature, highest in profile.derived.items():
        if feature in names:
            within &= names[feature] <= highest
    return within
