"""Which systems of a result are shown where not all can be, and which rows of its tables are theirs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Row = Mapping[str, Any]


def fastest(runs: Sequence[Row], ratio: str, most: int, also: int | None = None) -> list[Row]:
    """The first run, that at the place `also`, and those with the highest `ratio`: so many in all, in the order
    that they were named in."""
    ranked = sorted(range(1, len(runs)), key=lambda i: (i != also, -runs[i][ratio]))[: most - 1]
    return [runs[i] for i in sorted([0, *ranked])]


def of_systems(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The rows of these systems."""
    return table.filter(pc.is_in(table["system"], pa.array(names, pa.string())))


def with_all_steps(steps: pa.Table, runs: Sequence[Row]) -> list[str]:
    """Names of the systems whose decode steps were all kept."""
    systems = steps["system"].combine_chunks().dictionary_encode()
    counts = np.bincount(systems.indices.to_numpy(), minlength=len(systems.dictionary)).tolist()
    kept = dict(zip(systems.dictionary.to_pylist(), counts, strict=True))
    return [run["system"] for run in runs if 0 < run["decode_steps"] == kept.get(run["system"], 0)]
