"""What a decode step would cost if every live sequence drafted k tokens: what cost-aware policies weigh budgets with."""

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.compiled import entry
from simulator.cost.draft_cost import Drafting, draft_time
from simulator.cost.kernel import Cost, step_time
from simulator.cost.work import WORK, Work
from simulator.drafting.strategy import passes_by_tokens
from simulator.records import Array, records

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def emitted_per_sequence(acceptance: float, most: int) -> Float64:
    """Expected tokens of a sequence in a decode step that drafts 0..most tokens, each accepted at rate `acceptance`.

    1 + a + ... + a^k = (1 - a^(k+1)) / (1 - a) (Leviathan, arXiv 2211.17192), without the hole at a = 1.
    """
    return np.asarray(np.cumsum(np.power(acceptance, np.arange(most + 1, dtype=np.float64))))


def step_seconds(
    context: Context, live: int, context_tokens: int, emitted_tokens: Float64, drafts: Int64 | None = None
) -> Float64:
    """Seconds of a decode step of `live` sequences that draft so many tokens each, drafting and verification.

    context_tokens: of the whole batch; drafts: int64[k + 1] (None: 0, 1, ..., k); emitted_tokens: float64[k + 1], expected of
    the whole batch, by drafts. Priced as the engine does: nobody prefills, and where nothing is drafted, drafting costs nothing.
    """
    seconds, cost = np.empty(emitted_tokens.size), context.cost.packed.record
    drafts = np.arange(seconds.size) if drafts is None else drafts
    passes = passes_by_tokens(context.strategies)[drafts]
    _step_seconds(
        cost,
        context.draft_cost.packed.record,
        live,
        context_tokens,
        drafts,
        passes,
        emitted_tokens,
        seconds,
        records(WORK, 1),
    )
    return seconds


@entry
def _step_seconds(
    costs: Array[Cost], draft_costs: Array[Drafting], live: int, context_tokens: int, drafts: Array[int],
    passes: Array[int], emitted_tokens: Array[float], seconds: Array[float], scratch: Array[Work],
) -> None:  # fmt: skip
    work = scratch[0]
    work.live, work.kv_tokens, work.longest_context = live, context_tokens, context_tokens / live
    for i in range(seconds.size):
        k = drafts[i]
        work.query_tokens = work.padded_tokens = work.expert_tokens = live * (k + 1)
        work.pairs = context_tokens * (k + 1)
        verify_s = step_time(costs[0], work)
        asking = live if k > 0 else 0
        seconds[i] = verify_s + draft_time(
            draft_costs[0], asking, passes[i], live * k, emitted_tokens[i], work, verify_s
        )
