"""The two Triton kernels of decode attention: pieces of KV against blocks of rows, and the merging of the pieces.

Both have a fixed grid and read from the plan in device memory how much there is to do (`calibration.model.plan`), which is
a header, the items and the merges.
"""

import triton
import triton.language as tl

from calibration.model.plan import HEADER_WORDS, ITEM_FIELDS, MERGE_FIELDS

MASKED = tl.constexpr(-1.0e30)
"""Score of what a query may not see: finite, so that a row which sees nothing of a piece still has a finite result, whose
weight in the merge is exactly zero."""

HEADER = tl.constexpr(HEADER_WORDS)
ITEM = tl.constexpr(ITEM_FIELDS)
MERGE = tl.constexpr(MERGE_FIELDS)


@triton.jit
def attend(
    query,
    keys,
    values,
    out,
    partials,
    partial_logs,
    plan,
    scale_log2,
    query_token_stride,
    query_head_stride,
    slot_stride,
    kv_head_stride,
    position_stride,
    out_token_stride,
    out_head_stride,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    TILE: tl.constexpr,
    NARROW: tl.constexpr,
    WIDE: tl.constexpr,
    NARROW_STAGES: tl.constexpr,
    WIDE_STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Work through (item, KV head) pairs, in rounds of the whole grid, every other one backwards."""
    units = tl.load(plan) * KV_HEADS
    programs = tl.num_programs(0)
    forth = tl.program_id(0)
    back = programs - 1 - forth
    for first in range(0, units, programs):
        unit = first + tl.where((first // programs) % 2 == 0, forth, back)
        if unit < units:
            item = plan + HEADER + (unit // KV_HEADS) * ITEM
            kv_head = unit % KV_HEADS
            slot = tl.load(item).to(tl.int64)
            cache = slot * slot_stride + kv_head.to(tl.int64) * kv_head_stride
            if tl.load(item + 2) * GROUP <= NARROW:
                _piece(
                    query, keys + cache, values + cache, out, partials, partial_logs, item, kv_head, scale_log2,
                    query_token_stride, query_head_stride, position_stride, out_token_stride, out_head_stride,
                    GROUP, KV_HEADS, HEAD_DIM, BLOCK_DIM, TILE, NARROW, NARROW_STAGES, PRECISION, WIDEN,
                )  # fmt: skip
            else:
                _piece(
                    query, keys + cache, values + cache, out, partials, partial_logs, item, kv_head, scale_log2,
                    query_token_stride, query_head_stride, position_stride, out_token_stride, out_head_stride,
                    GROUP, KV_HEADS, HEAD_DIM, BLOCK_DIM, TILE, WIDE, WIDE_STAGES, PRECISION, WIDEN,
                )  # fmt: skip


@triton.jit
def _piece(
    query,
    keys,
    values,
    out,
    partials,
    partial_logs,
    item,
    kv_head,
    scale_log2,
    query_token_stride,
    query_head_stride,
    position_stride,
    out_token_stride,
    out_head_stride,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    TILE: tl.constexpr,
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """One block of ROWS rows against the item's KV tokens: softmax as it goes, in base 2 and float32.

    The masks cost a few instructions a tile and nothing of what bounds this kernel, the reading of tiles, so every tile has
    them and the loop stays one, with its loads in flight from the first tile to the last. WIDEN: bfloat16 operands of products
    go through float32, to the same result; Triton's interpreter takes their bits for integers.
    """
    token_start = tl.load(item + 1)
    tokens = tl.load(item + 2)
    context = tl.load(item + 3)
    first_row = tl.load(item + 4)
    kv_start = tl.load(item + 5)
    kv_end = tl.load(item + 6)
    partial = tl.load(item + 7)
    splits = tl.load(item + 8)

    row = first_row + tl.arange(0, ROWS)
    token = row // GROUP
    head = kv_head * GROUP + row % GROUP
    dim = tl.arange(0, BLOCK_DIM)
    position = tl.arange(0, TILE)
    live = (token < tokens)[:, None] & (dim < HEAD_DIM)[None, :]
    limit = context - tokens + token + 1  # a row sees positions below it; parts but the last end with a whole tile

    at = (token_start + token)[:, None] * query_token_stride + head[:, None] * query_head_stride
    rows = tl.load(query + at + dim[None, :], mask=live, other=0.0)
    if WIDEN:
        rows = rows.to(tl.float32)

    top = tl.full([ROWS], MASKED, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, BLOCK_DIM], tl.float32)
    within = position[:, None] * position_stride + dim[None, :]
    for start in tl.range(kv_start, kv_end, TILE, num_stages=STAGES):
        inside = (start + position < kv_end)[:, None] & (dim < HEAD_DIM)[None, :]
        base = start * position_stride
        tile = tl.load(keys + base + within, mask=inside, other=0.0)
        if WIDEN:
            tile = tile.to(tl.float32)
        scores = tl.dot(rows, tl.trans(tile), input_precision=PRECISION) * scale_log2
        scores = tl.where((start + position)[None, :] < limit[:, None], scores, MASKED)
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(weights, 1)
        tile = tl.load(values + base + within, mask=inside, other=0.0)
        weights = weights.to(tile.dtype)
        if WIDEN:
            weights = weights.to(tl.float32)
            tile = tile.to(tl.float32)
        sums = tl.dot(weights, tile, sums * shrink[:, None], input_precision=PRECISION)
        top = higher

    result = sums / total[:, None]
    if partial < 0:
        at = (token_start + token)[:, None] * out_token_stride + head[:, None] * out_head_stride
        tl.store(out + at + dim[None, :], result.to(out.dtype.element_ty), mask=live)
    else:
        to = (partial + token * splits) * (KV_HEADS * GROUP) + head
        tl.store(partials + to[:, None] * HEAD_DIM + dim[None, :], result, mask=live)
        tl.store(partial_logs + to, top + tl.log2(total), mask=token < tokens)


@triton.jit(do_not_specialize=["padded_tokens"])
def merge(
    out,
    partials,
    partial_logs,
    plan,
    padded_tokens,
    out_token_stride,
    out_head_stride,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Weigh the partials of each split (token, head) by their sums of exponentials; zero the tokens of no sequence."""
    merges = tl.load(plan + 1)
    tokens = tl.load(plan + 2)
    entries = plan + tl.load(plan + 3)
    dim = tl.arange(0, BLOCK_DIM)
    part = tl.arange(0, PARTS)
    for unit in range(tl.program_id(0), merges * HEADS, tl.num_programs(0)):
        entry = entries + (unit // HEADS) * MERGE
        head = unit % HEADS
        token = tl.load(entry)
        first = tl.load(entry + 1)
        splits = tl.load(entry + 2)
        top = -float("inf")
        total = 0.0
        sums = tl.zeros([BLOCK_DIM], tl.float32)
        for start in range(0, splits, PARTS):
            present = start + part < splits
            at = (first + start + part) * HEADS + head
            logs = tl.load(partial_logs + at, mask=present, other=-float("inf"))
            inside = present[:, None] & (dim < HEAD_DIM)[None, :]
            found = tl.load(partials + at[:, None] * HEAD_DIM + dim[None, :], mask=inside, other=0.0)
            higher = tl.maximum(top, tl.max(logs, 0))
            weights = tl.exp2(logs - higher)
            shrink = tl.exp2(top - higher)
            total = total * shrink + tl.sum(weights, 0)
            sums = sums * shrink + tl.sum(weights[:, None] * found, 0)
            top = higher
        to = out + token * out_token_stride + head * out_head_stride + dim
        tl.store(to, (sums / total).to(out.dtype.element_ty), mask=dim < HEAD_DIM)

    for unit in range(tokens * HEADS + tl.program_id(0), padded_tokens * HEADS, tl.num_programs(0)):
        to = out + (unit // HEADS) * out_token_stride + (unit % HEADS) * out_head_stride + dim
        tl.store(to, tl.zeros([BLOCK_DIM], out.dtype.element_ty), mask=dim < HEAD_DIM)
