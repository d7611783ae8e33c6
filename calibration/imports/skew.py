"""What uneven KV lengths add to attention, from batches measured with a few long sequences among equal ones.

One thread block works through one sequence, so when the others are done, the longest is left alone: the time beyond that of a
batch of the same mean is proportional to how far the longest exceeds the mean. The factor is tabulated by how many
sequences decode and how even they are (mean / longest), for steps that only decode, where the kernel may split long sequences,
and for steps that prefill too, where it does not.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd

from calibration.grids import filled, gridded
from calibration.imports.attention import decoding
from simulator.cost.operators import Operator, Table

Float64 = npt.NDArray[np.float64]

EVENNESS = np.array([0.25, 0.29, 0.33, 0.4, 0.5, 0.65, 0.85, 1.01])
"""Edges of the bins of mean / longest."""
MICRO = 1e-6


def skew_tables(skew: pd.DataFrame, attention: pd.DataFrame, layers: int) -> list[Operator]:
    """Tables of seconds per token that the longest context exceeds the mean one.

    skew: columns n (decoding sequences), pc (prefill chunk), kv_big, kv_mean, t_mean_us (all at the mean), t_skew_us.
    """
    scale = _scale(skew, attention)
    excess = (skew["t_skew_us"] - skew["t_mean_us"]) * scale / (skew["kv_big"] - skew["kv_mean"])
    even = np.digitize(skew["kv_mean"] / skew["kv_big"], EVENNESS) - 1
    operators: list[Operator] = []
    for when, rows in (("decode_only", skew["pc"] == 0), ("mixed", skew["pc"] > 0)):
        each = pd.DataFrame({"n": skew["n"], "even": even.clip(0, EVENNESS.size - 2), "excess": excess})[rows]
        factor = each.pivot_table(index="n", columns="even", values="excess", aggfunc="median")
        factor = factor.reindex(columns=range(EVENNESS.size - 1)).interpolate(axis=1, limit_direction="both")
        values = np.maximum(factor.to_numpy(np.float64), 0.0)
        n, middle = factor.index.to_numpy(np.float64), (EVENNESS[1:] + EVENNESS[:-1]) / 2
        # one sequence is even; beyond the measured evenness and batches the outermost values hold
        grid = (np.array([1.0, *n, 4096.0]), np.array([0.0, *middle, 1.5]))
        values = np.pad(values, ((0, 1), (1, 1)), mode="edge")
        values = np.vstack([np.zeros(values.shape[1]), values])
        operators.append(
            Table(f"attention, uneven {when.split('_')[0]}", ("decode_seqs", "evenness"), grid, values * MICRO, layers, when,
                  "excess_context"))  # fmt: skip
    return operators


def _scale(skew: pd.DataFrame, attention: pd.DataFrame) -> float:
    """Time of the same even batch in `attention.csv` over that in `skew.csv`, which sums several iterations."""
    (n, kv), values = gridded(decoding(attention), ("n_decode", "kv_decode"))
    values = filled((n, kv), values, (1, 0))
    pure = skew[(skew["pc"] == 0) & skew["n"].isin(n)]
    expected = [
        np.interp(mean, kv, values[np.searchsorted(n, count)])
        for count, mean in zip(pure["n"], pure["kv_mean"], strict=True)
    ]
    return float(np.median(np.array(expected) / pure["t_mean_us"]))
