"""Draft models that draft trees: a strategy says how deep, how wide and how many tokens are verified, a path is accepted."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from simulator.cost.draft_cost import Forward
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.default_price import Kind
from simulator.drafting.drafter import offsets_of
from simulator.drafting.draws import levels, rollout_keys
from simulator.drafting.model import DraftModel, draw
from simulator.drafting.pricing import Found, Price
from simulator.drafting.strategy import Strategy, chosen_for, ordered
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ModelTrees(DraftModel):
    """A draft model that drafts trees, known by a measured acceptance of each of its strategies.

    strategies: in order of their tokens to verify. A budget is the most tokens to verify,
    and gets the largest strategy that it permits; one that permits none is refused.

    Every tree has its strategy's `verify` tokens, which a decode step pays for as query tokens, and its `depth` serial
    passes, of which a step takes those of its largest tree; what a pass itself costs, `topk` wide, is the price's matter. How
    many tokens of the right path are accepted, of those that the rollout has left, is drawn from the strategy's curve as
    `Modelled` draws, with the same u at a position for all strategies: one with a better curve accepts at least as much
    everywhere. An engine verifies a tree whole or, where its limits leave no room, not at all.
    """

    kind: Kind
    strategies: tuple[Strategy, ...]
    price: Price | None = field(default_factory=dict)  # type: ignore[assignment]
    forward: Forward | None = None
    default: str = ""
    model: Mapping[str, Any] | None = None
    layers: int | None = None

    def __post_init__(self) -> None:
        """Put the strategies in order; refuse those that budgets cannot tell apart, and costs that are written out wrongly."""
        object.__setattr__(self, "strategies", ordered(self.strategies))
        super().__post_init__()

    @property
    def lookahead_tokens(self) -> int:
        """KV slots of `topk` tokens in each pass beyond those verified: SGLang frees them before it verifies in their place."""
        if not self.serial:
            return 0
        return max(0, *(one.depth * one.topk - one.verify for one in self.strategies))

    def at(self, found: Found) -> Self:
        """Return the same drafter at this price, its later passes as wide as its widest tree."""
        forward = found.forward
        if forward is not None and not forward.at_once:
            forward = replace(forward, width=max(one.topk for one in self.strategies))
        return super().at(found._replace(forward=forward))

    def describe(self) -> str:
        """Name it with every setting that a result depends on."""
        return f"{self.kind} trees({'; '.join(one.describe() for one in self.strategies)}, cost={self.told_price})"

    def accept(self, trace: Trace, rows: Int64, past: Int64, seed: int) -> Acceptance:
        """Draw how many tokens of a tree would be accepted at every position of the rollouts in `rows`."""
        offsets, steps = offsets_of(trace, rows), trace.step[rows].astype(np.int64)
        level = levels(rollout_keys(trace, rows, seed, "acceptance level"))
        keys = rollout_keys(trace, rows, seed, "accepted tokens")

        def table(budget: int) -> UInt8:
            found = np.zeros((int(offsets[-1]), 2), np.uint8)
            if (strategy := chosen_for(self.strategies, budget)) is not None:
                draw(keys, strategy.curve.survival_of(steps, level), offsets, strategy.verify, found)
            return found

        def least(budget: int) -> int:
            strategy = chosen_for(self.strategies, budget) if budget else None
            return strategy.verify if strategy else 0

        return Acceptance(offsets, table, prefix=False, least=least)
