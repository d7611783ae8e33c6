"""What may be read as a file, and how much."""

import os
from pathlib import Path

from traces.errors import InputError


def check_is_no_device(path: Path) -> None:
    """Refuse what may give bytes without end, or wait for ever; InputError."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: is a device or pipe, no file: save what comes from it as one")


def memory_bytes() -> int:
    """How much memory this machine has; without end where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows does not tell
        return 1 << 40
