"""The three Triton kernels of what a layer does between its products.

Each reads and writes every element once, in vectors of sixteen bytes, and computes in float32. Rows are int64: with their
strides they may pass 2^31.
"""

import triton
import triton.language as tl

from calibration.model.layers import EPSILON

SMALL = tl.constexpr(EPSILON)


@triton.jit
def add_norm(x, residual, weight, normed, total, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    """One program a token: all of its row in registers, between the sum and what that must be divided by."""
    column = tl.arange(0, BLOCK)
    inside = column < HIDDEN
    at = tl.program_id(0).to(tl.int64) * HIDDEN + column
    # the weight before the sum over the row needs it, so that its way from memory is not waited for twice
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    one = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    other = tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    rounded = (one + other).to(total.dtype.element_ty)
    tl.store(total + at, rounded, mask=inside)
    row = rounded.to(tl.float32)  # what the next layer will see, and not what it was rounded from
    normal = row * tl.rsqrt(tl.sum(row * row, 0) / HIDDEN + SMALL)
    tl.store(normed + at, (normal * scale).to(normed.dtype.element_ty), mask=inside)


@triton.jit
def gated(both, out, row_stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """One program for BLOCK columns of a token; the programs of a token lie side by side."""
    blocks: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    token = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    at = both + token * row_stride + column
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + WIDTH, mask=inside, other=0.0).to(tl.float32)
    result = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + token * WIDTH + column, result.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize_on_alignment=["slots", "positions"])  # rows of a batch: odd sizes would compile anew
def turn_append(
    qkv,
    query_norm,
    key_norm,
    turns,
    keys,
    values,
    slots,
    positions,
    out,
    slot_stride,
    head_stride,
    position_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One program for ROWS heads of a token: query heads, or key heads and the value heads that belong to them.

    A head is in registers as two halves of HALF, whose elements rotary embedding turns against each other. Norms are None where
    there are none.
    """
    query_blocks: tl.constexpr = (HEADS + ROWS - 1) // ROWS
    blocks: tl.constexpr = query_blocks + (KV_HEADS + ROWS - 1) // ROWS
    token = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    heads = qkv + token * ((HEADS + 2 * KV_HEADS) * 2 * HALF)
    turn = turns + token * (2 * HALF)
    dim = tl.arange(0, BLOCK_HALF)[None, :]
    if block < query_blocks:
        head = block * ROWS + tl.arange(0, ROWS)[:, None]
        inside = (head < HEADS) & (dim < HALF)
        of = head * (2 * HALF) + dim
        first, second = _turned(heads + of, query_norm, turn, head, dim, inside, HALF)
        queries = out + token * (HEADS * 2 * HALF) + of
        tl.store(queries, first.to(out.dtype.element_ty), mask=inside)
        tl.store(queries + HALF, second.to(out.dtype.element_ty), mask=inside)
    else:
        head = (block - query_blocks) * ROWS + tl.arange(0, ROWS)[:, None]
        inside = (head < KV_HEADS) & (dim < HALF)
        of = (HEADS + head) * (2 * HALF) + dim
        cell = tl.load(slots + token) * slot_stride + tl.load(positions + token) * position_stride
        to = cell + head.to(tl.int64) * head_stride + dim
        value = heads + KV_HEADS * 2 * HALF + of
        value_first = tl.load(value, mask=inside, other=0.0)
        value_second = tl.load(value + HALF, mask=inside, other=0.0)
        first, second = _turned(heads + of, key_norm, turn, head, dim, inside, HALF)
        tl.store(keys + to, first.to(keys.dtype.element_ty), mask=inside)
        tl.store(keys + to + HALF, second.to(keys.dtype.element_ty), mask=inside)
        tl.store(values + to, value_first, mask=inside)
        tl.store(values + to + HALF, value_second, mask=inside)


@triton.jit
def _turned(at, norm, turn, head, dim, inside, HALF: tl.constexpr):
    """Halves of heads, normed where there is a norm, and rotated; float32.

    What heads share is read for each of them, from the cache next to the registers: spreading one copy over the threads would
    take shared memory, and a barrier.
    """
    shared = head * 0 + dim
    cosine = tl.load(turn + shared, mask=inside, other=0.0).to(tl.float32)
    sine = tl.load(turn + HALF + shared, mask=inside, other=0.0).to(tl.float32)
    first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    if norm is not None:
        squares = tl.sum(first * first + second * second, 1)[:, None]
        scale = tl.rsqrt(squares / (2 * HALF) + SMALL)
        first *= scale * tl.load(norm + shared, mask=inside, other=0.0).to(tl.float32)
        second *= scale * tl.load(norm + HALF + shared, mask=inside, other=0.0).to(tl.float32)
    return first * cosine - second * sine, second * cosine + first * sine
