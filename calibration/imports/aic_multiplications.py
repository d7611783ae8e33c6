"""The matrix multiplications of a model, each in the precision of its weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.imports.aic_gemm import Gemms, gemms
from calibration.imports.aic_parts import Parts, Timed
from calibration.imports.aic_precision import BFLOAT16, Precision, precision_of
from calibration.imports.aic_source import Source
from simulator.cost.operators import Table
from simulator.cost.shape import ModelShape

Float64 = npt.NDArray[np.float64]

VOCABULARY_MULTIPLE = 64
"""vLLM pads the vocabulary to a multiple of it."""
HOST_S = 4e-5
"""What no kernel takes at the smallest shapes, which are 2 to 12 us wherever they were measured in CUDA graphs (29 on a B60)."""
PADDED, PREFILLED, SAMPLED = "padded_tokens", "prefill_tokens", "sampled_tokens"


@dataclass(frozen=True)
class Multiplication:
    """(tokens x k) times (k x n), `repeat` times a step; `share` of its weights is quantised, in `precision`."""

    name: str
    n: int
    k: int
    repeat: int
    share: float = 0.0
    tokens: str = PADDED


class Multiplier:
    """Prices multiplications from the tables of a source; one grid for each precision, read when it is asked for."""

    def __init__(self, source: Source, precision: Precision = BFLOAT16) -> None:
        self.source, self.precision = source, precision
        self.grids: dict[str, Gemms] = {}
        self.version, self.apart, self.extrapolated = "", 1.0, False
        self.notes: list[str] = []

    @property
    def plain(self) -> Gemms:
        """The grid of 16 bits."""
        return self._grid(BFLOAT16)

    def parts(self, asked: list[Multiplication]) -> Parts:
        """Tables of all that the model has; those that are quantised in some layers only are two."""
        timed, off_grid = [], []
        for one in (one for one in asked if one.n and one.k and one.repeat):
            quantised = round(one.share * one.repeat)
            for precision, repeat in ((self.precision, quantised), (BFLOAT16, one.repeat - quantised)):
                if repeat:
                    name = one.name if repeat == one.repeat else f"{one.name}, {precision.name}"
                    timed.append(self._timed(one, name, precision, repeat))
                    place = self._grid(precision).place(one.n, one.k)
                    off_grid += [f"{name} (n {one.n}, k {one.k}: {place})"] if place else []
        notes, self.notes = self.notes, []
        return Parts(timed, notes=notes, off_grid=off_grid, versions={"matrix multiplications": self.version})

    def uncertainty(self) -> str:
        """How far what was not measured is off, by that of what was; empty if everything asked for was measured."""
        text = ""
        for what, errors, asked in (
            ("interpolating multiplications", self.plain.leave_one_out(self.apart), self.apart > 1),
            ("extrapolating their n", self.plain.beyond_error(), self.extrapolated),
        ):
            if asked and errors.size:
                size = np.abs(errors)
                text += (
                    f"; {what} is off by {np.median(size):.1%} in the median and by {np.quantile(size, 0.95):.1%} one time in "
                    f"twenty ({size.size:,} measured ones left out)"
                )
        return text

    def _timed(self, one: Multiplication, name: str, precision: Precision, repeat: int) -> Timed:
        grid = self._grid(precision)
        self.apart = max(self.apart, grid.apart(one.n, one.k))
        self.extrapolated |= "beyond" in grid.place(one.n, one.k)
        when = "any_prefill" if one.tokens == PREFILLED else "always"
        table = Table(name, (one.tokens,), (grid.m,), grid.time_s(one.n, one.k), repeat, when)
        return Timed(table, grid.roof_s(one.n, one.k))

    def _grid(self, precision: Precision) -> Gemms:
        """Grid of a precision; that of 16 bits where it was the host that was measured, which CUDA graphs save."""
        if precision.name not in self.grids:
            where = {"gemm_dtype": precision.name}
            rows, self.version = self.source.rows("gemm", where, {"m": "m", "n": "n", "k": "k"})
            figures = self.source.figures
            grid = gemms(
                rows, figures["mem_bw"], precision.flops_per_s(figures), precision.weight_bytes, precision.activation_bytes,
                precision.name,
            )  # fmt: skip
            fastest = float(np.nanmin(grid.seconds))
            if precision != BFLOAT16 and fastest > HOST_S:
                grid = self.plain
                self.notes.append(
                    f"Multiplications in {precision.name} took {fastest * 1e6:.0f} us or more whatever their size, which is the "
                    "host and not the kernel: they count as in 16 bits (SGLang's are 1.05 to 1.5 times faster than those)."
                )
            self.grids[precision.name] = grid
        return self.grids[precision.name]


def multiplier(source: Source, shape: ModelShape) -> Multiplier:
    """Of a model's multiplications; its experts are measured as a whole and not among them."""
    quantised = shape.quantised
    narrow = quantised is not None and (quantised.attention or quantised.feed_forward)
    return Multiplier(source, precision_of(quantised) if narrow else BFLOAT16)


def projections(shape: ModelShape) -> list[Multiplication]:
    """Those of grouped-query attention, a gate of its output included."""
    query, kv, share = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, attention_share(shape)
    return [
        Multiplication("qkv_proj", (1 + shape.output_gate) * query + 2 * kv, shape.hidden, shape.cached_layers, share),
        Multiplication("o_proj", shape.hidden, query, shape.cached_layers, share),
    ]


def feed_forwards(shape: ModelShape) -> list[Multiplication]:
    """Those of dense and shared feed-forwards, of routers and of the output layer."""
    vocabulary = -(-shape.vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    share, hidden = shape.quantised.feed_forward if shape.quantised else 0.0, shape.hidden
    return [
        Multiplication("gate_up_proj", 2 * shape.intermediate, hidden, shape.dense_layers, share),
        Multiplication("down_proj", hidden, shape.intermediate, shape.dense_layers, share),
        Multiplication("router", shape.experts, hidden, shape.moe_layers),
        Multiplication("shared gate_up_proj", 2 * shape.shared_intermediate, hidden, shape.moe_layers, share),
        Multiplication("shared down_proj", hidden, shape.shared_intermediate, shape.moe_layers, share),
        Multiplication("lm_head", vocabulary, hidden, 1, tokens=SAMPLED),
    ]


def attention_share(shape: ModelShape) -> float:
    """Share of the projections of attention that is quantised."""
    return shape.quantised.attention if shape.quantised else 0.0
