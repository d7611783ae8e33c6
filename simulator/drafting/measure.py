"""A drafter measured on its own: on history, for policies that fit, and over a replay, for tables and plots."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import DraftCurve
from simulator.drafting.acceptance import LARGEST_BUDGET, Acceptance, count_each
from simulator.drafting.drafter import Drafter
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]

CURVE_BUDGETS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
CURVE_ROLLOUTS = 256


def draft_curve(drafter: Drafter, trace: Trace, past: Int64, seed: int) -> DraftCurve:
    """Replay up to 256 rollouts of the latest past RL step, drafted from all other rollouts in the history.

    Leaving the replayed rollouts out makes a single past step enough: their siblings stand for an earlier step.
    """
    latest = past[trace.step[past] == trace.step[past].max()]
    replayed = latest[np.unique(np.linspace(0, latest.size - 1, CURVE_ROLLOUTS).round().astype(np.int64))]
    if replayed.size == past.size:
        replayed = replayed[::2]
    others = past[~np.isin(past, replayed)]
    acceptance = drafter.accept(trace, replayed, others, seed)
    counts = np.array([count_each(acceptance, budget) for budget in CURVE_BUDGETS])
    return DraftCurve(
        np.array(CURVE_BUDGETS), trace.output_tokens[replayed].astype(np.int64), counts[:, 1], counts[:, 2]
    )


def profile_of(measured: Sequence[Acceptance]) -> Iterator[dict[str, Any]]:
    """Yield the blocks of `results.ACCEPTANCE`: drafts with an unlimited budget, over all positions of all rollouts.

    First tokens are left out: an engine gets them from the prefill, without a draft.
    """
    longest = LARGEST_BUDGET + 1
    drafted, accepted = np.zeros(longest + 1, np.int64), np.zeros(longest + 1, np.int64)
    bins = np.zeros((3, 64), np.int64)
    for acceptance in measured:
        acceptance.serve([LARGEST_BUDGET])
        table = acceptance.tables[acceptance.table_of[LARGEST_BUDGET]]
        emitted = np.arange(len(table)) - np.repeat(acceptance.offsets[:-1], np.diff(acceptance.offsets))
        table, emitted = table[emitted > 0], emitted[emitted > 0]
        drafted[:longest] += np.bincount(table[:, 1], minlength=longest)
        accepted[:longest] += np.bincount(table[:, 0], minlength=longest)
        which = np.log2(emitted).astype(np.int64)
        for row, weight in enumerate((None, table[:, 1], table[:, 0])):
            bins[row] += np.bincount(which, weight, 64).astype(np.int64)
    at_least_drafted, at_least_accepted = (counts[::-1].cumsum()[::-1][1:] for counts in (drafted, accepted))
    for j in range(int((at_least_drafted > 0).sum())):
        n = int(at_least_drafted[j])
        yield {"by": "position", "low": j + 1, "high": j + 1, "drafted_tokens": n,
               "accepted_tokens": int(at_least_accepted[j]), "drafts": n}  # fmt: skip
    for b in range(int(bins[0].nonzero()[0].max(initial=-1)) + 1):
        yield {"by": "emitted", "low": 2**b, "high": 2 ** (b + 1) - 1, "drafted_tokens": int(bins[1, b]),
               "accepted_tokens": int(bins[2, b]), "drafts": int(bins[0, b])}  # fmt: skip
