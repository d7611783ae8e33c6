"""Draft models by acceptance curve: EAGLE-like heads, small draft models, MTP heads, and one-pass parallel drafters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from simulator.compiled import entry
from simulator.cost.draft_cost import Forward
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.default_price import AT_ONCE, Kind, default_price
from simulator.drafting.drafter import Source, Target, offsets_of
from simulator.drafting.draws import levels, rollout_keys, uniform
from simulator.drafting.layout import each_part
from simulator.drafting.pricing import ByPrice, Price
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]
UInt64 = npt.NDArray[np.uint64]
Float64 = npt.NDArray[np.float64]


class DraftModel(ByPrice):
    """A dataclass of a draft model, lossless: its kind, and what the default price rests on.

    kind: `eagle` (a head fed with the target's features; `eagle3` with those of three layers), `draft_model` (a small model of
    its own) and `mtp` (the target's own multi-token heads) draft one token a pass, one pass after the other; `parallel` (a head)
    and `diffusion` (a model of its own, see `diffusion.Diffusion`) draft all in one pass. The kinds differ in nothing else:
    acceptance is the curve's, cost the price's. price: as `pricing.ByPrice` has it; None is the default. model, layers: see
    `default_price.default_price`.
    """

    kind: Kind
    model: Mapping[str, Any] | None
    layers: int | None

    lossless = True
    learns_from: frozenset[Source] = frozenset({"model"})
    window = 16  # nothing is drafted from it; policies look at it
    needs_tokens = False

    @property
    def label(self) -> str:
        """What users call it."""
        return self.kind

    @property
    def serial(self) -> bool:
        """Whether a pass drafts one token; else the one pass of a step drafts all."""
        return self.kind not in AT_ONCE

    def priced(self, target: Target) -> Self:
        """Return the same drafter at its price there, or at the default."""
        if self.price is None:
            return self.at(default_price(self.kind, self.model, self.layers, target))
        return super().priced(target)


@dataclass(frozen=True)
class Modelled(DraftModel):
    """A draft model, known by how often its tokens are accepted and by what its passes cost.

    curve: its positions are the most that is drafted in a step; a larger budget is a permission that stays unused.

    Drafts have as many tokens as the curve has positions. How many are accepted, of those that the rollout has left, is drawn
    at every position by itself: number of j with u < S_j, u uniform, S the rollout's survival. Draws are keyed by (seed, step,
    prompt_id, sample, position), so they are the same under every policy, batch size, dispatch, order of rows and choice of RL
    steps; and since one u decides at a position, a drafter with a better curve accepts at least as much everywhere. A decode
    step sees a fresh draw: the positions that one draft spans are not visited again.
    """

    kind: Kind
    curve: AcceptanceCurve
    price: Price | None = field(default_factory=dict)  # type: ignore[assignment]
    forward: Forward | None = None
    default: str = ""
    model: Mapping[str, Any] | None = None
    layers: int | None = None

    @property
    def lookahead_tokens(self) -> int:
        """KV slots that vLLM reserves for it beyond the drafts in flight: it writes KV of its own."""
        return self.curve.positions if self.serial else 0

    def describe(self) -> str:
        """Name it with every setting that a result depends on."""
        return f"{self.kind}({self.curve.describe()}, draft={self.curve.positions}, cost={self.told_price})"

    def accept(self, trace: Trace, rows: Int64, past: Int64, seed: int) -> Acceptance:
        """Draw how many tokens would be accepted at every position of the rollouts in `rows`."""
        offsets = offsets_of(trace, rows)
        survival = self.curve.survival_of(
            trace.step[rows].astype(np.int64), levels(rollout_keys(trace, rows, seed, "acceptance level"))
        )
        keys = rollout_keys(trace, rows, seed, "accepted tokens")

        def table(budget: int) -> UInt8:
            found = np.empty((int(offsets[-1]), 2), np.uint8)
            draw(keys, survival, offsets, survival.shape[1], found)
            return found

        return Acceptance(offsets, table, prefix=True)


def draw(keys: UInt64, survival: Float64, offsets: Int64, drafted: int, table: UInt8) -> None:
    """Fill table, uint8[positions, 2], with tokens accepted and drafted; survival: float64[n, K], falling, keys: uint64[n]."""

    def run(part: Int64) -> int:
        _draw(part, keys, survival, offsets, drafted, table)
        return 0

    each_part(offsets, run)


@entry
def _draw(part: Int64, keys: UInt64, survival: Float64, offsets: Int64, drafted: int, table: UInt8) -> None:
    for i in part:
        start, end = offsets[i], offsets[i + 1]
        row = survival[i]
        for p in range(start, end):
            u = uniform(keys[i], p - start)
            accepted = 0
            for j in range(row.size):  # no branch on a coin toss
                accepted += u < row[j]
            table[p, 0] = min(accepted, end - p)
            table[p, 1] = drafted
