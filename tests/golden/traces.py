"""The traces that the golden scenarios replay: shipped ones, made-up ones with every optional column, third-party ones."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from traces.importers import import_trace
from traces.io import from_table, read
from traces.synthesis import synth
from traces.trace import Trace

ROOT = Path(__file__).parents[2]
SEED = 11


@cache
def shipped(name: str) -> Trace:
    return read(ROOT / "traces/data" / f"{name}.parquet")


@cache
def made(kind: str) -> Trace:
    """A made-up trace: `plain`, or with one more column: `arriving`, `turning`, `recorded` (a drafter's accepted tokens)."""
    rng = np.random.default_rng(SEED)
    table = synth(prompts=12, samples=4, steps=3, median_tokens=90, max_tokens=600, seed=SEED)
    lengths = table.column("output_tokens").to_pylist()
    if kind == "arriving":
        arrival_s = np.concatenate([np.sort(rng.exponential(0.1, 48).cumsum()) for _ in range(3)])
        table = table.append_column("arrival_s", pa.array(arrival_s))
    if kind == "turning":
        turns = [
            [{"generated_tokens": n // 3, "wait_s": 0.5}, {"generated_tokens": n - n // 3, "wait_s": 0.0}] if n > 8 else None
            for n in lengths
        ]  # fmt: skip
        table = table.append_column("turns", pa.array(turns))
    if kind == "recorded":
        accepted = [np.minimum(rng.geometric(0.4, n) - 1, np.minimum(4, n - np.arange(n))).tolist() for n in lengths]
        table = table.append_column("accept_lengths", pa.array(accepted, pa.list_(pa.int32())))
    return from_table(table, f"made-{kind}")


@cache
def shared(folder: Path, name: str) -> Trace:
    """A third-party trace; of the serving ones the first requests that have output."""
    serving: dict[str, Callable[[], pa.Table]] = {
        "azure": lambda: import_trace(folder / "serving/AzureLLMInferenceTrace_code.csv").slice(0, 3000),
        "mooncake": lambda: import_trace(folder / "serving/mooncake_conversation_trace.jsonl").slice(0, 1000),
    }
    if name not in serving:
        return read(folder / "rollouts" / f"{name}.parquet")
    table = serving[name]()
    return from_table(table.filter(pa.compute.greater(table.column("output_tokens"), 0)), name)


def short(trace: Trace, tokens: int) -> Trace:
    """The rollouts of at most so many tokens, whose long contexts take long to draft for."""
    return trace.select(trace.output_tokens <= tokens)
