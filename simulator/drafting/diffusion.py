"""A diffusion language model that fills all masks of a draft in one pass (DiffuSpec, arXiv 2510.02358)."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from simulator.compiled import entry
from simulator.cost.draft_cost import DraftCost
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.drafter import Source, Target
from simulator.drafting.draws import rollout_keys, uniform
from simulator.drafting.model import Modelled
from simulator.limits import DraftContext
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
UInt64 = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Diffusion:
    """A draft model that proposes a whole draft in one pass, so that a longer one costs hardly more.

    model: its acceptance and its price, of kind `diffusion`. context: its tokens see those behind them, the masks too, so what it
    computed of a context does not hold in the next step: `recomputed`, as its authors' code does (Dream-v0 caches nothing), or
    `cached`, as if it did hold. temperature: at which the rollouts were sampled; None: unknown, so above 0. ends: probability
    that a draft ends before a position that it has reached, for the model has the text end there; drawn as acceptance is.

    A path is searched among tokens that were drawn at all positions at once, and no probability of a token given those before
    it comes with it: verification keeps the target's distribution where it has one token only, at temperature 0.
    """

    model: Modelled
    context: DraftContext = "recomputed"
    temperature: float | None = None
    ends: float = 0.0

    needs_tokens = False
    lookahead_tokens = 0

    @property
    def lossless(self) -> bool:
        """Whether rollouts were sampled at temperature 0."""
        return self.temperature == 0

    @property
    def lossless_if(self) -> str:
        """Under which condition it is lossless that the rollouts do not meet; empty where they do."""
        sampled = "an unknown temperature" if self.temperature is None else f"{self.temperature:g}"
        return "" if self.lossless else f"at temperature 0 only, and rollouts are sampled at {sampled}"

    @property
    def learns_from(self) -> frozenset[Source]:
        """What its drafts rest on."""
        return self.model.learns_from

    @property
    def window(self) -> int:
        """RL steps of history that policies look at."""
        return self.model.window

    @property
    def cost(self) -> DraftCost:
        """What drafting adds to a decode step."""
        return self.model.cost

    @property
    def told_default(self) -> str:
        """What a result says of a price that nobody gave."""
        return self.model.told_default

    def priced(self, target: Target) -> "Diffusion":
        """Return the same drafter at its price there, its pass over the context as well where that is computed again."""
        model = self.model.priced(target)
        if model.forward is not None:
            forward = replace(model.forward, recomputes=self.context == "recomputed")
            model = replace(model, forward=forward)
        return replace(self, model=model)

    def describe(self) -> str:
        """Name it with every setting that a result depends on."""
        ends = f", ends={self.ends:g}" if self.ends else ""
        return f"{self.model.describe()[:-1]}, context {self.context}{ends})"

    def accept(self, trace: Trace, rows: Int64, past: Int64, seed: int) -> Acceptance:
        """Draw how many tokens would be accepted at every position of the rollouts in `rows`."""
        found = self.model.accept(trace, rows, past, seed)
        if self.ends:
            end(rollout_keys(trace, rows, seed, "draft ends"), found.offsets, np.log1p(-self.ends), found.tables[0])
        return found


@entry
def end(keys: UInt64, offsets: Int64, log_stay: float, table: UInt8) -> None:
    """End the draft of every position in a table of accepted and drafted tokens; log_stay: of the chance to go on by a token."""
    for i in range(keys.size):
        for p in range(offsets[i], offsets[i + 1]):
            tokens = np.log(uniform(keys[i], p - offsets[i])) / log_stay
            if tokens < table[p, 1]:
                table[p, 1] = int(tokens)
                table[p, 0] = min(table[p, 0], table[p, 1])
