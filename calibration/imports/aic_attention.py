"""Attention measured apart for decoding and for whole prompts, as tables of our features.

Decoding is measured by batch and context, prompts by batch and length with nothing before them. What engines ask beyond that
is derived: several query tokens per sequence (`verification`), and prompts with context before them (`after_context`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.interpolate import RegularGridInterpolator

from calibration.imports.aic_parts import Timed
from calibration.imports.attention import WIDTHS
from simulator.cost.operators import Table
from simulator.cost.sources import NotMeasuredError
from traces.errors import InputError

Float64 = npt.NDArray[np.float64]

CONTEXTS = np.array([0.0, *2.0 ** np.arange(9, 17)])
"""Tokens before a prefill chunk for which its cost is derived."""
FILLING_QUERIES = 256
"""Fewer query tokens do not fill the GPU: reading context takes them as long as it takes so many."""


@dataclass(frozen=True, eq=False)
class Measured:
    """Seconds on a grid of (batch, tokens of each), holes filled in; `measured` says where they were."""

    batch: Float64
    tokens: Float64
    seconds: Float64
    measured: npt.NDArray[np.bool_]

    def at(self, batch: Float64, tokens: Float64) -> Float64:
        """Bilinear in the grid, and on along its edge cells."""
        surface = RegularGridInterpolator((self.batch, self.tokens), self.seconds, bounds_error=False, fill_value=None)
        return np.asarray(surface(np.stack(np.broadcast_arrays(batch, tokens), axis=-1)))

    def from_one(self) -> Measured:
        """The same from one token on: fewer than were measured cost what those do, which is the launch."""
        if self.tokens[0] <= 1:
            return self
        tokens, first = np.insert(self.tokens, 0, 1.0), np.s_[:, :1]
        seconds = np.hstack([self.seconds[first], self.seconds])
        return Measured(self.batch, tokens, seconds, np.hstack([self.measured[first], self.measured]))


def decoding(
    table: pd.DataFrame, kv_bytes_per_token: float, bandwidth_bytes_per_s: float = np.inf, window: float = np.inf
) -> Measured:
    """Columns batch, tokens (KV of each sequence, its query's included) and seconds; no more than the window is read.

    Large batches of long sequences are not measured. They are filled by going on along the batch as the last two measured
    ones do, and never faster than KV was read at best, nor than the bandwidth. On H200 that is off by 5 % in the median where
    it can be checked, and the best is 0.91 of the bandwidth.
    """
    batch, tokens, seconds = _pivot(table)
    filled = seconds.copy()
    moved = batch[:, None] * np.minimum(tokens, window) * kv_bytes_per_token
    least = moved / min(np.nanmax(moved / seconds), bandwidth_bytes_per_s)
    for index in range(tokens.size):
        have = np.flatnonzero(~np.isnan(seconds[:, index]))
        for row in np.flatnonzero(np.isnan(seconds[:, index])):
            known = have[have < row][-2:]
            onward = 0.0
            if known.size == 2:
                slope = np.diff(seconds[known, index])[0] / np.diff(batch[known])[0]
                onward = seconds[known[1], index] + slope * (batch[row] - batch[known[1]])
            filled[row, index] = max(onward, least[row, index])
    return Measured(batch, tokens, filled, ~np.isnan(seconds))


def prefilling(table: pd.DataFrame) -> Measured:
    """Columns batch, tokens (of each prompt) and seconds; batches too large to be measured cost in proportion."""
    batch, tokens, seconds = _pivot(table)
    filled = seconds.copy()
    for index in range(tokens.size):
        have = np.flatnonzero(~np.isnan(seconds[:, index]))
        for row in range(batch.size):
            if np.isnan(seconds[row, index]):
                nearest = have[np.argmin(np.abs(have - row))]
                filled[row, index] = seconds[nearest, index] * max(batch[row] / batch[nearest], 1.0)
    return Measured(batch, tokens, filled, ~np.isnan(seconds))


def capped(measured: Measured, window: float, prompts: bool = False) -> Measured:
    """What attention to the last `window` tokens costs, from attention to all: as much as so many.

    Of longer prompts each token attends to so many, and takes as long as in a prompt of the window's length.
    """
    tokens = np.unique([*measured.tokens, window])
    seconds = measured.at(measured.batch[:, None], np.minimum(tokens, window))
    known = measured.measured[:, np.searchsorted(measured.tokens, np.minimum(tokens, measured.tokens[-1]))]
    if prompts:
        seconds = seconds * np.maximum(window_pairs(tokens, 0.0, window) / window_pairs(window, 0.0, window), 1.0)
    return Measured(measured.batch, tokens, seconds, known & (tokens <= window))


def window_pairs(chunk: npt.ArrayLike, before: npt.ArrayLike, window: float) -> Float64:
    """Query x context pairs of a chunk after so many tokens, each query token attending to the window at most."""
    queries, context = np.asarray(chunk, np.float64), np.asarray(before, np.float64)
    growing = np.clip(window - context, 0.0, queries)  # query tokens that still see everything
    further = 0.0 if np.isinf(window) else (queries - growing) * window
    return np.asarray(growing * context + growing * (growing + 1) / 2 + further)


def pairs_per_s(prompts: Measured, window: float = np.inf) -> float:
    """Query x context pairs per second that the prefill kernel reached at its best."""
    pairs = prompts.batch[:, None] * window_pairs(prompts.tokens, 0.0, window)
    return float((pairs / prompts.seconds)[prompts.measured].max())


def verification(decodes: Measured, best_pairs_per_s: float, window: float = np.inf) -> Float64:
    """Seconds by batch, context and WIDTHS: of one query, or of all pairs at the best rate, whichever is more."""
    pairs = decodes.batch[:, None, None] * np.minimum(decodes.tokens, window)[None, :, None] * np.array(WIDTHS)
    return np.asarray(np.maximum(decodes.seconds[:, :, None], pairs / best_pairs_per_s))


def after_context(prompts: Measured, decodes: Measured, best_pairs_per_s: float, window: float = np.inf) -> Float64:
    """Seconds by batch, chunk and CONTEXTS: the measured time without context, and the new pairs at the best rate.

    Fewer than FILLING_QUERIES query tokens count as so many; and the step takes no less than one query token of each
    sequence over the same KV. Where chunks were measured with context (LLMServingSim), this is off by 3 % in the median
    on an RTX PRO 6000 and by 28 % (too slow) on an RTX 4090, and by 35 % one time in twenty.
    """
    batch, chunk = prompts.batch[:, None, None], prompts.tokens[None, :, None]
    filling = np.maximum(FILLING_QUERIES / (batch * chunk), 1.0)
    new = filling * batch * (window_pairs(chunk, CONTEXTS, window) - window_pairs(chunk, 0.0, window))
    seconds = prompts.seconds[:, :, None] + new / best_pairs_per_s
    return np.asarray(np.where(CONTEXTS > 0, np.maximum(seconds, decodes.at(batch, chunk + CONTEXTS)), seconds))


@dataclass(frozen=True)
class Kernel:
    """What bounds attention of one kind, in one layer: the least seconds to read a token's KV, and of a pair, to decode
    and to prefill; the window; and how many layers have it.
    """  # fmt: skip

    name: str
    layers: int
    kv_s: float
    pair_s: float
    window: float = np.inf
    prefill_pair_s: float | None = None

    @property
    def expanded_s(self) -> float:
        """Least seconds of a pair in a prompt."""
        return self.pair_s if self.prefill_pair_s is None else self.prefill_pair_s

    def decoded_pairs_per_s(self, prompts: Measured) -> float:
        """Pairs per second of verification, from what prompts reached at their best.

        Where a pair takes more operations to decode than to prefill and prompts were too fast to have done those, both reach the
        same share of the peak; else the prompts' kernel did what decoding does, and its rate counts as it is.
        """
        best = min(pairs_per_s(prompts, self.window), 1 / self.expanded_s)
        return best if best * self.pair_s <= 1 else best * self.expanded_s / self.pair_s


def attention_tables(decodes: Measured, prompts: Measured, kernel: Kernel) -> list[Timed]:
    """Two tables; a step that both decodes and prefills costs their sum."""
    window, prefill_s = kernel.window, kernel.expanded_s
    best, decoded = min(pairs_per_s(prompts, window), 1 / prefill_s), kernel.decoded_pairs_per_s(prompts)
    decodes, prompts = decodes.from_one(), prompts.from_one()
    widths = np.array(WIDTHS)
    seen = decodes.batch[:, None, None] * np.minimum(decodes.tokens, window)[None, :, None]
    batch, chunk = prompts.batch[:, None, None], prompts.tokens[None, :, None]
    read = kernel.kv_s * (chunk + np.minimum(CONTEXTS, window))
    return [
        Timed(
            Table(
                f"{kernel.name}, decode", ("decode_seqs", "decode_context", "decode_width"),
                (decodes.batch, decodes.tokens, widths), verification(decodes, decoded, window), kernel.layers, "any_decode",
            ),
            seen * np.maximum(kernel.kv_s, kernel.pair_s * widths),
        ),
        Timed(
            Table(
                f"{kernel.name}, prefill", ("prefill_seqs", "prefill_chunk", "prefill_context"),
                (prompts.batch, prompts.tokens, CONTEXTS), after_context(prompts, decodes, best, window), kernel.layers,
                "any_prefill",
            ),
            batch * np.maximum(read, prefill_s * window_pairs(chunk, CONTEXTS, window)),
        ),
    ]  # fmt: skip


def along(points: Float64, seconds: Float64, wanted: Float64) -> Float64:
    """Linear between the points, and on with the last slope beyond them, if it rises."""
    slope = max((seconds[-1] - seconds[-2]) / (points[-1] - points[-2]), 0.0)
    return np.asarray(np.interp(wanted, points, seconds) + slope * np.maximum(wanted - points[-1], 0.0))


def of_heads(table: pd.DataFrame, heads: int, kv_heads: int, what: str) -> tuple[pd.DataFrame, str]:
    """Rows for this many query heads, and how they were got in words (empty if measured).

    Between the measured numbers of query heads on as many KV heads time is interpolated linearly. Raises InputError where
    the KV heads were not measured, or the query heads lie beyond the measured ones.
    """
    same = table[table["num_key_value_heads"] == kv_heads]
    known = np.unique(same["num_heads"].to_numpy(np.int64))
    if heads in known:
        return same[same["num_heads"] == heads], ""
    if not (known.size and known[0] < heads < known[-1]):
        found = ", ".join(map(str, known)) or "none"
        raise NotMeasuredError(
            f"{what}: {heads} query heads on {kv_heads} KV heads of a GPU are not measured; on {kv_heads} KV heads there are "
            f"{found}: use another tensor-parallel size"
        )
    low, high = known[known < heads][-1], known[known > heads][0]
    both = same[same["num_heads"] == low].merge(same[same["num_heads"] == high], on=["batch", "tokens"])
    share = (heads - low) / (high - low)
    both["seconds"] = (1 - share) * both["seconds_x"] + share * both["seconds_y"]
    return both[["batch", "tokens", "seconds"]], f"{what} of {heads} heads interpolated between {low} and {high}"


def _pivot(table: pd.DataFrame) -> tuple[Float64, Float64, Float64]:
    grid = table.pivot_table(index="batch", columns="tokens", values="seconds")
    if min(grid.shape) < 2:
        raise InputError(
            f"attention: measured at {grid.shape[0]} batches and {grid.shape[1]} lengths: give two of each"
        )
    return grid.index.to_numpy(np.float64), grid.columns.to_numpy(np.float64), grid.to_numpy(np.float64)
