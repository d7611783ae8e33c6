"""What a layer does between its products, a launch each: the same as in `calibration.model.layers`, fused with Triton.

Intermediate results stay in float32 where plain torch rounds each to the tensors' precision. Grids depend on shapes alone, so
that launches may be captured in a CUDA graph after one outside of it, which compiles. On a CPU the kernels need Triton's
interpreter (TRITON_INTERPRET=1), which is for tests.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from calibration.model import fused_kernels
from calibration.model.layers import Kernels

ROW_WARP_ELEMENTS = 512
"""Of a row that is normed, to a warp: two vectors of sixteen bytes a thread in half precision, of x and of the residual."""
MOST_ROW_WARPS = 16
GATED_BLOCK = 1024
GATED_WARPS = 4
"""A vector a thread, of the gate and of up: programs are short, and sixteen of them share a multiprocessor."""
HEAD_BLOCK = 1024
HEAD_WARPS = 2
"""Elements of heads to a program: a vector of each half a thread. As small as that, so that few tokens are many programs."""


def add_norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Normed sum of x and residual, and the sum itself; all [tokens, hidden], contiguous."""
    tokens, hidden = x.shape
    assert residual.shape == x.shape
    assert weight.shape == (hidden,)
    assert all(tensor.is_contiguous() for tensor in (x, residual, weight))
    normed, total = torch.empty_like(x), torch.empty_like(x)
    block = triton.next_power_of_2(hidden)
    warps = min(max(block // ROW_WARP_ELEMENTS, 1), MOST_ROW_WARPS)
    fused_kernels.add_norm[(tokens,)](x, residual, weight, normed, total, HIDDEN=hidden, BLOCK=block, num_warps=warps)
    return normed, total


def turn_append(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    turns: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    positions: Tensor,
) -> Tensor:
    """Split, norm (where there are weights of queries and keys) and rotate; append keys and values to a layer's cache.

    qkv: [tokens, (heads + 2 x kv_heads) x head_dim], contiguous; turns: a row of `rope_table` for each token; keys, values:
    [slots, kv_heads, room, head_dim], laid out alike, head_dim contiguous; slots, positions: int64[tokens]. Returns queries,
    [tokens, heads, head_dim], contiguous.
    """
    tokens, kv_heads, head_dim = qkv.shape[0], keys.shape[1], keys.shape[3]
    heads = qkv.shape[1] // head_dim - 2 * kv_heads
    assert qkv.shape[1] == (heads + 2 * kv_heads) * head_dim
    assert turns.shape == (tokens, 2, head_dim // 2)
    assert all(tensor.is_contiguous() for tensor in (qkv, turns, slots, positions, *(norms or ())))
    assert (keys.shape, keys.stride()) == (values.shape, values.stride())
    assert keys.stride(3) == 1
    assert slots.shape == positions.shape == (tokens,)
    query_norm, key_norm = (None, None) if norms is None else norms
    out = torch.empty(tokens, heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    half = triton.next_power_of_2(head_dim // 2)
    rows = min(max(HEAD_BLOCK // (2 * half), 1), triton.next_power_of_2(heads))
    programs = tokens * (triton.cdiv(heads, rows) + triton.cdiv(kv_heads, rows))
    fused_kernels.turn_append[(programs,)](
        qkv, query_norm, key_norm, turns, keys, values, slots, positions, out, *keys.stride()[:3],
        HEADS=heads, KV_HEADS=kv_heads, HALF=head_dim // 2, BLOCK_HALF=half, ROWS=rows, num_warps=HEAD_WARPS,
    )  # fmt: skip
    return out


def gated(both: Tensor) -> Tensor:
    """SwiGLU of gate and up side by side, [tokens, 2 x width] to [tokens, width]; rows may lie apart."""
    tokens, width = both.shape[0], both.shape[1] // 2
    assert both.stride(1) == 1
    out = torch.empty(tokens, width, dtype=both.dtype, device=both.device)
    block = min(triton.next_power_of_2(width), GATED_BLOCK)
    programs = tokens * triton.cdiv(width, block)
    fused_kernels.gated[(programs,)](both, out, both.stride(0), WIDTH=width, BLOCK=block, num_warps=GATED_WARPS)
    return out


FUSED = Kernels(add_norm, turn_append, gated)
