"""Suffix drafts where they promise much, a draft model's elsewhere (SuffixDecoding's hybrid, arXiv 2411.04975)."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from simulator.cost.draft_cost import DraftCost
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.drafter import Source, Target, offsets_of
from simulator.drafting.model import Modelled
from simulator.drafting.pricing import both, every_step
from simulator.drafting.suffix import Suffix, SuffixReplay
from traces.errors import InputError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Hybrid:
    """At each position the suffix draft if it is worth more than `threshold`, else the draft model's; lossless.

    A `scored` suffix draft is worth its score, the accepted tokens expected from the counts in the history; the default
    threshold is what the model's own draft is expected to have accepted under the same budget, at the RL step. A
    `longest` suffix draft is worth its length, and the default threshold is the length of the model's draft.

    Cost: the engine charges a step for what it drafts in all, not for who drafted it, so a step in which any sequence
    may draft is charged all passes of the model and the suffix lookup, and its rates by drafted and KV token for drafts
    of either kind: an upper bound, near the truth in batches, where some sequence nearly always needs the model, and too
    much where a sequence runs alone and a long suffix match spares it.
    """

    suffix: Suffix
    model: Modelled
    threshold: float | None = None

    needs_tokens = True

    def __post_init__(self) -> None:
        """Refuse what cannot be compared with a draft of the model."""
        if self.suffix.shape == "tree":
            raise InputError("drafter hybrid: suffix.shape tree is not supported here: use shape path")

    @property
    def lossless(self) -> bool:
        """Whether both drafters are."""
        return self.suffix.lossless and self.model.lossless

    @property
    def learns_from(self) -> frozenset[Source]:
        """What either learns from."""
        return self.suffix.learns_from | self.model.learns_from

    @property
    def window(self) -> int:
        """RL steps of history that the suffix drafter looks at."""
        return self.suffix.window

    @property
    def cost(self) -> DraftCost:
        """What drafting adds to a decode step, at most."""
        return both(self.suffix.cost, every_step(self.model.cost, self.model.curve.positions))

    def priced(self, target: Target) -> "Hybrid":
        """Return the same drafter with the model at its price there."""
        return replace(self, model=self.model.priced(target))

    @property
    def told_default(self) -> str:
        """What a result says of the model's price, where nobody gave it."""
        return self.model.told_default

    def describe(self) -> str:
        """Name it with every setting that a result depends on."""
        worth = "score" if self.suffix.match == "scored" else "length"
        least = "that of the model" if self.threshold is None else f"{self.threshold:g}"
        return f"hybrid({self.suffix.describe()} if {worth} > {least}, else {self.model.describe()})"

    def accept(self, trace: Trace, rows: Int64, past: Int64, seed: int) -> Acceptance:
        """Draft at every position of the rollouts in `rows` with both drafters, and keep one."""
        offsets = offsets_of(trace, rows)
        model = self.model.accept(trace, rows, past, seed).tables[0]
        if self.suffix.match == "longest":
            suffix = self.suffix.accept(trace, rows, past, seed).tables[0]
            least = self.model.curve.positions if self.threshold is None else self.threshold
            chosen = np.where(suffix[:, 1:] > least, suffix, model)
            return Acceptance(offsets, lambda budget: chosen, prefix=True)
        history = self.suffix.learn(trace, past)

        def table(budget: int) -> UInt8:
            suffix = SuffixReplay(self.suffix, trace, rows, history)
            suffix.run(budget, scores=True)
            least = np.repeat(self._thresholds(trace.step[rows], budget), trace.output_tokens[rows])
            worth = (suffix.scores > least)[:, None]
            return np.where(worth, suffix.table, np.minimum(model, budget)).astype(np.uint8)

        return Acceptance(offsets, table, prefix=False)

    def _thresholds(self, steps: npt.NDArray[np.int32], budget: int) -> Float64:
        """The threshold of each rollout, by its RL step."""
        if self.threshold is not None:
            return np.full(steps.size, self.threshold)
        curve, distinct = self.model.curve, np.unique(steps)
        drafted = min(budget, curve.positions)
        return np.array([curve.mean_accepted(drafted, step) for step in distinct.tolist()])[
            np.searchsorted(distinct, steps)
        ]
