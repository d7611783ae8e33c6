"""Traces that come with the package, by name."""

from importlib.resources import files
from pathlib import Path

SUFFIX = ".parquet"


def shipped_traces() -> list[str]:
    """Names of the traces in traces/data, sorted."""
    return sorted(path.stem for path in _folder().glob(f"*{SUFFIX}"))


def file_of(name_or_path: Path) -> Path:
    """The file of the shipped trace of this name, where no file is called so; any other path as it is."""
    if str(name_or_path) in shipped_traces() and not name_or_path.exists():
        return _folder() / f"{name_or_path}{SUFFIX}"
    return name_or_path


def _folder() -> Path:
    return Path(str(files("traces"))) / "data"
