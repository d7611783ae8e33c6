"""The rollouts of a replay as compiled drafters read them: prompts beside responses, and parts for threads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from traces.trace import Trace

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

THREADS = min(os.cpu_count() or 1, 8)


class Prompts(NamedTuple):
    """Prompt tokens of rollouts: the prompt of rollout i is tokens[starts[i]:ends[i]]; starts, ends: int64[n]."""

    tokens: Int32
    starts: Int64
    ends: Int64


def prompts_of(trace: Trace, rows: Int64, used: bool = True) -> Prompts:
    """Return the prompts of the rollouts in `rows`; empty ones where they were not recorded or are not `used`."""
    if used and trace.has_prompts:
        return Prompts(trace.prompt_token_ids_flat, trace.prompt_offsets[rows], trace.prompt_offsets[rows + 1])
    nothing = np.zeros(rows.size, np.int64)
    return Prompts(np.empty(0, np.int32), nothing, nothing)


def each_part(offsets: Int64, run: Callable[[Int64], int], threads: int = THREADS) -> int:
    """Split n rollouts into parts of about equally many positions, `run` each in a thread, and add up the results.

    offsets: int64[n + 1], as in `Acceptance`; `run` gets int64 indices into the rollouts.
    """
    cuts = np.searchsorted(offsets, np.linspace(0, offsets[-1], threads + 1)[1:-1])
    parts = [part for part in np.split(np.arange(offsets.size - 1), cuts) if part.size]
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(run, parts))
