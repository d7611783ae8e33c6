"""The kinds of hostile input, and how many of each the tests try."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.cases import Case, fault
from tests.hostile.dumps import dumps
from tests.hostile.files import damaged, texts, types, values
from tests.hostile.settings import keys, options
from tests.hostile.theirs import drafters, policies

KINDS: dict[str, Callable[[int, int], Iterator[Case]]] = {
    "damaged": damaged, "types": types, "values": values, "texts": texts, "dumps": dumps, "keys": keys, "options": options,
    "policies": policies, "drafters": drafters,
}  # fmt: skip
COUNTS = {
    "damaged": 500,
    "types": 450,
    "values": 300,
    "texts": 250,
    "dumps": 400,
    "keys": 500,
    "options": 500,
    "policies": 42,
    "drafters": 140,
}


def faults(kind: str, seed: int) -> tuple[int, list[str]]:
    """How many cases of a kind were tried, and what was wrong, each with the command that repeats it."""
    found, number = [], -1
    for number, case in enumerate(KINDS[kind](seed, COUNTS[kind])):
        with tempfile.TemporaryDirectory() as folder:
            if wrong := fault(case, Path(folder)):
                found.append(f"{case.name}: {wrong}\n    python -m tests.hostile {kind} {seed} {number}")
    return number + 1, found
