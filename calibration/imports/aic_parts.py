"""What an import is put together from: operators, what to know of them, and the versions of their tables."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy.typing as npt

from simulator.cost.operators import Operator, Table


@dataclass(frozen=True, eq=False)
class Timed:
    """A table as it was measured, and the least seconds that the device allows, of its shape or a number."""

    table: Table
    least_s: npt.ArrayLike = 0.0


@dataclass(frozen=True)
class Parts:
    """Operators of a model, measured and estimated; what to know of them, and the version of each table.

    `off_grid`: shapes that were interpolated or extrapolated, in words; `kv_tokens`: the most of a measured decode step.
    """

    timed: list[Timed] = field(default_factory=list)
    estimates: list[Operator] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    off_grid: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    kv_tokens: float = float("inf")

    def __add__(self, other: Parts) -> Parts:
        """Both together."""
        return Parts(
            self.timed + other.timed, self.estimates + other.estimates, self.notes + other.notes,
            self.off_grid + other.off_grid, self.versions | other.versions, min(self.kv_tokens, other.kv_tokens),
        )  # fmt: skip
