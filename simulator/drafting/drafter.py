"""The interface of a drafter, and which recorded rollouts it may have seen."""

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from simulator.cost.draft_cost import DraftCost as DraftCost
from simulator.drafting.acceptance import Acceptance
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]

Source = Literal["prompt", "own", "siblings", "history", "model"]


class Drafter(Protocol):
    """Anything that proposes drafts for recorded rollouts."""

    @property
    def lossless(self) -> bool:
        """Whether verification keeps the target model's distribution."""

    @property
    def learns_from(self) -> frozenset[Source]:
        """What its drafts rest on."""

    @property
    def window(self) -> int:
        """RL steps of history that it looks at; 0 for none."""

    @property
    def needs_tokens(self) -> bool:
        """Whether it replays recorded token ids."""

    @property
    def cost(self) -> DraftCost:
        """What drafting adds to a decode step."""

    def describe(self) -> str:
        """Name it with every setting that a result depends on."""

    def accept(self, trace: Trace, rows: Int64, past: Int64, seed: int) -> Acceptance:
        """What would be drafted and accepted at every position of the rollouts in `rows`.

        past: rows of the rollouts in the window, oldest first, complete and frozen. seed: names the random numbers of a
        drafter that draws them; they are keyed by rollout and position, never by the order of calls.
        """


def past_rows(trace: Trace, step: int, window: int) -> Int64:
    """Return the rows of `trace` in the `window` recorded RL steps before `step`, oldest first."""
    before = [s for s in trace.steps if s < step][-window:] if window else []
    rows = np.flatnonzero(np.isin(trace.step, before))
    return rows[np.argsort(trace.step[rows], kind="stable")]


def offsets_of(trace: Trace, rows: Int64) -> Int64:
    """Return int64[n + 1], where each of the rollouts in `rows` begins among all their positions."""
    offsets = np.zeros(rows.size + 1, np.int64)
    np.cumsum(trace.output_tokens[rows], out=offsets[1:])
    return offsets
