"""Weights in few bits with low-rank factors beside them (MiLo, arXiv 2504.02658): another price for the same rollouts."""

from dataclasses import dataclass, replace

from simulator.cost.weight_bits import FULL_BITS, LIMITS, WeightBits
from simulator.drafting.drafter import Target
from simulator.spec import read, whole
from traces.errors import InputError

READERS = {name: whole(*limits) for name, limits in LIMITS.items()}


@dataclass(frozen=True)
class QuantisedRollouts:
    """`weight_bits:bits=B,group=G,rank=R,sparse_rank=R`: replicas decode with such weights, the trainer has its own.

    Bytes, operations and kernels of a step follow from the estimate of the target, and so does the memory left for KV. Drafters
    stay as they are.
    """

    name: str
    weights: WeightBits

    @property
    def lossless(self) -> bool:
        """Whether the weights are the policy's own."""
        return self.weights.bits == FULL_BITS

    @property
    def assumes(self) -> str:
        """What a trace of the unquantised policy does not say."""
        if self.lossless:
            return "nothing: weights of 16 bits are the policy's own"
        return (
            f"lengths and acceptance as recorded under the unquantised policy, which {self.weights.bits}-bit weights "
            "change: measure them again; weights are quantised anew in every RL step at no cost"
        )

    def costs(self, target: Target) -> Target:
        """The target at what its config costs with such weights; InputError where its costs are no estimate."""
        if target.repriced is None or target.config is None:
            raise InputError(
                f"transform {self.name}: {target.profile.name} was measured, and does not say what of a step is reading weights: "
                "name model and device without profile or tables, for an estimate that knows"
            )
        config = self.weights.of(target.config)
        kept = f", {self.weights.bits}-bit weights" * (not self.weights.changes_nothing)
        profile = replace(target.repriced(config), name=target.profile.name + kept)
        return target._replace(profile=profile, config=config)


def weight_bits(argument: str) -> QuantisedRollouts:
    """Weights of projections in few bits, with low-rank factors beside them."""
    name = f"weight_bits:{argument}" if argument else "weight_bits"
    return QuantisedRollouts(name, WeightBits(**read("weight_bits", argument, READERS, "transform")))
