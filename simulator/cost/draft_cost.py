"""What drafting adds to a decode step, in Python and inside the simulation kernel."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from simulator.compiled import compiled
from simulator.cost.kernel import COST, Cost, step_time
from simulator.cost.model import Profile
from simulator.cost.work import WORK, Work
from simulator.records import Pointing, layout, record_field, records


@dataclass(frozen=True)
class Forward:
    """A draft model's forward passes, priced by operators as the target's are.

    cost: of one pass, by its work. passes: in a drafting step; 0: as many as its longest draft has tokens. The first runs
    over the tokens that the target ran over in the step, prefilled ones included, as EAGLE and MTP heads and draft models do
    in vLLM to take up what was decided; the others over `width` tokens of each sequence that may draft. at_once: there is one,
    over all tokens of the drafts and one more of each sequence, as in block drafters; recomputes: and over all of its context, as
    in models whose tokens see those behind them, so that nothing can be cached.
    """

    cost: Profile
    passes: int = 0
    width: int = 1
    at_once: bool = False
    recomputes: bool = False


@dataclass(frozen=True)
class DraftCost:
    """Seconds that drafting adds to a decode step, on the critical path before verification.

    per_step_s: once, if any sequence may draft. per_query_s: for each sequence that may draft (budget above 0).
    per_pass_s, per_pass_kv_token_s: for each serial pass of a draft model, of which a step takes as many as its longest
    draft has tokens; the latter times the KV tokens of the batch. per_drafted_token_s: for each drafted token.
    per_emitted_token_s: for each emitted token, where a drafter learns as it goes. step_fraction: this share of the
    decode step's own time, if anything is drafted. per_kv_token_s: for each KV token of the batch, once in a step in
    which any sequence may draft. forward: the passes by operators, besides.
    """

    per_step_s: float = 0.0
    per_query_s: float = 0.0
    per_pass_s: float = 0.0
    per_pass_kv_token_s: float = 0.0
    per_drafted_token_s: float = 0.0
    per_emitted_token_s: float = 0.0
    step_fraction: float = 0.0
    per_kv_token_s: float = 0.0
    forward: Forward | None = None

    @classmethod
    def of(cls, rates: Mapping[str, float], forward: Forward | None = None) -> "DraftCost":
        """Return the cost with these rates, the others 0."""
        known: dict[str, Any] = dict(rates)
        return cls(**known, forward=forward)

    @property
    def rates(self) -> dict[str, float]:
        """The numbers by name, `forward` left out."""
        return {name: getattr(self, name) for name in RATES}

    @property
    def at_least(self) -> "DraftCost":
        """Rates alone, which no drafting step costs less than: every pass at the least that its operators can cost."""
        if self.forward is None:
            return self
        least_s, passes = sum(self.forward.cost.least_s.values()), self.forward.passes
        once_s, each_s = (passes * least_s, 0.0) if passes else (0.0, least_s)
        return replace(self, per_step_s=self.per_step_s + once_s, per_pass_s=self.per_pass_s + each_s, forward=None)

    @cached_property
    def packed(self) -> Pointing:
        """The record DRAFT_COST, for compiled code."""
        found = Pointing(DRAFT_COST, **self.rates)
        if self.forward is not None:
            found.record["modelled"], found.record["passes"] = True, self.forward.passes
            found.record["at_once"], found.record["width"] = self.forward.at_once, self.forward.width
            found.record["recomputes"] = self.forward.recomputes
            found.point(model=self.forward.cost.packed, work=records(WORK, 1))
        return found


RATES = tuple(field.name for field in fields(DraftCost) if field.name != "forward")


class Drafting:
    """What compiled code reads of a DraftCost; `work`: of the pass that is being priced."""

    per_step_s: float
    per_query_s: float
    per_pass_s: float
    per_pass_kv_token_s: float
    per_drafted_token_s: float
    per_emitted_token_s: float
    step_fraction: float
    per_kv_token_s: float
    modelled: bool
    passes: int
    width: int
    at_once: bool
    recomputes: bool
    model: Cost
    work: Work


DRAFT_COST = layout(Drafting)
FREE = DraftCost()
model_of, work_of = record_field("model", COST), record_field("work", WORK)


@compiled
def draft_time(
    cost: Drafting, asking: int, longest: int, drafted: float, emitted: float, step: Work, step_s: float
) -> float:
    """Seconds that drafting adds to a decode step.

    asking: sequences that may draft; longest: serial passes of the draft that takes most; drafted, emitted: tokens of the batch;
    step: the work of the step, step_s: its seconds without drafting.
    """
    if asking == 0:
        return 0.0
    kv_tokens = step.kv_tokens - step.prefill_kv_tokens
    seconds = (
        cost.per_step_s + cost.per_query_s * asking + (cost.per_pass_s + cost.per_pass_kv_token_s * kv_tokens) * longest
        + cost.per_drafted_token_s * drafted + cost.per_emitted_token_s * emitted
        + (cost.step_fraction * step_s if drafted > 0 else 0.0) + cost.per_kv_token_s * kv_tokens
    )  # fmt: skip
    if cost.modelled:
        seconds += forward_time(cost, asking, longest, drafted, step)
    return seconds


@compiled
def forward_time(cost: Drafting, asking: int, longest: int, drafted: float, step: Work) -> float:
    """Seconds of the passes of a draft model in a step in which so many sequences may draft; see `Forward`."""
    model, work = model_of(cost), work_of(cost)
    passes = cost.passes if cost.passes > 0 else longest
    if passes == 0:
        return 0.0
    work.live, work.longest_context = asking, step.longest_context
    work.kv_tokens = (step.kv_tokens - step.prefill_kv_tokens) * asking / (step.live - step.prefill_seqs)
    tokens = drafted + asking if cost.at_once else float(cost.width * asking)
    if cost.recomputes:
        work.kv_tokens += tokens
        tokens = work.kv_tokens
    work.query_tokens = work.padded_tokens = work.expert_tokens = tokens
    work.pairs = work.kv_tokens * work.query_tokens / asking
    if cost.at_once:
        return step_time(model, work)
    first_s = step_time(model, step)
    return first_s + (passes - 1) * step_time(model, work) if passes > 1 else first_s
