"""The drafter that proposes nothing, for traces without token ids and for baselines."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.cost.draft_cost import DraftCost
from simulator.drafting.acceptance import Acceptance, no_drafts
from simulator.drafting.drafter import Source, offsets_of
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Nothing:
    """No drafts at all; budgets are granted and stay unused."""

    lossless = True
    learns_from: frozenset[Source] = frozenset()
    window = 16
    needs_tokens = False
    cost = DraftCost()

    def describe(self) -> str:
        """Return `none`."""
        return "none"

    def accept(self, trace: Trace, rows: Int64, past: Int64, seed: int) -> Acceptance:
        """Zeros."""
        return no_drafts(offsets_of(trace, rows))
