"""The work of a decode step: what a cost model is asked about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.records import layout
from traces.errors import InputError

FloatArray = npt.NDArray[np.float64]


class Work:
    """The work of a decode step, counted: the record that compiled code fills in. `StepWork` says more of each."""

    live: float
    query_tokens: float
    kv_tokens: float
    pairs: float
    prefill_tokens: float
    padded_tokens: float
    prefill_seqs: float
    prefill_kv_tokens: float
    prefill_pairs: float
    longest_context: float
    expert_tokens: float


class Features(Work):
    """What operators may depend on: the work, and what follows from it (`kernel.derive`)."""

    context_tokens: float
    query_per_seq: float
    decode_seqs: float
    decode_context: float
    decode_width: float
    prefill_chunk: float
    prefill_context: float
    excess_context: float
    evenness: float
    further_chunks: float
    sampled_tokens: float


WORK, FEATURE = layout(Work), layout(Features)
WORK_FIELDS, FEATURES = WORK.names, FEATURE.names
LEAST = (
    dict.fromkeys(FEATURES, 0.0)
    | {"live": 1.0, "query_tokens": 1.0, "padded_tokens": 1.0, "query_per_seq": 1.0}
    | {"expert_tokens": 1.0}
)
"""What every decode step has at least: one live sequence, each with one query token."""


@dataclass(frozen=True, eq=False)
class StepWork:
    """Work of one decode step or of many at once.

    Every field is a number or an array; all are broadcast to one shape, as float64. `pairs` counts query x context
    pairs; `prefill_kv_tokens` counts the context after each prefilled chunk, `longest_context` is that of the longest
    decoding sequence, `padded_tokens` are the query tokens that the forward pass runs on, CUDA-graph padding included.
    `expert_tokens` are those that a GPU's experts compute, for each data-parallel rank: ranks that share experts compute them
    on the padded tokens of all, so it is the mean over the ranks, and without such ranks `padded_tokens`.
    Left out, padding is none, prefill tokens are one whole prompt, and decoding sequences are equally long.
    Raises InputError if the shapes do not fit, if a value is negative or not a number, or if live < 1.
    """

    live: npt.ArrayLike
    query_tokens: npt.ArrayLike
    kv_tokens: npt.ArrayLike
    pairs: npt.ArrayLike
    prefill_tokens: npt.ArrayLike = 0.0
    padded_tokens: npt.ArrayLike | None = None
    prefill_seqs: npt.ArrayLike | None = None
    prefill_kv_tokens: npt.ArrayLike | None = None
    prefill_pairs: npt.ArrayLike | None = None
    longest_context: npt.ArrayLike | None = None
    expert_tokens: npt.ArrayLike | None = None

    def __post_init__(self) -> None:
        """Fill in what was left out, broadcast and check."""
        given = {name: np.asarray(getattr(self, name), dtype=np.float64) for name in WORK_FIELDS[:5]}
        prompt = given["prefill_tokens"]
        left_out: dict[str, Callable[[], FloatArray]] = {
            "padded_tokens": lambda: given["query_tokens"],
            "prefill_seqs": lambda: np.where(prompt > 0, 1.0, 0.0),
            "prefill_kv_tokens": lambda: prompt,
            "prefill_pairs": lambda: prompt * (prompt + 1) / 2,
            "longest_context": lambda: _mean_context(given),
            "expert_tokens": lambda: given["padded_tokens"],
        }
        for name, usual in left_out.items():
            value = getattr(self, name)
            given[name] = usual() if value is None else np.asarray(value, dtype=np.float64)
        try:
            arrays = np.broadcast_arrays(*given.values())
        except ValueError:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in given.items() if array.ndim)
            raise InputError(f"work: shapes do not broadcast ({shapes}): give numbers or arrays of one shape") from None
        for name, array in zip(given, arrays, strict=True):
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
    def fields(self) -> tuple[FloatArray, ...]:
        """Eleven arrays of one shape, in the order of WORK_FIELDS."""
        return tuple(np.asarray(getattr(self, name), dtype=np.float64) for name in WORK_FIELDS)


def _mean_context(given: dict[str, FloatArray]) -> FloatArray:
    decoding = given["live"] - given["prefill_seqs"]
    context: FloatArray = np.maximum(given["kv_tokens"] - given["prefill_kv_tokens"], 0.0) / np.maximum(decoding, 1.0)
    return context
