"""Small traces of odd shapes: rows in any order, samples with gaps, some columns there and some not."""

from typing import Any

import numpy as np
import pyarrow as pa

from traces.io import from_table
from traces.schema import SCHEMA
from traces.trace import Trace

REASONS = ["stop", "length", "aborted", None]


def column(name: str, values: Any) -> "pa.Array[Any]":
    return pa.array(values, SCHEMA.field(name).type)


def trace_of(**columns: Any) -> Trace:
    """A trace of plain lists; what is required and left out is made up."""
    count = len(columns["output_tokens"])
    given = {
        "step": [0] * count,
        "prompt_id": ["p"] * count,
        "sample": list(range(count)),
        "prompt_tokens": [5] * count,
    } | columns
    return from_table(pa.table({name: column(name, values) for name, values in given.items()}), "made up")


def random_trace(seed: int, binary: bool = True) -> Trace:
    """One to three RL steps of up to four prompts, up to five samples each, with all columns or some."""
    rng = np.random.default_rng(seed)
    rows = [
        (int(step), f"q{prompt}", int(sample))
        for step in np.sort(rng.choice(9, rng.integers(1, 4), replace=False))
        for prompt in range(rng.integers(1, 5))
        for sample in rng.choice(8, rng.integers(1, 6), replace=False)
    ]
    rng.shuffle(rows)
    lengths = rng.integers(1, 13, len(rows)).tolist()
    made: dict[str, Any] = {name: [row[at] for row in rows] for at, name in enumerate(("step", "prompt_id", "sample"))}
    made |= {"output_tokens": lengths, "prompt_tokens": [3] * len(rows)}
    if rng.random() < 0.7:
        made["token_ids"] = [rng.integers(0, 4, n).tolist() for n in lengths]
        made["prompt_token_ids"] = [[int(row[1][1:])] * 3 for row in rows]
    if rng.random() < 0.5:
        made["logprobs"] = [(-rng.random(n)).tolist() for n in lengths]
    if rng.random() < 0.5:
        made["accept_lengths"] = [[int(rng.integers(0, min(4, n - at) + 1)) for at in range(n)] for n in lengths]
        made["draft_lengths"] = [[one + int(rng.integers(0, 3)) for one in row] for row in made["accept_lengths"]]
    if rng.random() < 0.7:
        made["finish_reason"] = [REASONS[int(rng.integers(4))] for _ in lengths]
    if rng.random() < 0.8:
        made["reward"] = (rng.integers(0, 2, len(rows)) if binary else rng.random(len(rows))).tolist()
    return trace_of(**made)


def turns_of(rng: np.random.Generator, tokens: int) -> list[dict[str, Any]] | None:
    """So many tokens in turns, or no turns."""
    if rng.random() < 0.2:
        return None
    found = []
    while tokens:
        found.append({"generated_tokens": int(rng.integers(1, tokens + 1)), "wait_s": float(rng.integers(0, 3))})
        tokens -= found[-1]["generated_tokens"]
    return found


def by_name(trace: Trace) -> dict[tuple[int, str, int], dict[str, Any]]:
    """The rows of a trace by RL step, prompt and sample."""
    return {(row["step"], row["prompt_id"], row["sample"]): row for row in trace.table.to_pylist()}
