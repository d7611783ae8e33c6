"""What the tables call the precision of weights, and how fast the device multiplies with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simulator.cost.precision import Quantised
from simulator.cost.sources import NotMeasuredError


@dataclass(frozen=True)
class Precision:
    """Name in the tables, bytes of a weight and of an activation, and the figure of the device that is its peak."""

    name: str
    weight_bytes: float
    activation_bytes: float
    peak: str

    def flops_per_s(self, figures: Mapping[str, float]) -> float:
        """Peak of the device, that of bfloat16 where it has no units for the precision."""
        return figures.get(self.peak, figures["bfloat16_tc_flops"])


BFLOAT16 = Precision("bfloat16", 2.0, 2.0, "bfloat16_tc_flops")


def precision_of(quantised: Quantised | None) -> Precision:
    """Of quantised weights; scales by block have kernels of their own. Raises NotMeasuredError for what no table names."""
    if quantised is None:
        return BFLOAT16
    width = quantised.bytes_per_parameter
    known = {
        "fp8": Precision("fp8" if width == 1.0 else "fp8_block", width, 1.0, "fp8_tc_flops"),
        "nvfp4": Precision("nvfp4", width, width, "fp4_tc_flops"),
        "mxfp4": Precision("w4a16_mxfp4", width, 2.0, "bfloat16_tc_flops"),
    }
    if quantised.kind not in known:
        raise NotMeasuredError(
            f"weights in {quantised.kind} are not measured: there are {', '.join(known)} and 16 bits"
        )
    return known[quantised.kind]
