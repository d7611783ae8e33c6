"""Decode steps joined into phases, so that a timeline stays small however many there are."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

KINDS = ("decode", "decode with drafts", "prefill")
TOUCHING = 1e-9
"""Decode steps that are less than this apart follow each other: times are rounded."""


@dataclass(frozen=True, eq=False)
class Phases:
    """Stretches of one replica's decode steps, n of them. kind: index into KINDS; step: their RL step; arrays of length n.

    Counts and seconds are sums over a phase's decode steps; where phases were joined, kind is the one of most seconds.
    """

    kind: Int64
    step: Int64
    begin_s: Float64
    end_s: Float64
    decode_steps: Int64
    emitted_tokens: Int64
    drafted_tokens: Int64
    accepted_tokens: Int64
    prefill_tokens: Int64
    mean_live: Float64
    draft_s: Float64
    waited_s: Float64


def phases(steps: pa.Table, rl_step: Int64, most: int) -> Phases:
    """Join a replica's decode steps, in order, that are of one kind and RL step and without a gap; about `most` at most.

    Where there are more, the time is divided into cells, and all in a cell are of the kind that takes most of it.
    """
    column = {name: steps[name].to_numpy() for name in steps.column_names if name != "system"}
    start_s, duration_s = column["start_s"], column["duration_s"]
    end_s = start_s + duration_s
    kind = np.where(column["prefill_tokens"] > 0, 2, np.where(column["drafted_tokens"] > 0, 1, 0))
    apart = np.append(True, (start_s[1:] > end_s[:-1] + TOUCHING) | (rl_step[1:] != rl_step[:-1]))
    begins = apart | np.append(True, kind[1:] != kind[:-1])
    if begins.sum() > most:
        cell = ((start_s - start_s[0]) * (most / (end_s[-1] - start_s[0]))).astype(np.int64)
        group = np.cumsum(apart | np.append(True, cell[1:] != cell[:-1])) - 1
        taken_s = np.bincount(group * len(KINDS) + kind, duration_s, (group[-1] + 1) * len(KINDS))
        kind = taken_s.reshape(-1, len(KINDS)).argmax(axis=1)[group]
        begins = apart | np.append(True, kind[1:] != kind[:-1])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], kind.size) - 1
    count = last - first + 1
    names = ("emitted_tokens", "drafted_tokens", "accepted_tokens", "prefill_tokens", "draft_s", "waited_s")
    sums = {name: np.add.reduceat(column[name], first) for name in names}
    live = np.add.reduceat(column["live"].astype(np.int64), first) / count
    return Phases(kind[first], rl_step[first], start_s[first], end_s[last], count, mean_live=live, **sums)
