"""Reads the figures of a device from a user's own YAML file, and checks them and those of the catalogue alike."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulator.strict_yaml import load_mapping
from traces.errors import InputError
from traces.files import check_is_no_device

SUFFIXES = (".yaml", ".yml")
FIGURES = {
    "memory_bytes": (1e8, 1e13, "such as 8.5e+10 for 80 GB"),
    "bandwidth_bytes_per_s": (1e9, 1e15, "such as 3.35e+12 for 3.35 TB/s"),
    "peak_flops_per_s": (1e11, 1e18, "such as 9.89e+14 for 989 TFLOPS in bf16"),
    "link_bandwidth_bytes_per_s": (1e8, 1e14, "such as 6.4e+10 for PCIe 5.0 x16, one direction"),
    "link_latency_s": (0.0, 0.1, "such as 2.0e-5"),
}
"""Figures that every device has: lowest, highest, how to write it. Outside, a unit is wrong."""
NARROW = {
    "peak_fp8_flops_per_s": (1e11, 1e18, "such as 1.979e+15"),
    "peak_fp4_flops_per_s": (1e11, 1e18, "such as 9.0e+15"),
}
"""Those of devices with units for narrower weights."""
TEXTS = ("name", "source")
OPTIONAL_TEXTS = ("cuda_name", "link")
KEYS = (*TEXTS, *OPTIONAL_TEXTS, "also", *FIGURES, *NARROW)


def is_device_file(name: str) -> bool:
    """Whether this is the path of a file rather than a name of the catalogue."""
    return name.endswith(SUFFIXES) or "/" in name or "\\" in name


def read_device(path: Path) -> dict[str, Any]:
    """Figures of the device in this file. Raises InputError naming file, key, value and fix."""
    check_is_no_device(path)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: give the path of a device's YAML file or a catalogue name") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory: give the path of the YAML file in it") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:80]
        raise InputError(f"{path} cannot be read ({reason}): give the path of a device's YAML file") from None
    try:
        return checked(load_mapping(text, "name: My GPU"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def checked(device: Mapping[Any, Any]) -> dict[str, Any]:
    """The figures as numbers. Raises InputError for a key that is unknown, missing or out of range."""
    for key in device:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(KEYS)}"
            raise InputError(f"{str(key)[:40]} is not a key of a device: {hint}")
    found: dict[str, Any] = {}
    for key in (*TEXTS, *OPTIONAL_TEXTS):
        value = device.get(key)
        if key in device and not (isinstance(value, str) and value.strip()):
            raise InputError(f"{key} = {str(value)[:40]!r} is not text: quote it if it looks like a number")
        if key in TEXTS and value is None:
            raise InputError(
                f"{key} is missing: say {'what it is called' if key == 'name' else 'where the figures are from'}"
            )
        if value is not None:
            found[key] = value
    also = device.get("also") or []
    if not isinstance(also, list) or not all(isinstance(one, str) for one in also):
        raise InputError(f"also = {str(also)[:40]!r}: give a list of further names")
    found["also"] = also
    for key, limits in (FIGURES | NARROW).items():
        if key in device or key in FIGURES:
            found[key] = _figure(device, key, *limits)
    return found


def _figure(device: Mapping[Any, Any], key: str, lowest: float, highest: float, example: str) -> float:
    """A number within the limits."""
    if key not in device:
        raise InputError(f"{key} is missing: give a number, {example}")
    value = device[key]
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:
        number = None
    if number is None or not lowest <= number <= highest:
        raise InputError(f"{key} = {repr(value)[:40]}: give a number of {lowest:g} to {highest:g}, {example}")
    return number
