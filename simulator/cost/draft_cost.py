"""What drafting adds to a decode step, in Python and inside the simulation kernel."""

from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.compiled import compiled
from simulator.records import layout


@dataclass(frozen=True)
class DraftCost:
    """Seconds that drafting adds to a decode step, on the critical path before verification.

    per_step_s: once, if any sequence may draft. per_query_s: for each sequence that may draft (budget above 0).
    per_pass_s, per_pass_kv_token_s: for each serial pass of a draft model, of which a step takes as many as its longest
    draft has tokens; the latter times the KV tokens of the batch. per_drafted_token_s: for each drafted token.
    per_emitted_token_s: for each emitted token, where a drafter learns as it goes. step_fraction: this share of the
    decode step's own time, if any sequence may draft. per_kv_token_s: for each KV token of the batch, once in a step in
    which any sequence may draft.
    """

    per_step_s: float = 0.0
    per_query_s: float = 0.0
    per_pass_s: float = 0.0
    per_pass_kv_token_s: float = 0.0
    per_drafted_token_s: float = 0.0
    per_emitted_token_s: float = 0.0
    step_fraction: float = 0.0
    per_kv_token_s: float = 0.0

    @cached_property
    def packed(self) -> "npt.NDArray[Any]":
        """An array of the one record DRAFT_COST, for compiled code."""
        return np.array([astuple(self)], DRAFT_COST)


DRAFT_COST = layout(DraftCost)
FREE = DraftCost()


@compiled
def draft_time(
    cost: DraftCost, asking: int, longest: int, drafted: float, emitted: float, kv_tokens: float, step_s: float
) -> float:
    """Seconds that drafting adds to a decode step.

    asking: sequences that may draft; longest: tokens of the longest draft; drafted, emitted: tokens of the batch; step_s:
    seconds of the step without drafting.
    """
    if asking == 0:
        return 0.0
    return (
        cost.per_step_s + cost.per_query_s * asking + (cost.per_pass_s + cost.per_pass_kv_token_s * kv_tokens) * longest
        + cost.per_drafted_token_s * drafted + cost.per_emitted_token_s * emitted + cost.step_fraction * step_s
        + cost.per_kv_token_s * kv_tokens
    )  # fmt: skip
