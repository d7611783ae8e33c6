"""Low-rank factors beside quantised weights, W = s (W_q - z) + U V: their parameters, from the matrices of a decoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from simulator.cost.shape import ModelShape


class Matrix(NamedTuple):
    """A projection that stands `copies` times in a model, or one of an expert's; `inputs` x `outputs`."""

    inputs: int
    outputs: int
    copies: int = 1


@dataclass(frozen=True)
class Factors:
    """U and V of every projection: m x r and r x n for one of m x n, with r at most m and n.

    rank: of projections of attention and of dense and shared feed-forwards; sparse_rank: of routed experts. read_parameters: of
    the former, all layers; expert_parameters: of one expert in one layer.
    """

    rank: int
    sparse_rank: int
    read_parameters: int
    expert_parameters: int

    def held(self, whole: ModelShape, part: ModelShape) -> Factors:
        """Those of one GPU that holds `part` of the whole: where a projection's outputs are divided so is U, else V."""
        return factors_of(self.rank, self.sparse_rank, whole, part)


def factors_of(rank: int, sparse_rank: int, whole: ModelShape, part: ModelShape) -> Factors:
    """Factors of a model of this shape, of which one GPU holds a part."""
    read = sum(_factors(rank, matrix, held) for matrix, held in zip(always_read(whole), always_read(part), strict=True))
    expert = sum(
        _factors(sparse_rank, matrix, held) for matrix, held in zip(of_expert(whole), of_expert(part), strict=True)
    )
    return Factors(rank, sparse_rank, read, expert)


def always_read(shape: ModelShape) -> Iterator[Matrix]:
    """The projections that every forward pass reads: of attention, and of dense and shared feed-forwards."""
    yield from _attention(shape)
    for width, layers in ((shape.intermediate, shape.dense_layers), (shape.shared_intermediate, shape.moe_layers)):
        yield Matrix(shape.hidden, width, 2 * layers)
        yield Matrix(width, shape.hidden, layers)


def of_expert(shape: ModelShape) -> Iterator[Matrix]:
    """The projections of one routed expert in one layer."""
    yield Matrix(shape.hidden, shape.expert_intermediate, 2)
    yield Matrix(shape.expert_intermediate, shape.hidden)


def _attention(shape: ModelShape) -> Iterator[Matrix]:
    hidden, layers = shape.hidden, shape.cached_layers
    if shape.latent:
        for inputs, outputs in shape.latent.projections(hidden, shape.heads):
            yield Matrix(inputs, outputs, layers)
    else:
        query, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        yield Matrix(hidden, (1 + shape.output_gate) * query, layers)
        yield Matrix(hidden, kv, 2 * layers)
        yield Matrix(query, hidden, layers)
    if shape.linear:
        for inputs, outputs in shape.linear.projections(hidden):
            yield Matrix(inputs, outputs, shape.linear.layers)


def _factors(rank: int, matrix: Matrix, held: Matrix) -> int:
    return matrix.copies * min(rank, matrix.inputs, matrix.outputs) * (held.inputs + held.outputs)
