"""What a decode step would cost if every live sequence drafted k tokens: what cost-aware policies weigh budgets with."""

import numpy as np
import numpy.typing as npt

from simulator.cost.kernel import step_times
from simulator.cost.model import CostModel
from simulator.cost.work import WORK_FIELDS
from simulator.drafting.drafter import DraftCost

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


def emitted_per_sequence(acceptance: float, most: int) -> Float64:
    """Expected tokens of a sequence in a decode step that drafts 0..most tokens, each accepted at rate `acceptance`.

    1 + a + ... + a^k = (1 - a^(k+1)) / (1 - a) (Leviathan, arXiv 2211.17192), without the hole at a = 1.
    """
    return np.asarray(np.cumsum(np.power(acceptance, np.arange(most + 1, dtype=np.float64))))


def step_seconds(
    cost: CostModel, draft_cost: DraftCost, live: int, context_tokens: int, emitted_tokens: Float64
) -> Float64:
    """Seconds of a decode step of `live` sequences that draft 0, 1, ... tokens each, drafting and verification.

    context_tokens: of the whole batch; emitted_tokens: float64[k + 1], expected of the whole batch, by drafts. Priced as
    the engine does: nobody prefills, and where nothing is drafted, drafting costs nothing.
    """
    k = np.arange(emitted_tokens.size, dtype=np.float64)
    work = np.zeros((k.size, len(WORK_FIELDS)))
    work[:, 0], work[:, 2], work[:, 9] = live, context_tokens, context_tokens / live
    work[:, 1] = work[:, 5] = live * (k + 1)
    work[:, 3] = context_tokens * (k + 1)
    # `step_times` and not `step_time_s`, which takes 20 us to check what is known to be right here
    verify: Float64 = step_times(*cost.packed, work)
    draft = (
        draft_cost.per_step_s
        + draft_cost.per_query_s * live
        + (draft_cost.per_pass_s + draft_cost.per_pass_kv_token_s * context_tokens) * k
        + draft_cost.per_drafted_token_s * live * k
        + draft_cost.per_emitted_token_s * emitted_tokens
        + draft_cost.step_fraction * verify
    )
    draft[0] = 0.0
    return verify + draft
