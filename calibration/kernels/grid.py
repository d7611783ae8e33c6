"""Which points are measured: operators by tokens, attention by sequences, context and query width, and whole steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simulator.cost.shape import ModelShape

Grid = Literal["quick", "full"]
Point = tuple[str, tuple[int, ...]]

WIDTHS = (1, 2, 3, 5, 9, 17, 33)
"""Query tokens of a sequence: 1 and 2^k drafts."""
BATCHES = {
    "quick": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    "full": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512),
}
CONTEXTS = {"quick": (1, 128, 512, 2048, 8192, 32768), "full": (1, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)}
CHUNKS = {
    "quick": tuple(2**i for i in range(3, 14)),
    "full": tuple(2 ** (i // 2) * (2 + i % 2) // 2 for i in range(4, 27)),
}
BEFORE = {"quick": (0, 2048, 8192), "full": (0, 512, 2048, 8192, 16384)}
STEPS = {"quick": 80, "full": 240}
MIXED = 12
SPARE = 64
"""Tokens that the sequences of a step may grow by while it is measured."""
TOKEN_OPERATORS = ("embed", "qkv_proj", "rope_append", "o_proj", "add_norm")
DENSE_OPERATORS = ("gate_up_proj", "silu_mul", "down_proj")
SAMPLED_OPERATORS = ("lm_head", "sample")
MOST_SAMPLED = 4096
"""Rows of logits: a vocabulary of 150,000 in float32 takes 0.6 MB a row."""


@dataclass(frozen=True)
class Limits:
    """How far is measured: sequences, context and query tokens of each, tokens of a step, KV tokens that there is room for."""

    max_num_seqs: int
    max_model_len: int
    max_width: int
    max_num_batched_tokens: int
    kv_tokens: int


def points(shape: ModelShape, limits: Limits, grid: Grid, graph_sizes: tuple[int, ...], draft: bool) -> Iterator[Point]:
    """Every point: (operator, where); `graph_sizes`: numbers of tokens that steps are padded to. draft: a draft model too."""
    tokens = token_grid(limits, grid, graph_sizes)
    operators = (
        TOKEN_OPERATORS + (DENSE_OPERATORS if shape.dense_layers else ()) + (("experts",) if shape.moe_layers else ())
    )
    for operator in operators:
        yield from ((operator, (count,)) for count in tokens)
    for operator in SAMPLED_OPERATORS:
        yield from ((operator, (count,)) for count in tokens if count <= MOST_SAMPLED)
    batches, contexts = up_to(BATCHES[grid], limits.max_num_seqs), up_to(CONTEXTS[grid], limits.max_model_len)
    for context in contexts:
        for batch in batches:
            if (batch + 1) * room_of(context, limits.max_width) <= limits.kv_tokens:
                yield from (("attention", (batch, context, width)) for width in up_to(WIDTHS, limits.max_width))
                yield "eagle", (batch, context)
                if draft:
                    yield "draft_model", (batch, context)
    most = min(limits.max_model_len, limits.max_num_batched_tokens)
    for chunk in up_to(CHUNKS[grid], most):
        befores = sorted({*BEFORE[grid], limits.max_model_len // 2})
        yield from (("prefill", (chunk, past)) for past in befores if past + chunk <= limits.max_model_len)
    yield from (("step", (number,)) for number in range(STEPS[grid]))
    yield from (("mixed", (number,)) for number in range(MIXED))
    yield from (("logprob", (count,)) for count in up_to((512, 2048, 8192), most)[-1:])
    yield from ((name, (count,)) for name in ("propose", "learn") for count in batches)
    yield from ((name, ()) for name in ("copy", "matmul", "weight_load"))


def token_grid(limits: Limits, grid: Grid, graph_sizes: tuple[int, ...]) -> list[int]:
    """Tokens of a step that operators are measured at: the sizes of graphs, else all small numbers, and then fewer and fewer."""
    most = limits.max_num_batched_tokens
    if graph_sizes:
        near = list(graph_sizes)
    else:
        per_octave = {"quick": 4, "full": 8}[grid]
        near = sorted({*range(1, 17), *(round(16 * 2 ** (i / per_octave)) for i in range(5 * per_octave + 1))})
    far = [near[-1] * 2**i + near[-1] * 2 ** (i - 1) * half for i in range(12) for half in (0, 1)]
    return sorted({count for count in [*near, *map(int, far), most] if 1 <= count <= most})


def room_of(context: int, width: int) -> int:
    """Room for a sequence whose first of `width` query tokens sees `context` tokens, in whole 64s; never filled to the last."""
    return -(-(context + width) // 64) * 64


def up_to(values: tuple[int, ...], most: int) -> list[int]:
    """Values of a grid up to its end, which is always there."""
    return [*(value for value in values if value < most), most]


def step_at(number: int, limits: Limits, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Contexts and query widths of a random step, int64[live] each: batch and mean context log-uniform, both uneven."""
    draw = np.random.default_rng([seed, number])
    width_most = min(limits.max_width, 25)
    while True:
        live = int(np.exp(draw.uniform(0, np.log(limits.max_num_seqs + 1))))
        mean = np.exp(draw.uniform(np.log(32), np.log(limits.max_model_len)))
        contexts = np.clip(mean * np.exp(draw.normal(-0.1, 0.4, live)), 16, limits.max_model_len - SPARE).astype(
            np.int64
        )
        drafts = draw.choice([0, 2, 4, 8, width_most - 1])
        widths = 1 + draw.integers(0, drafts + 1, live) if draw.random() < 0.5 else np.full(live, 1 + drafts)
        widths = np.minimum(widths, width_most)
        if (live + 1) * (int(contexts.max()) + SPARE) <= limits.kv_tokens and widths.sum() <= min(
            limits.max_num_batched_tokens, MOST_SAMPLED
        ):
            return contexts, widths
