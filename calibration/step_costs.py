"""What a step costs by what it does: costs that are >= 0, out of the seconds of measured steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

Float64 = npt.NDArray[np.float64]

FOLDS = 5
ROUNDS = 30
"""Re-weightings that turn least squares into least absolute errors."""


def identified(steps: Mapping[str, Float64]) -> tuple[list[str], list[str]]:
    """Features to fit, the constant first, and in words what was left out because no step tells it from another."""
    names, told = ["constant", *(name for name in steps if name != "constant")], []
    for name in names[1:]:
        same = next((one for one in names[: names.index(name)] if _proportional(steps[one], steps[name])), None)
        if same is not None or not steps[name].any():
            names.remove(name)
            told.append(f"No cost per {name}: it is {f'proportional to {same}' if same else 'zero'} in every step.")
    return names, told


def least_relative_errors(columns: Float64, seconds: Float64) -> Float64:
    """Costs >= 0 with the least mean relative error, by re-weighted least squares; columns: float64[steps, costs]."""
    weights = np.ones(seconds.size)
    scale = np.maximum(columns.max(axis=0), 1.0)  # a stretch of a log may not prefill at all
    costs = np.zeros(scale.size)
    for _ in range(ROUNDS):
        scaled = columns / scale * (weights / seconds)[:, None]
        costs = nnls(scaled, weights)[0] / scale
        weights = 1 / np.sqrt(np.maximum(np.abs(columns @ costs / seconds - 1), 1e-3))
    return np.asarray(costs)


def held_out(columns: Float64, seconds: Float64) -> Float64:
    """Relative error of each step, predicted from the other four of five stretches."""
    errors = np.empty(seconds.size)
    for part in np.array_split(np.arange(seconds.size), FOLDS):
        others = np.ones(seconds.size, np.bool_)
        others[part] = False
        costs = least_relative_errors(columns[others], seconds[others])
        errors[part] = columns[part] @ costs / seconds[part] - 1
    return errors


def _proportional(one: Float64, other: Float64) -> bool:
    """Whether two features, neither zero throughout, have one ratio in every step."""
    return bool(one.any() and other.any() and np.allclose(one * other.sum(), other * one.sum(), rtol=1e-9))
