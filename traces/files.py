"""What may be read as a file, and how much of it fits into this machine."""

import os
from pathlib import Path

from traces.errors import InputError


def check_is_no_device(path: Path) -> None:
    """Refuse what may give bytes without end, or wait for ever; InputError."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: is a device or pipe, no file: save what comes from it as one")


def check_fits(path: Path, unpacked_bytes: int, fix: str) -> None:
    """Refuse what takes more than this machine's memory once it is unpacked; InputError."""
    if unpacked_bytes > memory_bytes():
        raise InputError(
            f"{path}: unpacks to {unpacked_bytes / 1e9:,.1f} GB, and this machine has {memory_bytes() / 1e9:,.1f}: {fix}"
        )


def memory_bytes() -> int:
    """Memory of this machine, in use or not; without end where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows does not tell
        return 1 << 40
