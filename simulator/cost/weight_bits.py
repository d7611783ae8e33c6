"""Weights of a 16-bit checkpoint in a few bits, by groups with a scale and a zero, and low-rank factors beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from simulator.cost.low_rank import factors_of
from simulator.cost.precision import Quantised
from simulator.cost.shape import ModelShape
from traces.errors import InputError

FIELD = "weight_bits"
"""Of a model's config; no checkpoint has it."""
GROUP_BITS = 32
"""A group's scale and zero, 16 bits each."""
FULL_BITS = 16
LIMITS = {"bits": (1, FULL_BITS), "group": (1, 2**20), "rank": (0, 2**20), "sparse_rank": (0, 2**20)}


@dataclass(frozen=True)
class WeightBits:
    """W = s (W_q - z) + U V of every projection, W_q in `bits`, s and z of `group` numbers each; multiplied with in 16 bits.

    rank: of U and V beside projections of attention and of dense and shared feed-forwards; sparse_rank: beside those of routed
    experts. Embeddings, output layer, routers, norms and biases stay as they are. At 16 bits weights are the checkpoint's own.
    """

    bits: int = 3
    group: int = 64
    rank: int = 0
    sparse_rank: int = 0

    def __post_init__(self) -> None:
        """Refuse what no kernel could read."""
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise InputError(f"{FIELD}: {name} = {value!r:.40}: give a whole number from {least} to {most}")

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes of a quantised weight with its share of its group's scale and zero."""
        return (self.bits + (GROUP_BITS / self.group if self.bits < FULL_BITS else 0)) / 8

    @property
    def changes_nothing(self) -> bool:
        """Whether weights are the checkpoint's."""
        return self.bits == FULL_BITS and not self.rank and not self.sparse_rank

    def of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config of a model with such weights; InputError where its weights are not in 16 bits."""
        if config.get(FIELD):
            raise InputError(f"{FIELD} is applied to weights of {config[FIELD]['bits']} bits: apply it once")
        return {**config, FIELD: asdict(self)}


def with_weight_bits(shape: ModelShape, config: Mapping[str, Any]) -> ModelShape:
    """The shape with the weights that the field `weight_bits` of its config says; itself where there is none."""
    given = config.get(FIELD)
    if given is None:
        return shape
    if not isinstance(given, Mapping) or not given.keys() <= LIMITS.keys():
        raise InputError(f"model config {FIELD} = {str(given)[:60]!r}: give a mapping of {', '.join(LIMITS)}")
    weights = WeightBits(**given)
    held = shape.quantised.kind if shape.quantised else f"{8 * shape.bytes_per_parameter}-bit"
    if shape.quantised or 8 * shape.bytes_per_parameter != FULL_BITS:
        raise InputError(f"{FIELD}: the model has {held} weights: give the config.json of the checkpoint in 16 bits")
    scheme = Quantised(f"{weights.bits}-bit", weights.bytes_per_parameter, "bf16")
    factors = factors_of(weights.rank, weights.sparse_rank, shape, shape)
    return replace(shape, quantised=scheme, factors=factors)
