"""Decode and verification attention over a static KV cache: ragged, split over the whole device, and capturable.

Flash-decoding (Dao et al. 2023) with FlashInfer's plan: each step the host cuts the batch into items of about equal length
(`plan`), one copy takes them to the device, and kernels of fixed grid and fixed addresses read them there.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from calibration.model.plan import HEADER_WORDS, ITEM_FIELDS, MERGE_FIELDS, Plan, Tiling, plan
from traces.errors import InputError

Int32 = npt.NDArray[np.int32]

PARTS = 16
"""Partials that a merge reads at once."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the kernels are compiled with; `calibration.model.tune_flash` compares others.

    Latency times bandwidth is some 40 KiB a multiprocessor of an H200. A program has two or three tiles each of keys and
    values, `tile_bytes` a tile, in shared memory, so that two programs fit and one loads while the other computes. Narrow
    blocks have one stage more: their products leave a buffer as soon as they are done, Hopper's asynchronous ones later.
    """

    tile_bytes: int = 16384
    narrow_rows: int = 16
    wide_rows: int = 64
    warps: int = 4
    narrow_stages: int = 4
    wide_stages: int = 3
    programs_per_processor: int = 2
    merge_programs_per_processor: int = 16


class DecodeAttention:
    """Attention of one model's decode steps, with the workspace and the plan at addresses that never change.

    `plan` says what the next step's batch is; `run`, once a layer, only launches kernels, and may be captured in a CUDA graph
    after one call outside of it, which compiles. A replay serves whatever was planned last, as long as it has no more tokens
    than the captured query. On a CPU the kernels need Triton's interpreter (TRITON_INTERPRET=1), which is for tests.
    """

    def __init__(
        self,
        heads: int,
        kv_heads: int,
        head_dim: int,
        max_sequences: int,
        max_tokens: int,
        max_context_tokens: int,
        dtype: torch.dtype,
        device: torch.device | str,
        settings: Settings | None = None,
        processors: int | None = None,
    ) -> None:
        _check_shape(heads, kv_heads, head_dim, dtype)
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.dtype, self.device = dtype, torch.device(device)
        self.settings = settings or Settings()
        self.processors = processors or _processors(self.device)
        self._block_dim = 1 << (head_dim - 1).bit_length()
        self.tiling = Tiling(
            programs=self.processors * self.settings.programs_per_processor,
            kv_heads=kv_heads,
            group=heads // kv_heads,
            tile_tokens=min(max(self.settings.tile_bytes // (self._block_dim * dtype.itemsize), 16), 128),
            narrow_rows=self.settings.narrow_rows,
            wide_rows=self.settings.wide_rows,
            max_sequences=max_sequences,
            max_tokens=max_tokens,
            max_context_tokens=max_context_tokens,
        )
        rows = self.tiling.partial_capacity_tokens * heads
        assert rows * head_dim < 2**31, "offsets of partials are int32"
        self._partials = torch.empty((rows, head_dim), dtype=torch.float32, device=self.device)
        self._partial_logs = torch.empty(rows, dtype=torch.float32, device=self.device)
        words = HEADER_WORDS + ITEM_FIELDS * self.tiling.item_capacity + MERGE_FIELDS * self.tiling.merge_capacity
        self._words = torch.zeros(words, dtype=torch.int32, device=self.device)
        self._staging = [_Staging(words, self.device) for _ in range(2)]
        self.kernel: Any = None
        """The compiled kernel of the last run, which knows its registers and shared memory; none in the interpreter."""
        self._planned_tokens = 0
        self._planned_context_tokens = 0

    def plan(self, query_starts: Int32, context_tokens: Int32, slots: Int32) -> Plan:
        """Take n sequences to the device: `query_starts` [n + 1], `context_tokens` (own query tokens included), `slots` [n]."""
        self._check_batch(query_starts, context_tokens, slots)
        planned = plan(query_starts, context_tokens, slots, self.tiling)
        items, merges = planned.items.size, planned.merges.size
        used = HEADER_WORDS + items + merges
        staging = self._staging[0]
        self._staging.reverse()
        words = staging.claim()
        words[:HEADER_WORDS] = len(planned.items), len(planned.merges), planned.tokens, HEADER_WORDS + items
        words[HEADER_WORDS : HEADER_WORDS + items].reshape(-1, ITEM_FIELDS)[:] = planned.items
        words[HEADER_WORDS + items : used] = planned.merges.reshape(-1)
        staging.send(self._words, used)
        self._planned_tokens = planned.tokens
        self._planned_context_tokens = int(context_tokens.max(initial=0))
        return planned

    def run(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend with the planned batch: `query` and `out` [tokens, heads, head_dim], tokens beyond the batch give zeros.

        `keys` and `values` are one layer's cache, [slots, kv_heads, room, head_dim], with the query tokens' own KV in it.
        """
        from calibration.model import flash_kernels

        out = torch.empty(query.shape, dtype=query.dtype, device=query.device) if out is None else out
        self._check_tensors(query, keys, values, out)
        constants = {"HEAD_DIM": self.head_dim, "BLOCK_DIM": self._block_dim}
        piece: dict[str, Any] = {
            "GROUP": self.tiling.group,
            "KV_HEADS": self.kv_heads,
            "TILE": self.tiling.tile_tokens,
            "NARROW": self.settings.narrow_rows,
            "WIDE": self.settings.wide_rows,
            "NARROW_STAGES": self.settings.narrow_stages,
            "WIDE_STAGES": self.settings.wide_stages,
            "PRECISION": "ieee" if self.dtype == torch.float32 else "tf32",
            "WIDEN": self.device.type == "cpu" and self.dtype == torch.bfloat16,
            "num_warps": self.settings.warps,
        }
        self.kernel = flash_kernels.attend[(self.tiling.programs,)](
            query, keys, values, out, self._partials, self._partial_logs, self._words,
            self.head_dim**-0.5 * math.log2(math.e),
            query.stride(0), query.stride(1), keys.stride(0), keys.stride(1), keys.stride(2), out.stride(0), out.stride(1),
            **constants, **piece,
        )  # fmt: skip
        flash_kernels.merge[(self.processors * self.settings.merge_programs_per_processor,)](
            out, self._partials, self._partial_logs, self._words, out.shape[0], out.stride(0), out.stride(1),
            **constants, HEADS=self.heads, PARTS=PARTS, num_warps=1,
        )  # fmt: skip
        return out

    def _check_batch(self, query_starts: Int32, context_tokens: Int32, slots: Int32) -> None:
        """Refuse what the workspace was not made for; a batch that contradicts itself is a bug of the caller."""
        n = len(context_tokens)
        assert (len(query_starts), len(slots)) == (n + 1, n)
        if n > self.tiling.max_sequences:
            raise InputError(
                f"{n} sequences in a step, but attention was made for {self.tiling.max_sequences}: raise max_sequences"
            )
        if query_starts[-1] > self.tiling.max_tokens:
            raise InputError(
                f"{query_starts[-1]} query tokens in a step, but attention was made for {self.tiling.max_tokens}:"
                " raise max_tokens"
            )
        if n and context_tokens.max() > self.tiling.max_context_tokens:
            at = int(context_tokens.argmax())
            raise InputError(
                f"{context_tokens[at]} KV tokens in sequence {at}, but attention was made for"
                f" {self.tiling.max_context_tokens}: raise max_context_tokens"
            )
        widths = np.diff(query_starts)
        assert query_starts[0] == 0
        assert (widths >= 0).all()
        assert (widths <= context_tokens).all()
        assert (slots >= 0).all()

    def _check_tensors(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor) -> None:
        assert query.shape[1:] == (self.heads, self.head_dim)
        assert out.shape == query.shape
        assert query.shape[0] >= self._planned_tokens, "the planned batch has more tokens than the query"
        assert keys.shape == values.shape
        assert keys.stride() == values.stride()
        assert keys.shape[1] == self.kv_heads
        assert keys.shape[3] == self.head_dim
        assert keys.shape[2] >= self._planned_context_tokens
        assert all(tensor.stride(-1) == 1 for tensor in (query, keys, values, out))
        within_int32 = (query, out, keys[0, 0], values[0, 0])
        assert all(tensor.numel() < 2**31 for tensor in within_int32), "offsets but those of slots and heads are int32"
        assert all(tensor.dtype == self.dtype for tensor in (query, keys, values, out))


class _Staging:
    """A host buffer on its way to the device: not written again before it has arrived."""

    def __init__(self, words: int, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self._buffer = torch.zeros(words, dtype=torch.int32, pin_memory=cuda)
        self._words: Int32 = self._buffer.numpy()
        self._sent = torch.cuda.Event() if cuda else None  # type: ignore[no-untyped-call]

    def claim(self) -> Int32:
        """Wait until the buffer was read, and return it."""
        if self._sent is not None:
            self._sent.synchronize()
        return self._words

    def send(self, to: torch.Tensor, used: int) -> None:
        """Copy the first `used` words, in the order of the current stream."""
        to[:used].copy_(self._buffer[:used], non_blocking=True)
        if self._sent is not None:
            self._sent.record()


def _processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; a CPU stands for a small one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def _check_shape(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    if kv_heads < 1 or heads % kv_heads or not 1 <= heads // kv_heads <= 16:
        raise InputError(
            f"{heads} query heads on {kv_heads} KV heads: attention serves 1 to 16 query heads for each KV head; change the shape"
        )
    if head_dim % 16 or not 16 <= head_dim <= 256:
        raise InputError(f"head_dim {head_dim}: attention serves multiples of 16 up to 256; change the shape")
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise InputError(f"dtype {dtype}: attention serves bfloat16, float16 and float32; change the dtype")
