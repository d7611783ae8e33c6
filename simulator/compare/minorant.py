"""Affine functions that lie below a cost profile for every step a workload can bring: what a proof can add up."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are first used

from simulator.cost.kernel import step_times
from simulator.cost.model import Profile
from simulator.cost.operators import ROW_KEYS, Affine, Bounds, Operator, Roof, Table
from simulator.cost.packing import pack

Float64 = npt.NDArray[np.float64]

TOLERANCE = 1e-6
"""Ten times the solver's."""
BOUND_KEYS = ROW_KEYS[:6]
"""What a minorant counts: padding is at least none, so a cost per padded token is one per query token."""
NEVER_MORE = {"padded_tokens": "query_tokens", "expert_tokens": "query_tokens", "sampled_tokens": "live"}
"""What a feature is at least: padding adds tokens, experts compute all of them, and every sequence samples one."""
DERIVED = {"kv_tokens": "context_tokens", "query_tokens": "query_per_seq"}


@dataclass(frozen=True)
class Limits:
    """The largest that the features of one decode step can be, for a workload on a replica."""

    live: int
    query_per_seq: int
    context_tokens: int

    @property
    def bounds(self) -> Bounds:
        """Every feature's (least, most)."""
        query, context = self.live * self.query_per_seq, self.live * self.context_tokens
        return {
            "live": (1, self.live),
            "query_tokens": (1, query),
            "kv_tokens": (0, context),
            "pairs": (0, query * (self.context_tokens + self.query_per_seq)),
            "prefill_tokens": (0, query),
            "context_tokens": (0, self.context_tokens),
            "query_per_seq": (1, self.query_per_seq),
        }


def minorants(cost: Profile, limits: Limits, targets: list[Float64]) -> list[Float64]:
    """Return rows (as BOUND_KEYS, every coefficient >= 0) that lie below the step time everywhere within the limits.

    One row for each target, a step's expected features with a leading 1, chosen to be high there. An affine operator is
    its own minorant; of a roof, either row is one; under a table, the highest at the target is found by linear
    programming. A table minus an affine function is linear along every axis of a grid cell, so it is least at a corner
    of a cell, and being above at the corners (of the edge cells stretched to the limits, too) is being above everywhere.
    Where an axis is a mean per sequence, the features are products of that axis and `live`, and the same holds. A table that
    does not run in every step, is multiplied by a feature, or has an axis that no workload limits, counts 0.
    The answer is an empty list where a table can fall below 0 within the limits, or has a feature and its mean as axes.
    """
    if all(isinstance(one, Affine) for one in cost.operators):
        targets = targets[:1]
    found = []
    for target in targets:
        rows = [_below(one, limits, target) for one in cost.operators]
        if any(one is None for one in rows):
            return []
        found.append(np.sum([one for one in rows if one is not None], axis=0))
    return list(np.unique(found, axis=0))


def _below(one: Operator, limits: Limits, target: Float64) -> Float64 | None:
    if isinstance(one, Affine):
        return one.repeat * _unpadded_row(one.row_s)
    if isinstance(one, Roof):
        memory, compute = _unpadded_row(one.memory_s), _unpadded_row(one.compute_s)
        return one.repeat * (memory if memory @ target >= compute @ target else compute)
    if one.when != "always" or one.per is not None:
        return np.zeros(len(BOUND_KEYS))
    one = _by_less(one)
    if not set(one.axes) <= set(limits.bounds) or len(set(one.axes)) < len(one.axes):
        return np.zeros(len(BOUND_KEYS))
    if any(feature in one.axes and mean in one.axes for feature, mean in DERIVED.items()):
        return None
    row = _below_table(one, limits, target)
    return None if row is None else one.repeat * row


def _unpadded_row(row_s: tuple[float, ...]) -> Float64:
    row = np.array(row_s[:6])
    row[BOUND_KEYS.index("query_tokens")] += row_s[6]
    return row


def _by_less(one: Table) -> Table:
    """The table by features that are never more than its own, nowhere above it: along those axes the least from there on."""
    values = one.values_s
    for axis, name in enumerate(one.axes):
        if name in NEVER_MORE:
            values = np.flip(np.minimum.accumulate(np.flip(values, axis), axis), axis)
    axes = tuple(NEVER_MORE.get(name, name) for name in one.axes)
    return replace(one, axes=axes, values_s=values) if len(set(axes)) == len(axes) else one


def _below_table(one: Table, limits: Limits, target: Float64) -> Float64 | None:
    corners, seconds = map(np.concatenate, zip(*_corners(one, limits), strict=True))
    if seconds.min() < 0:
        return None
    scale = np.maximum(corners.max(axis=0), 1.0)
    each = np.where(seconds > 0, seconds, 1.0)[:, None]  # so that the solver's tolerance is relative at every corner
    unit = float(np.median(seconds[seconds > 0])) if seconds.any() else 1.0
    answer = scipy.optimize.linprog(
        -target / scale, A_ub=corners / scale / each * unit, b_ub=(seconds > 0).astype(float),
        bounds=[(0.0, np.inf if use else 0.0) for use in (corners.max(axis=0) > 0).tolist()], method="highs",
    )  # fmt: skip
    assert answer.x is not None, "0 is feasible, and every coefficient has a corner above it"
    row: Float64 = np.maximum(answer.x, 0) / scale * unit * (1 - TOLERANCE)
    row[(corners[seconds == 0] > 0).any(axis=0)] = 0.0
    assert (corners @ row <= seconds).all()
    return row


def _corners(one: Table, limits: Limits) -> Iterator[tuple[Float64, Float64]]:
    """Yield (features float64[k, 6] with a leading 1, seconds float64[k]) at the corners of all cells.

    A feature that the axes do not fix, not even together with `live`, is 0 there: it gets no coefficient.
    """
    bounds = limits.bounds
    stops = []
    for axis, points in zip(one.axes, one.grid, strict=True):
        lowest, highest = bounds[axis]
        stops.append(np.array([lowest, *points[(points > lowest) & (points < highest)], highest], float))
    at = np.array(list(product(*stops)))
    named = {axis: at[:, column] for column, axis in enumerate(one.axes)}
    means = [(feature, named[mean]) for feature, mean in DERIVED.items() if mean in named]
    packed = pack((replace(one, repeat=1),), {})
    for live in bounds["live"] if means and "live" not in named else (1.0,):
        batch = named.get("live", np.full(len(at), float(live)))
        fixed = named | {feature: mean * batch for feature, mean in means} | ({"live": batch} if means else {})
        query = fixed.get("query_tokens", batch)
        rest = [fixed.get(name, np.zeros(len(at))) for name in ("kv_tokens", "pairs", "prefill_tokens")]
        row = [fixed.get(key, np.zeros(len(at))) for key in BOUND_KEYS[1:]]
        work = [batch, query, *rest, query, *np.zeros((4, len(at))), query]
        yield np.stack([np.ones(len(at)), *row], axis=1), step_times(packed, np.stack(work, axis=1))
