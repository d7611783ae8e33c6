"""Traces of lengths alone, for drafters that replay no tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from simulator.drafting.acceptance import Acceptance
from simulator.drafting.drafter import Drafter
from traces.io import from_table
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
NONE = np.empty(0, np.int64)


def trace_of(rollouts: Sequence[tuple[int, str, int, int]], **columns: Any) -> Trace:
    """(step, prompt_id, sample, output_tokens) of each rollout, and further columns."""
    steps, prompts, samples, lengths = (list(column) for column in zip(*rollouts, strict=True))
    table = {
        "step": pa.array(steps, pa.int32()),
        "prompt_id": pa.array(prompts),
        "sample": pa.array(samples, pa.int32()),
        "prompt_tokens": pa.array([0] * len(rollouts), pa.int32()),
        "output_tokens": pa.array(lengths, pa.int32()),
        **columns,
    }
    return from_table(pa.table(table))


def equal_rollouts(n: int, output_tokens: int, step: int = 0) -> Trace:
    """n rollouts of different prompts, equally long."""
    return trace_of([(step, f"p{i}", 0, output_tokens) for i in range(n)])


def accepted_by(drafter: Drafter, trace: Trace, rows: Int64 | None = None, seed: int = 0) -> Acceptance:
    """The tables of some rows of a trace; default all."""
    return drafter.accept(trace, np.arange(len(trace)) if rows is None else rows, NONE, seed)
