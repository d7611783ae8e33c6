"""The work of a decode step: what a cost model is asked about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from traces.errors import InputError

FloatArray = npt.NDArray[np.float64]

WORK_FIELDS = ("live", "query_tokens", "kv_tokens", "pairs", "prefill_tokens")
DERIVED = ("context_tokens", "query_per_seq")
FEATURES = WORK_FIELDS + DERIVED
LEAST = dict(zip(FEATURES, (1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0), strict=True))
"""What every decode step has at least: one live sequence, each with one query token."""


@dataclass(frozen=True, eq=False)
class StepWork:
    """Work of one decode step or of many at once.

    Every field is a number or an array; all are broadcast to one shape, as float64. `pairs` counts query x context
    pairs.
    Raises InputError if the shapes do not fit, if a value is negative or not a number, or if live < 1.
    """

    live: npt.ArrayLike
    query_tokens: npt.ArrayLike
    kv_tokens: npt.ArrayLike
    pairs: npt.ArrayLike
    prefill_tokens: npt.ArrayLike = 0.0

    def __post_init__(self) -> None:
        """Broadcast and check."""
        given = [np.asarray(getattr(self, name), dtype=np.float64) for name in WORK_FIELDS]
        try:
            arrays = np.broadcast_arrays(*given)
        except ValueError:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(WORK_FIELDS, given, strict=True))
            raise InputError(f"work: shapes do not broadcast ({shapes}): give numbers or arrays of one shape") from None
        for name, array in zip(WORK_FIELDS, arrays, strict=True):
            least = LEAST[name] if name == "live" else 0.0
            if not (np.isfinite(array) & (array >= least)).all():
                worst = array[~(np.isfinite(array) & (array >= least))].flat[0]
                raise InputError(
                    f"work: {name} = {worst:g} is not a finite number >= {least:g}: correct the step's {name}"
                )
            object.__setattr__(self, name, array)

    @classmethod
    def decode(cls, live: npt.ArrayLike, context_tokens: npt.ArrayLike, query_per_seq: npt.ArrayLike = 1) -> StepWork:
        """Pure decoding or verification: every live sequence has one context and runs `query_per_seq` query tokens."""
        batch, context, each = (np.asarray(value, dtype=np.float64) for value in (live, context_tokens, query_per_seq))
        return cls(batch, batch * each, batch * context, batch * each * context)

    @property
    def features(self) -> tuple[FloatArray, ...]:
        """Five arrays of one shape, in the order of WORK_FIELDS."""
        return tuple(np.asarray(getattr(self, name), dtype=np.float64) for name in WORK_FIELDS)
