"""A drafter measured on its own: on history, for policies that fit, and over a replay, for tables and plots."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.compiled import entry
from simulator.drafting.acceptance import Acceptance, Draft, count_each
from simulator.drafting.drafter import Asked, Drafter, accepted
from simulator.limits import LARGEST_BUDGET
from simulator.records import Array, as_int, read_only
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]

CURVE_BUDGETS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
CURVE_ROLLOUTS = 256


@dataclass(frozen=True, eq=False)
class DraftCurve:
    """How much of what budget is drafted and accepted, measured on m earlier rollouts under each of b constant budgets.

    budgets: int64[b], ascending; lengths: int64[m]; drafted, accepted: int64[b, m], sums over a rollout.
    """

    budgets: Int64
    lengths: Int64
    drafted: Int64
    accepted: Int64

    def __post_init__(self) -> None:
        """Keep policies from writing into what others read."""
        for name in ("budgets", "lengths", "drafted", "accepted"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


def asked_for_curve(trace: Trace, past: Int64) -> Asked:
    """Up to 256 rollouts of the latest past RL step, to be drafted for from all other rollouts in the history.

    Leaving the replayed rollouts out makes a single past step enough: their siblings stand for an earlier step.
    """
    latest = past[trace.step[past] == trace.step[past].max()]
    replayed = latest[np.unique(np.linspace(0, latest.size - 1, CURVE_ROLLOUTS).round().astype(np.int64))]
    if replayed.size == past.size:
        replayed = replayed[::2]
    return Asked(replayed, past[~np.isin(past, replayed)])


def draft_curve(drafter: Drafter, trace: Trace, past: Int64, seed: int) -> DraftCurve:
    """What comes of the rollouts of `asked_for_curve`."""
    asked = asked_for_curve(trace, past)
    return curve_of(trace, asked, accepted(drafter, trace, *asked, seed))


def curve_of(trace: Trace, asked: Asked, acceptance: Acceptance) -> DraftCurve:
    """The curve from what is drafted and accepted for those who asked."""
    counts = np.array([count_each(acceptance, budget) for budget in CURVE_BUDGETS])
    return DraftCurve(
        np.array(CURVE_BUDGETS), trace.output_tokens[asked.rows].astype(np.int64), counts[:, 1], counts[:, 2]
    )


@entry
def _add(
    offsets: Array[int],
    table: Array[Draft],
    depths: Array[int],
    by_length: "npt.NDArray[Any]",
    by_emitted: "npt.NDArray[Any]",
) -> None:
    """Count each position but the first of every rollout by what is drafted there, what accepted, and log2(emitted)."""
    for i in range(offsets.size - 1):
        start = offsets[i]
        which = 0
        for emitted in range(1, offsets[i + 1] - start):
            if emitted >> (which + 1):
                which += 1
            drafted, right = as_int(table[start + emitted].drafted), as_int(table[start + emitted].accepted)
            by_length[0, depths[drafted]] += 1
            by_length[1, right] += 1
            by_emitted[0, which] += 1
            by_emitted[1, which] += drafted
            by_emitted[2, which] += right


class DraftProfile:
    """Drafts with an unlimited budget, summed over all positions of all rollouts: the blocks of `results.ACCEPTANCE`.

    First tokens are left out: an engine gets them from the prefill, without a draft. depths: int64[256], the positions that a
    draft of so many tokens has, of a tree its depth (None: its tokens).
    """

    def __init__(self, depths: Int64 | None = None) -> None:
        self._depths = np.arange(LARGEST_BUDGET + 1) if depths is None else depths
        self._by_length: Int64 = np.zeros((2, LARGEST_BUDGET + 2), np.int64)  # drafts and accepted parts of each length
        self._by_emitted: Int64 = np.zeros((3, 64), np.int64)  # positions, drafted and accepted by log2(emitted)

    def add(self, acceptance: Acceptance) -> None:
        """Count the positions of one RL step."""
        if acceptance.blank:
            lengths = np.diff(acceptance.offsets)
            self._by_emitted[0] += [int((np.clip(lengths, low, 2 * low) - low).sum()) for low in 2 ** np.arange(62)] + [
                0,
                0,
            ]
            return
        acceptance.serve([LARGEST_BUDGET])
        _add(acceptance.offsets, acceptance.drafts(LARGEST_BUDGET), self._depths, self._by_length, self._by_emitted)

    def blocks(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the table, first by position in the draft, then by tokens emitted so far."""
        drafted, accepted = self._by_length[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:].tolist()
        for position, (n, right) in enumerate(zip(drafted, accepted, strict=True), start=1):
            if n:
                yield {"by": "position", "low": position, "high": position, "drafted_tokens": n,
                       "accepted_tokens": right, "drafts": n}  # fmt: skip
        for b in range(int(self._by_emitted[0].nonzero()[0].max(initial=-1)) + 1):
            positions, drafts, right = self._by_emitted[:, b].tolist()
            yield {"by": "emitted", "low": 2**b, "high": 2 ** (b + 1) - 1, "drafted_tokens": drafts,
                   "accepted_tokens": right, "drafts": positions}  # fmt: skip
