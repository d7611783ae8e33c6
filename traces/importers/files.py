"""Which files are meant: files, folders and patterns, in the order of the numbers in their names."""

import re
from collections.abc import Sequence
from pathlib import Path

from traces.errors import InputError

PACKINGS = (".gz", ".zst")
DATA = (".jsonl", ".json", ".csv", ".parquet", ".pt", ".log", ".txt")


def files_of(paths: Sequence[Path], suffixes: Sequence[str] = DATA) -> list[Path]:
    """The files at the paths: of a folder all below it with one of `suffixes`, packed or not; each file once.

    A path that does not exist and holds *, ? or [ is a pattern. Files of one folder come in the order of the numbers in their
    names: 2.jsonl before 10.jsonl.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            below = [file for file in path.rglob("*") if file.is_file() and suffix_of(file) in suffixes]
            below = [file for file in below if not any(part.startswith(".") for part in file.relative_to(path).parts)]
            if not below:
                raise InputError(
                    f"{path}: holds no {' or '.join(suffixes)} file: give the folder of the dumps, or files"
                )
            found.update(dict.fromkeys(sorted(below, key=_natural)))
        elif not path.exists() and re.search(r"[*?\[]", str(path)):
            matches = [file for file in Path(path.anchor or ".").glob(_relative(path)) if file.is_file()]
            if not matches:
                raise InputError(f"{path}: matches no file: check the pattern")
            found.update(dict.fromkeys(sorted(matches, key=_natural)))
        else:
            found[path] = None
    return list(found)


def suffix_of(path: Path) -> str:
    """The suffix before that of the packing: .jsonl of 3.jsonl.gz."""
    return Path(_unpacked(path)).suffix


def number_in_name(path: Path) -> int | None:
    """The number that ends the file's name, its suffixes aside: 3 of train_data_step3.jsonl.gz; None without one."""
    number = re.search(r"(\d{1,9})$", Path(_unpacked(path)).stem)
    return int(number[1]) if number else None


def _unpacked(path: Path) -> str:
    return path.stem if path.suffix in PACKINGS else path.name


def _relative(path: Path) -> str:
    return str(path.relative_to(path.anchor)) if path.anchor else str(path)


def _natural(path: Path) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def step_in_path(path: Path) -> int:
    """The RL step that a file's name or its folder's says, as step_12 or global_step_12_evals; 0 without one."""
    for name in (path.name, *(parent.name for parent in path.absolute().parents[:2])):
        if number := re.search(r"(?i)step[_-]?(\d{1,9})", name):
            return int(number[1])
    return 0
