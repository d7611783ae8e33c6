"""Which settings of split-KV attention a GPU likes: `python -m calibration.model.tune_flash`, under a minute.

Prints, for each of a few settings and batches, the bytes of KV that a layer's attention reads per second, as a share of what
a plain copy moves. The first row is the default.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import click
import numpy as np
import torch

from calibration.model.flash import DecodeAttention, Settings
from traces.errors import InputError

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
DTYPE = torch.bfloat16
CACHE_BYTES = 1 << 30
"""Least bytes of KV that a timed replay reads, as many layers as it takes: far more than the L2 cache keeps."""

COPIES, REPLAYS = 10, 10

POINTS = ((1, 32_768, 1), (1, 32_768, 9), (8, 8192, 1), (64, 8192, 1), (64, 8192, 5), (256, 2048, 1))
"""(sequences, context tokens, query tokens of each)."""

CHOICES = (
    Settings(),
    Settings(narrow_stages=3),
    Settings(narrow_stages=3, wide_stages=2),
    Settings(narrow_stages=6, wide_stages=5, programs_per_processor=1),
    Settings(warps=8),
    Settings(tile_bytes=32_768, narrow_stages=3, wide_stages=2, programs_per_processor=1),
    Settings(tile_bytes=8192, narrow_stages=6, wide_stages=5),
    Settings(wide_rows=32),
)


@dataclass(frozen=True, eq=False)
class Batch:
    """Even sequences and as many layers of KV as it takes to leave the L2 cache cold."""

    query: torch.Tensor
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    query_starts: np.ndarray[tuple[int], np.dtype[np.int32]]
    context_tokens: np.ndarray[tuple[int], np.dtype[np.int32]]

    @property
    def layer_bytes(self) -> int:
        """Bytes of keys and values that attention must read in one layer."""
        return int(self.context_tokens.sum()) * KV_HEADS * HEAD_DIM * DTYPE.itemsize * 2


def batch_of(sequences: int, context: int, width: int) -> Batch:
    """Random tensors on the GPU."""
    shape = (sequences, KV_HEADS, context, HEAD_DIM)
    layer_bytes = 2 * sequences * KV_HEADS * context * HEAD_DIM * DTYPE.itemsize
    keys_values = [
        (torch.randn(shape, dtype=DTYPE, device="cuda"), torch.randn(shape, dtype=DTYPE, device="cuda"))
        for _ in range(max(-(-CACHE_BYTES // layer_bytes), 1))
    ]
    query = torch.randn(sequences * width, HEADS, HEAD_DIM, dtype=DTYPE, device="cuda")
    starts = np.arange(sequences + 1, dtype=np.int32) * np.int32(width)
    return Batch(query, keys_values, starts, np.full(sequences, context, np.int32))


def seconds_of(call: Callable[[], object], times: int) -> float:
    """Mean seconds of a call on the GPU, after one that does not count."""
    call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(times):
        call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / times


def copy_bytes_per_s() -> float:
    """Bytes read and written per second by a device-to-device copy of 2 GiB."""
    source = torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds_of(lambda: target.copy_(source), COPIES)


def layer_seconds(batch: Batch, settings: Settings) -> tuple[float, str]:
    """Seconds of one layer's attention in a captured graph, and what the compiler made of the kernel."""
    sequences = batch.context_tokens.size
    attention = DecodeAttention(
        HEADS,
        KV_HEADS,
        HEAD_DIM,
        sequences,
        batch.query.shape[0],
        int(batch.context_tokens.max()),
        DTYPE,
        "cuda",
        settings,
    )
    attention.plan(batch.query_starts, batch.context_tokens, np.arange(sequences, dtype=np.int32))
    out = torch.empty_like(batch.query)

    def run() -> None:
        for keys, values in batch.layers:
            attention.run(batch.query, keys, values, out)

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    kernel = attention.kernel
    made = f"{kernel.metadata.shared // 1024} KiB, {kernel.n_regs} registers, {kernel.n_spills} spilled"
    return seconds_of(graph.replay, REPLAYS) / len(batch.layers), made


def changes_of(settings: Settings) -> str:
    """The fields that differ from the default."""
    default = asdict(Settings())
    return (
        ", ".join(f"{name} {value}" for name, value in asdict(settings).items() if value != default[name]) or "default"
    )


def main() -> None:
    """Print the table."""
    if not torch.cuda.is_available():
        raise InputError("no GPU found: tuning measures one; run it where torch.cuda.is_available()")
    copy = copy_bytes_per_s()
    click.echo(f"{torch.cuda.get_device_name()}: a copy moves {copy / 1e12:.2f} TB/s; KV read, as a share of it:")
    click.echo("  ".join(["seq x context x width:"] + [f"{n} x {context} x {width}" for n, context, width in POINTS]))
    batches = [batch_of(*point) for point in POINTS]
    for settings in CHOICES:
        begin = time.perf_counter()
        try:
            timed = [layer_seconds(batch, settings) for batch in batches]
        except Exception as error:  # a choice that does not compile or fit is a row of the table, not the end of it
            click.echo(f"{changes_of(settings)}: {type(error).__name__}: {str(error)[:120]}")
            continue
        shares = [
            f"{batch.layer_bytes / seconds / copy:5.0%}" for batch, (seconds, _) in zip(batches, timed, strict=True)
        ]
        took = time.perf_counter() - begin
        click.echo(f"{'  '.join(shares)}  {changes_of(settings)} ({timed[0][1]}; {took:.1f} s)")


if __name__ == "__main__":
    main()
