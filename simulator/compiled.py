"""Where compiled kernels are kept between runs.

Numba's cache looks at a function's own file only: after a change in a function that it calls from another file, it would
go on running the old code. So every state of the sources that hold kernels has a cache folder of its own.
"""

import hashlib
import os
import shutil
import sys
from pathlib import Path

KERNELS = ("cost", "drafting", "engine", "budgets")
KEPT = 4


def keep_compiled() -> None:
    """Point numba's cache at a folder named by the kernels' sources; must run before the first kernel is defined."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for source in sorted(path for folder in KERNELS for path in (package / folder).glob("*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rolloutsim"
    folder = root / digest.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.touch()
        old = sorted(root.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]
        for path in old:
            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return  # nowhere to keep anything: numba compiles anew, or finds a place of its own
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = str(folder)
