"""Weights in fewer than 16 bits: how wide they are, what multiplies them, and which of a model's are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Operations = Literal["bf16", "fp8", "fp4"]


@dataclass(frozen=True)
class Quantised:
    """Quantised weights: bytes of a parameter with its share of the scales, and the arithmetic that multiplies with it.

    `attention`, `feed_forward` and `experts` say which share of the projections of attention, of the dense and shared
    feed-forwards, and of the routed experts is quantised; embeddings, output layer, routers and norms are not.
    """

    kind: str
    bytes_per_parameter: float
    operations: Operations
    attention: float = 1.0
    feed_forward: float = 1.0
    experts: float = 1.0
