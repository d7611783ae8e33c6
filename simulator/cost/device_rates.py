"""Reads from a device's figures how fast it moves bytes and does operations of each precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.cost.precision import Operations
from traces.errors import InputError

PEAKS: dict[Operations, str] = {
    "bf16": "peak_flops_per_s",
    "fp8": "peak_fp8_flops_per_s",
    "fp4": "peak_fp4_flops_per_s",
}


def rate(device: Mapping[str, Any], key: str, may_be_zero: bool = False) -> float:
    """A figure of the device > 0, or >= 0. Raises InputError for anything else."""
    value = device.get(key)
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e300
    if not number or not (value or may_be_zero):
        floor = ">= 0" if may_be_zero else "> 0"
        raise InputError(
            f"device {key} = {repr(value)[:40]}: give a number {floor}, such as 3.35e12 bytes/s, 9.89e14 flops/s or 5e-6 s"
        )
    return float(value or 0.0)


def compute_s(operations: Mapping[Operations, float], device: Mapping[str, Any]) -> float:
    """Seconds of these operations at the device's peaks.

    A device without units for a narrow precision unpacks the weights and multiplies in 16 bits, as engines do.
    """
    return sum(amount / rate(device, _key(device, kind)) for kind, amount in operations.items())


def _key(device: Mapping[str, Any], kind: Operations) -> str:
    return PEAKS[kind] if PEAKS[kind] in device else PEAKS["bf16"]
