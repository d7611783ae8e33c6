"""Speculation against the batch: an EAGLE-like head, a poor n-gram drafter, and long contexts."""

from typing import Any

import numpy as np
import pyarrow as pa

from tests.benchmarks.experiments.parts import LLAMA, head, made_up, replayed, row
from traces.trace import Trace

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
EAGLE = [0.8, 0.7, 0.6]
NGRAM = [0.2, 0.2, 0.2]
TOKENS = 1024
COLUMNS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("EAGLE-like, 256 prompt tokens", 256, {"kind": "eagle", "curve": EAGLE, "cost": "eagle"}),
    ("n-gram, 256 prompt tokens", 256, {"kind": "parallel", "curve": NGRAM, "cost": "ngram"}),
    ("EAGLE-like, 32,768 prompt tokens", 32_768, {"kind": "eagle", "curve": EAGLE, "cost": "eagle"}),
    ("n-gram, 32,768 prompt tokens", 32_768, {"kind": "parallel", "curve": NGRAM, "cost": "ngram"}),
)


def batch_of(size: int, first: int, prompt_tokens: int) -> Trace:
    """So many of the same 128 rollouts of equal length, from the `first` on."""
    return made_up(
        pa.table({
            "step": pa.array(np.zeros(size), pa.int32()), "prompt_id": [f"p{first + i}" for i in range(size)],
            "sample": pa.array(np.zeros(size), pa.int32()),
            "prompt_tokens": pa.array(np.full(size, prompt_tokens), pa.int32()),
            "output_tokens": pa.array(np.full(size, TOKENS), pa.int32()),
        })
    )  # fmt: skip


def speedup(size: int, prompt_tokens: int, drafter: dict[str, Any]) -> float:
    """Tokens per second with three drafts over those with none, in decode steps with a full batch and no prefill."""
    total: Any = 0
    for first in range(0, max(BATCHES), size):
        trace = batch_of(size, first, prompt_tokens)
        steps = replayed(trace, LLAMA, ["none", "fixed:3"], max_num_seqs=size, drafter=drafter).steps.to_pandas()
        full = steps[(steps.live == size) & (steps.prefill_tokens == 0)]
        total = total + full.groupby("system")[["emitted_tokens", "duration_s"]].sum()
    rate = total.emitted_tokens / total.duration_s
    return float(rate["fixed:3"] / rate["none"])


def main() -> None:
    """Print the table."""
    head(
        f"batch: k = 3, profile {LLAMA}, {TOKENS} tokens each, EAGLE-like accepts {EAGLE}, n-gram {NGRAM}",
        "batch", *(name for name, _, _ in COLUMNS),
    )  # fmt: skip
    for size in BATCHES:
        row(size, *(f"{speedup(size, prompt_tokens, drafter):.3f}" for _, prompt_tokens, drafter in COLUMNS))
    _, prompt_tokens, drafter = COLUMNS[1]
    loses = next(size for size in range(32, 128) if speedup(size, prompt_tokens, drafter) < 1)
    print(f"\n{COLUMNS[1][0]}: slower than none from a batch of {loses} on")
