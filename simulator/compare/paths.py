"""The cheapest way through a rollout when every accepted length is known beforehand, and first-come list scheduling."""

from collections.abc import Iterable
from heapq import heapreplace

import numpy as np
import numpy.typing as npt

from simulator.compiled import entry
from simulator.drafting.acceptance import NO_TABLE
from simulator.engine.workload import Workload
from simulator.limits import LARGEST_BUDGET

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]

# What a decode step of one sequence weighs, with c context tokens and e emitted tokens:
# EACH + EACH_KV * c, and if e > 1 further DRAFTS + DRAFTS_KV * c + (e - 1) * (DRAFT + DRAFT_KV * c)
EACH, EACH_KV, DRAFT, DRAFT_KV, DRAFTS, DRAFTS_KV = range(6)


@entry
def _cheapest(
    starts: Int64, lengths: Int64, prompts: Int64, reach: UInt8, weights: Float64, total: Float64, drafts: UInt8
) -> None:
    rest = np.zeros(lengths.max() + 1)
    for i in range(starts.size):
        length = lengths[i]
        rest[length] = 0.0
        for t in range(length - 1, 0, -1):
            kv = prompts[i] + t
            once = weights[DRAFTS] + weights[DRAFTS_KV] * kv
            slope = weights[DRAFT] + weights[DRAFT_KV] * kv
            best, chosen = rest[t + 1], 0
            for d in range(1, min(np.int64(reach[starts[i] + t]), length - t - 1) + 1):
                seconds = once + d * slope + rest[t + 1 + d]
                if seconds <= best:
                    best, chosen = seconds, d
            rest[t] = best + weights[EACH] + weights[EACH_KV] * kv
            if drafts.size:
                drafts[starts[i] + t] = chosen
        total[i] = rest[1] if length > 1 else 0.0


def cheapest(workload: Workload, reach: UInt8, weights: Float64) -> Float64:
    """Return float64[n], the least weight of each rollout's decode steps after its prefill, over all choices of drafts.

    reach: uint8[positions], most drafts that can be accepted where a decode step begins. The prefill emits the first
    token; every later step at t emitted tokens emits any e from 1 to min(reach + 1, what is left) and goes to t + e.
    """
    total = np.empty(len(workload))
    _cheapest(*_layout(workload), reach, weights, total, np.empty(0, np.uint8))
    return total


def cheapest_drafts(workload: Workload, reach: UInt8, weights: Float64) -> UInt8:
    """Return uint8[positions], the drafts of a cheapest way from each position on; of equals, the most drafts."""
    drafts = np.zeros(reach.size, np.uint8)
    _cheapest(*_layout(workload), reach, weights, np.empty(len(workload)), drafts)
    return drafts


def reach_of(workload: Workload, budgets: Iterable[int] | None = None) -> UInt8:
    """Return uint8[positions], the most drafts accepted at each position under any of the budgets.

    budgets: those that a policy may give (default: all where one table serves them all, else those with a table).
    """
    acceptance = workload.acceptance
    if budgets is None:
        budgets = np.flatnonzero(acceptance.table_of != NO_TABLE).tolist()
    allowed = sorted({int(budget) for budget in budgets})
    acceptance.serve(allowed)
    if acceptance.prefix:
        return np.minimum(acceptance.tables[0, :, 0], max(allowed, default=LARGEST_BUDGET)).astype(np.uint8)
    reach = np.zeros(acceptance.tables.shape[1], np.uint8)
    for budget in allowed:
        np.maximum(reach, np.minimum(acceptance.tables[acceptance.table_of[budget], :, 0], budget), out=reach)
    return reach


def list_starts(durations: Float64, slots: int) -> Float64:
    """Return when each job starts if jobs go, in order, to whichever of `slots` machines is free first."""
    starts = np.zeros(durations.size)
    free = durations[:slots].tolist()
    free.sort()
    for i in range(slots, durations.size):
        starts[i] = free[0]
        heapreplace(free, free[0] + float(durations[i]))
    return starts


def _layout(workload: Workload) -> tuple[Int64, Int64, Int64]:
    return workload.acceptance.offsets[:-1], workload.output_tokens, workload.prompt_tokens
