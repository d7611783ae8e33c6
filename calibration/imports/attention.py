"""Attention measured by (prefill chunk, KV before it, decoding sequences, KV of each), as tables of our features."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from calibration.grids import filled, gridded, held_out
from simulator.cost.operators import Operator, Table
from traces.errors import InputError

Float64 = npt.NDArray[np.float64]

WIDTHS = (1.0, 2.0, 3.0, 5.0, 9.0, 17.0, 33.0)
"""Query tokens of a sequence in a verification step for which costs are derived."""
COLUMNS = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
MICRO = 1e-6


def attention_tables(table: pd.DataFrame, layers: int) -> tuple[list[Operator], dict[str, dict[str, float]]]:
    """Tables for steps that decode only, prefill only or do both, and for prefill chunks beyond the first; held-out errors.

    table: columns COLUMNS and time_us; `grids` fills what was not measured.
    """
    decode = decoding(table)
    prefill = table[(table["prefill_chunk"] > 0) & (table["n_decode"] == 0)]
    mixed = table[(table["prefill_chunk"] > 0) & (table["n_decode"] > 0)]
    for what, part in (("decode", decode), ("prefill", prefill), ("mixed", mixed)):
        if len(part) < 4:
            raise InputError(f"attention.csv has {len(part)} {what} steps: measure a grid of them")
    operators: list[Operator] = []
    errors = {}
    grid, values = gridded(decode, ("n_decode", "kv_decode"))
    errors["attention, decode"] = held_out(grid, values, 1)
    values = filled(grid, values, (1, 0))
    widths = np.array(WIDTHS)
    work = grid[0][:, None, None] * grid[1][None, :, None] * widths
    verify = np.maximum(values[:, :, None], work / pair_rate(prefill))
    operators.append(
        Table("attention, decode", ("decode_seqs", "decode_context", "decode_width"), (*grid, widths), verify * MICRO,
              layers, "decode_only"))  # fmt: skip
    grid, values = gridded(prefill, ("prefill_chunk", "kv_prefill"))
    errors["attention, prefill"] = held_out(grid, values, 1)
    values = filled(grid, values, (1, 0))
    axes = ("prefill_chunk", "prefill_context")
    operators.append(Table("attention, prefill", axes, grid, values * MICRO, layers, "prefill_only"))
    further = np.maximum(values - values.min(), 0.0)
    operators.append(
        Table("attention, further chunks", axes, grid, further * MICRO, layers, "any_prefill", "further_chunks")
    )
    grid, values = gridded(mixed, COLUMNS)
    errors["attention, mixed"] = held_out(grid, values, 1)
    values = filled(grid, values, (1, 3, 0, 2))
    operators.append(
        Table("attention, mixed", (*axes, "decode_seqs", "decode_context"), grid, values * MICRO, layers, "mixed")
    )
    return operators, errors


def decoding(table: pd.DataFrame) -> pd.DataFrame:
    """Of the steps that were measured those that only decode, one query token per sequence."""
    return table[(table["prefill_chunk"] == 0) & (table["n_decode"] > 0)]


def pair_rate(prefill: pd.DataFrame) -> float:
    """Query x context pairs per microsecond that the prefill kernel reached at its best."""
    chunk, before = prefill["prefill_chunk"].to_numpy(), prefill["kv_prefill"].to_numpy()
    return float(((chunk * before + chunk * (chunk + 1) / 2) / prefill["time_us"].to_numpy()).max())


def verification_note(table: pd.DataFrame) -> str:
    """How the cost of more than one query token per sequence was derived."""
    rate = pair_rate(table[(table["prefill_chunk"] > 0) & (table["n_decode"] == 0)])
    return (
        "attention with several query tokens per sequence costs what one costs, or the query x context pairs at the best rate "
        f"of the prefill kernel ({rate:.3g} per us and layer), whichever is more; GEMMs are measured by tokens"
    )
