"""How a run is asked for, and what of it must not change."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simulator import run
from simulator.results import Result
from simulator.scenario import build
from traces.io import from_table, write
from traces.synthesis import synth
from traces.trace import Trace

APART = ("wall_s",)
POWERS = """
format: rolloutsim.profile/1
name: powers
kind: affine
model: m
device: d
source: made for tests
uncertainty: none
relative_error: 0.1
operators:
- {name: all, kind: affine, coefficients_s: {constant: COSTS, query_tokens: TOKENS, kv_tokens: KV}}
"""


def made(prompts: int = 5, samples: int = 4, steps: int = 3, **settings: Any) -> pa.Table:
    """A made-up trace with token ids that repeat."""
    return synth(prompts=prompts, samples=samples, steps=steps, median_tokens=60, max_tokens=300, seed=11, **settings)


def profile(folder: Path, factor: float = 1.0) -> str:
    """A profile whose seconds a factor multiplies."""
    path = folder / f"costs-{factor}.yaml"
    text = POWERS.replace("COSTS", repr(0.0073 * factor)).replace("TOKENS", repr(2.1e-5 * factor))
    path.write_text(text.replace("KV", repr(3.9e-8 * factor)))
    return str(path)


def played(folder: Path, trace: pa.Table | Trace, **settings: Any) -> Result:
    """Play a trace; policies none, fixed:4 and unlimited, the suffix drafter without a price, unless told otherwise."""
    asked = {"policies": ["none", "fixed:4", "unlimited"], "drafter": {"kind": "suffix", "cost": "none"}} | settings
    if isinstance(trace, pa.Table):
        path = folder / "trace.parquet"
        write(trace, path, {"made": "for tests"})
        asked["trace"], trace = str(path), from_table(trace)
    factor = asked.pop("factor", 1.0)
    return run(build({"trace": "trace.parquet", "profile": profile(folder, factor), **asked}), trace)


def rows(result: Result, apart: tuple[str, ...] = APART) -> list[dict[str, Any]]:
    """The rows of `runs`, without what may differ."""
    return [{key: value for key, value in row.items() if key not in apart} for row in result.runs.to_pylist()]


def rollouts(result: Result, *columns: str) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Columns of every rollout by system, step, prompt and sample; those of times unless others are named."""
    columns = columns or (
        "admitted_s",
        "first_token_s",
        "finished_s",
        "drafted_tokens",
        "accepted_tokens",
        "decode_steps",
    )
    keys = ("system", "step", "prompt_id", "sample")
    return {
        tuple(row[key] for key in keys): tuple(row[column] for column in columns) for row in result.rollouts.to_pylist()
    }


def taken(table: pa.Table, order: Any) -> pa.Table:
    """Rows of a table in another order."""
    return table.take(np.asarray(order))
