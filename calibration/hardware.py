"""What this machine is, in words, for the provenance of what was measured on it."""

import os
import platform


def cpu() -> str:
    """The processor's name and how many CPUs there are."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor() or platform.machine()} ({os.cpu_count()} CPUs)"
