"""A draft model after some training: better known domains have a better curve."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from simulator.cost.draft_cost import DraftCost
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.drafter import Source, offsets_of
from simulator.drafting.learning import relaxed
from simulator.drafting.model import Modelled
from traces.errors import InputError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]


def relaxed_curve(curve: AcceptanceCurve, limit: Sequence[float], samples: float, half_life: float) -> AcceptanceCurve:
    """Return a curve after so many samples, each conditional probability on its way to its limit (`learning.relaxed`).

    limit: one for all draft positions, or one for each. Raises InputError for another number of them.
    """
    if len(limit) not in (1, curve.positions):
        raise InputError(
            f"acceptance curve {curve.name} has {curve.positions} draft positions, and limits are given for {len(limit)}: give "
            "one limit, or one for each position"
        )
    conditional = relaxed(curve.conditional, limit, samples, half_life)
    return replace(curve, conditional=tuple(conditional.tolist()))


@dataclass(frozen=True, eq=False)
class Learnt:
    """A draft model that has been trained on samples: in each domain its curve is as far on its way as those of the domain say.

    drafter: before; limit, half_life: as in `relaxed_curve`; domains: int64[rows of the trace], of every rollout; samples:
    int64[domains], trained on. Draws are those of the drafter before, so a version with a better curve accepts at least as much
    at every position.
    """

    drafter: Modelled
    limit: tuple[float, ...]
    half_life: float
    domains: Int64
    samples: Int64

    @property
    def lossless(self) -> bool:
        """As before."""
        return self.drafter.lossless

    @property
    def learns_from(self) -> frozenset[Source]:
        """As before: what it has learnt besides, `samples` say."""
        return self.drafter.learns_from

    @property
    def window(self) -> int:
        """As before."""
        return self.drafter.window

    @property
    def needs_tokens(self) -> bool:
        """As before."""
        return self.drafter.needs_tokens

    @property
    def cost(self) -> DraftCost:
        """As before."""
        return self.drafter.cost

    def describe(self) -> str:
        """Name it with what it has learnt."""
        return f"{self.drafter.describe()} after {self.samples.tolist()} samples"

    def curve(self, domain: int) -> AcceptanceCurve:
        """How likely its drafts are to be accepted in a domain."""
        return relaxed_curve(self.drafter.curve, self.limit, float(self.samples[domain]), self.half_life)

    def accept(self, trace: Trace, rows: Int64, past: Int64, seed: int) -> Acceptance:
        """Draw what is accepted at every position, domain by domain."""
        offsets, domains = offsets_of(trace, rows), self.domains[rows]
        if domains.size and (domains == domains[0]).all():
            return replace(self.drafter, curve=self.curve(int(domains[0]))).accept(trace, rows, past, seed)
        table = np.empty((int(offsets[-1]), 2), np.uint8)
        for domain in np.unique(domains).tolist():
            mine = domains == domain
            part = replace(self.drafter, curve=self.curve(domain)).accept(trace, rows[mine], past, seed)
            table[np.repeat(mine, np.diff(offsets))] = part.tables[0]
        return Acceptance(offsets, lambda budget: table, prefix=True)
