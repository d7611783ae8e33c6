"""What a cost model is, and the one implementation: a profile, a named sum of operators with its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from simulator.cost.kernel import outsides, step_times
from simulator.cost.operators import Affine, Bounds, Operator, Roof, Table
from simulator.cost.packing import pack
from simulator.cost.work import FEATURES, LEAST, StepWork
from simulator.records import Pointing
from traces.errors import InputError

PARALLEL = ("tensor_parallel_size", "expert_parallel_size")
"""Kinds of parallelism that a step's costs may contain: GPUs of one engine, and GPUs that the experts are spread over."""

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

KINDS: dict[str, tuple[type, ...]] = {"affine": (Affine,), "roofline": (Affine, Roof), "table": (Affine, Roof, Table)}


def kind_of(operators: tuple[Operator, ...]) -> str:
    """The kind of profile that can hold these operators."""
    if any(isinstance(one, Table) for one in operators):
        return "table"
    return "roofline" if any(isinstance(one, Roof) for one in operators) else "affine"


class CostModel(Protocol):
    """Anything that prices decode steps, in Python and, through `packed`, in a compiled loop."""

    @property
    def name(self) -> str:
        """Name in results."""

    @property
    def packed(self) -> Pointing:
        """The record that `simulator.cost.kernel` reads."""

    def step_time_s(self, work: StepWork) -> FloatArray:
        """Seconds of each decode step, in the shape of the work."""

    def outside(self, work: StepWork) -> BoolArray:
        """Whether each decode step lies outside the range that the model is valid in."""


@dataclass(frozen=True, eq=False)
class Profile:
    """Measured, published or estimated costs of one model on one device; a step costs the sum of the operators.

    `valid_range` maps features to (lowest, highest); features that are a table's axis and absent get the table's grid.
    `relative_error` is the typical size of a step's error, a fraction, or None where none was published. `error_factors` (low,
    high) holds in nine of ten cases what a step truly takes over what it is priced at, where that is known better: an estimate
    is too fast, never too slow. `drafter_costs` records what drafters cost, in
    seconds (`_s`) or as a fraction of the operators' time (`_fraction`); it is no part of the step's cost. `derived` maps a
    feature to the highest value that was measured, beyond which costs follow from others; `derivation` says how. `held_out`
    maps operators to the error of measured points that were left out and predicted from the rest: `points`, `median`, `p95`.
    `spread` does so to what repeated measurements differ by, over their median: interquartile range, or range between rounds
    where that is more. `fits` maps simpler laws to their coefficients in seconds and their errors on whole steps; `measured`
    holds other figures of the machine, units in the names.
    No cost follows from these three. `parallel` says over how many GPUs the model (`tensor_parallel_size`) and its experts
    (`expert_parallel_size`) are spread in these costs; empty where nobody said.
    Raises InputError for operators that do not fit the kind, a bad range, a missing source, or a cost that can be <= 0.
    """

    name: str
    kind: str
    operators: tuple[Operator, ...]
    model: str
    device: str
    source: str
    uncertainty: str
    valid_range: Bounds = field(default_factory=dict)
    relative_error: float | None = None
    error_factors: tuple[float, float] | None = None
    notes: str = ""
    drafter_costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    derived: Mapping[str, float] = field(default_factory=dict)
    derivation: str = ""
    held_out: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    spread: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    fits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    parallel: Mapping[str, int] = field(default_factory=dict)
    sha256: str | None = None

    def __post_init__(self) -> None:
        """Check the whole, operators having checked themselves, and complete the valid range."""
        for key in ("name", "model", "device", "source", "uncertainty"):
            if not getattr(self, key).strip():
                raise InputError(f"{key} is empty: say where the numbers come from and how far they can be trusted")
        self._check_operators()
        for feature, (lowest, highest) in self.valid_range.items():
            if feature not in FEATURES:
                raise InputError(f"valid_range.{feature} is not a feature: use {', '.join(FEATURES)}")
            least = LEAST[feature]
            if not (np.isfinite(lowest) and np.isfinite(highest) and 0 <= lowest <= highest and highest >= least):
                raise InputError(
                    f"valid_range.{feature} = [{lowest:g}, {highest:g}]: give finite numbers, 0 <= lowest <= highest, "
                    f"with highest >= {least:g}"
                )
        error = self.relative_error
        if error is not None and not (np.isfinite(error) and error >= 0):
            raise InputError(f"relative_error = {error:g}: give a fraction >= 0 such as 0.12, or leave it out")
        if (factors := self.error_factors) is not None and not 0 < factors[0] <= 1 <= factors[1] < np.inf:
            raise InputError(
                f"error_factors = [{factors[0]:g}, {factors[1]:g}]: give true over priced seconds, 0 < low <= 1 <= high"
            )
        for drafter, costs in self.drafter_costs.items():
            for key, cost in costs.items():
                if not (np.isfinite(cost) and cost >= 0):
                    raise InputError(f"drafter_costs.{drafter}.{key} = {cost:g}: a cost is a finite number >= 0")
        for feature in self.derived:
            if feature not in FEATURES:
                raise InputError(f"derived.{feature} is not a feature: use {', '.join(FEATURES)}")
        for key, size in self.parallel.items():
            if key not in PARALLEL:
                raise InputError(f"parallel.{key} is not a kind of parallelism: use {', '.join(PARALLEL)}")
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InputError(f"parallel.{key} = {size!r}: give a whole number of GPUs, 1 or more")
        if self.derived and not self.derivation.strip():
            raise InputError("derivation is empty: say how the derived costs follow from measured ones")
        object.__setattr__(self, "valid_range", {**_grid_range(self.operators), **self.valid_range})
        self._check_positive()

    @cached_property
    def packed(self) -> Pointing:
        """The record that `simulator.cost.kernel` reads."""
        return pack(self.operators, self.valid_range)

    def step_time_s(self, work: StepWork) -> FloatArray:
        """Seconds of each decode step, in the shape of the work; says nothing about validity: ask `outside`."""
        return _evaluate(self.packed, work)

    def outside(self, work: StepWork) -> BoolArray:
        """Whether each decode step lies outside the valid range, in the shape of the work."""
        flags: BoolArray = outsides(self.packed, _rows(work)).reshape(np.shape(work.live))
        return flags

    def operator_times(self, work: StepWork) -> dict[str, FloatArray]:
        """Seconds by operator name, each in the shape of the work: where the time goes."""
        return {one.name: _evaluate(pack((one,), {}), work) for one in self.operators}

    def scaled(self, factor: float) -> Profile:
        """The same profile with every second multiplied by `factor` > 0 (exactly, for powers of two)."""
        if not (np.isfinite(factor) and factor > 0):
            raise InputError(f"scale factor {factor:g} is not a finite number > 0: give for example 0.5")
        drafters = {
            name: {key: cost if key.endswith("_fraction") else cost * factor for key, cost in costs.items()}
            for name, costs in self.drafter_costs.items()
        }
        return replace(
            self,
            name=f"{self.name} x{factor:g}",
            operators=tuple(one.scaled(factor) for one in self.operators),
            drafter_costs=drafters,
            notes=f"{self.notes} All seconds multiplied by {factor:g}.".strip(),
        )

    def _check_operators(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind {self.kind!r} is unknown: use {', '.join(KINDS)}")
        if not self.operators:
            raise InputError("operators is empty: a profile needs at least one cost")
        names = [one.name for one in self.operators]
        for index, one in enumerate(self.operators):
            if not one.name.strip() or one.name in names[:index]:
                raise InputError(f"operators[{index}].name {one.name!r} is empty or taken: name every operator apart")
            if not isinstance(one, KINDS[self.kind]):
                raise InputError(
                    f"operators[{index}] {one.name!r} is of kind {type(one).__name__.lower()}, which a profile of kind "
                    f"{self.kind} cannot hold: change the profile's kind"
                )
        needed = {"roofline": Roof, "table": Table}.get(self.kind)
        if needed is not None and not any(isinstance(one, needed) for one in self.operators):
            raise InputError(f"kind {self.kind}: no operator is a {needed.__name__.lower()}; change the profile's kind")

    @property
    def least_s(self) -> dict[str, float]:
        """Lowest seconds of each operator within the valid range."""
        bounds = {name: self.valid_range.get(name, (least, np.inf)) for name, least in LEAST.items()}
        bounds = {name: (max(lowest, LEAST[name]), highest) for name, (lowest, highest) in bounds.items()}
        return {one.name: one.least_s(bounds) for one in self.operators}

    def _check_positive(self) -> None:
        least = self.least_s
        if sum(least.values()) <= 0:
            worst = min(least, key=lambda name: least[name])
            raise InputError(
                f"operators: a step can cost {sum(least.values()):g} s within the valid range (least of {worst!r}: "
                f"{least[worst]:g} s): add a constant cost, narrow valid_range to the grid, or correct the values"
            )


def _grid_range(operators: tuple[Operator, ...]) -> Bounds:
    """For each feature that is an axis of some table, the span that all those tables cover.

    A table that runs in some steps only is not asked for its feature in the others, so it bounds from above alone, and of
    several such tables the widest does. How uneven a batch is does not bound them: it goes from even to one alone.
    """
    spans: Bounds = {}
    reach: dict[str, float] = {}
    for one in (table for table in operators if isinstance(table, Table)):
        for axis, points in zip(one.axes, one.grid, strict=True):
            if one.when != "always":
                if axis not in {"excess_context", "evenness", "further_chunks"}:
                    reach[axis] = max(reach.get(axis, 0.0), float(points[-1]))
                continue
            lowest, highest = spans.get(axis, (0.0, np.inf))
            spans[axis] = (max(lowest, float(points[0])), min(highest, float(points[-1])))
            if spans[axis][0] > spans[axis][1]:
                raise InputError(f"operators: the grids of {axis} do not overlap (at {one.name!r}): correct one")
    for axis, highest in reach.items():
        lowest, other = spans.get(axis, (0.0, np.inf))
        spans[axis] = (lowest, min(highest, other))
    return spans


def _evaluate(packed: Pointing, work: StepWork) -> FloatArray:
    seconds: FloatArray = step_times(packed, _rows(work)).reshape(np.shape(work.live))
    return seconds


def _rows(work: StepWork) -> FloatArray:
    return np.stack([values.ravel() for values in work.fields], axis=1)
