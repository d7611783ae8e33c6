"""The interface of a drafter, what it costs, and which recorded rollouts it may have seen."""

from dataclasses import astuple, dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from simulator.drafting.acceptance import Acceptance
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

Source = Literal["prompt", "own", "siblings", "history", "model"]


@dataclass(frozen=True)
class DraftCost:
    """Seconds that drafting adds to a decode step, on the critical path before verification.

    per_step_s: once, if any sequence may draft. per_query_s: for each sequence that may draft (budget above 0).
    per_pass_s, per_pass_kv_token_s: for each serial pass of a draft model, of which a step takes as many as its longest
    draft has tokens; the latter times the KV tokens of the batch. per_drafted_token_s: for each drafted token.
    per_emitted_token_s: for each emitted token, where a drafter learns as it goes. step_fraction: this share of the
    decode step's own time, if any sequence may draft.
    """

    per_step_s: float = 0.0
    per_query_s: float = 0.0
    per_pass_s: float = 0.0
    per_pass_kv_token_s: float = 0.0
    per_drafted_token_s: float = 0.0
    per_emitted_token_s: float = 0.0
    step_fraction: float = 0.0

    @property
    def packed(self) -> Float64:
        """The coefficients in the order of the fields, for `engine.kernel`."""
        return np.array(astuple(self), np.float64)


FREE = DraftCost()


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
