"""What a measurement was made on: device, driver, versions, and where they can be read clocks and temperature."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from typing import Any

import torch

from calibration.hardware import cpu

QUERY = ("driver_version", "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What identifies the machine: measurements of two that differ do not belong in one profile."""
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "rolloutsim": version("rolloutsim"),
    }
    if device.type == "cuda":
        told = torch.cuda.get_device_properties(device)
        return facts | {
            "device": told.name,
            "cuda": torch.version.cuda,
            "driver": str(_smi().get("driver_version", "unknown")),
        }
    return facts | {"device": cpu(), "threads": torch.get_num_threads()}


def conditions(device: torch.device) -> dict[str, float]:
    """Clocks in MHz, temperature in °C and power in W now; empty where they cannot be read."""
    if device.type != "cuda":
        return {}
    found = {}
    for name, value in _smi().items():
        try:
            found[name] = float(value)
        except ValueError:
            continue
    return found


def _smi() -> dict[str, str]:
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [part.strip() for part in told.splitlines()[0].split(",")] if told.strip() else []
    return dict(zip(QUERY, values, strict=False))
