"""What the cost profile's own error does to a comparison: re-simulate with its parts scaled up and down."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt

from simulator.compare.bootstrap import makespans
from simulator.compare.rl_step import RLStep
from simulator.cost.draft_cost import FREE, DraftCost
from simulator.cost.model import Profile
from simulator.cost.operators import ROW_KEYS, Affine, Operator, Table
from simulator.cost.work import FEATURES
from simulator.engine.deployment import Deployment, profile_of
from traces.errors import InputError

Float64 = npt.NDArray[np.float64]

FIXED, TOKENS, CONTEXT = range(3)
PART_OF = dict.fromkeys(FEATURES, TOKENS) | {"constant": FIXED} | dict.fromkeys(
    ("kv_tokens", "pairs", "prefill_kv_tokens", "prefill_pairs", "longest_context", "context_tokens", "decode_context",
     "prefill_context", "excess_context", "evenness"), CONTEXT,
)  # fmt: skip
Factors = tuple[float, float, float]


def scaled_parts(cost: Profile, factors: Factors) -> Profile:
    """Return the profile with what a step costs in any case, per token and per context token scaled apart.

    factors: for those three. A table's least value counts as fixed; what it adds to that counts as context where it has
    an axis of KV tokens, context or pairs, and as tokens elsewhere. What drafting costs is not scaled.
    """
    name = f"{cost.name} x({', '.join(f'{factor:g}' for factor in factors)})"
    return replace(cost, name=name, operators=tuple(_scaled(one, factors) for one in cost.operators))


def corners(cost: Profile, error: float, draft_cost: DraftCost = FREE) -> Iterator[Factors]:
    """Yield every way to scale the parts that the profile has by 1 - error or 1 + error.

    Without draft costs, ways that scale all parts alike are left out: they change no speed-up. Raises InputError unless
    0 <= error < 1.
    """
    if not 0 <= error < 1:
        raise InputError(f"profile error {error:g}: give a fraction from 0 to below 1, such as 0.1")
    parts = sorted({part for one in cost.operators for part in _parts(one)})
    alike_matters = draft_cost != FREE
    for signs in product((-1, 1), repeat=len(parts)) if error else ():
        if alike_matters or len(set(signs)) > 1:
            factors = [1.0, 1.0, 1.0]
            for part, sign in zip(parts, signs, strict=True):
                factors[part] += sign * error
            yield factors[0], factors[1], factors[2]


def under_profile_error(
    rl_steps: Sequence[RLStep], deployment: Deployment, names: Sequence[str], error: float
) -> tuple[list[Factors], Float64]:
    """Return the corners, and float64[corners, names] makespans under each.

    Policies stay as they were prepared: they believe the profile, and the device is another.
    """
    cost = profile_of(deployment)
    factors = list(corners(cost, error, deployment.draft_cost))
    found = [makespans(rl_steps, replace(deployment, cost=scaled_parts(cost, each)), names) for each in factors]
    return factors, np.array(found).reshape(len(factors), len(names))


def _parts(one: Operator) -> set[int]:
    if isinstance(one, Table):
        rising = {_part_of_table(one)} if np.ptp(one.values_s) > 0 else set()
        return rising | ({FIXED} if one.values_s.min() > 0 else set())
    rows = [one.row_s] if isinstance(one, Affine) else [one.memory_s, one.compute_s]
    return {PART_OF[key] for row in rows for key, seconds in zip(ROW_KEYS, row, strict=True) if seconds}


def _part_of_table(one: Table) -> int:
    return CONTEXT if any(PART_OF[axis] == CONTEXT for axis in one.axes) else TOKENS


def _scaled(one: Operator, factors: Factors) -> Operator:
    if isinstance(one, Table):
        least = one.values_s.min()
        return replace(one, values_s=least * factors[FIXED] + (one.values_s - least) * factors[_part_of_table(one)])
    if isinstance(one, Affine):
        return replace(one, row_s=_scaled_row(one.row_s, factors))
    memory, compute = _scaled_row(one.memory_s, factors), _scaled_row(one.compute_s, factors)
    return replace(one, memory_s=memory, compute_s=compute)


def _scaled_row(row: tuple[float, ...], factors: Factors) -> tuple[float, ...]:
    return tuple(seconds * factors[PART_OF[key]] for key, seconds in zip(ROW_KEYS, row, strict=True))
