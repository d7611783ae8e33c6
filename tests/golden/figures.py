"""What is kept of a golden run: every figure of `runs` and of the comparison, and of each column of the other tables a digest,
or two sums where it holds floats."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from tests.golden import traces
from tests.golden.scenarios import Golden
from traces.trace import Trace

STORED = Path(__file__).with_name("figures.json")


def trace_of(golden: Golden, data: Path | None) -> Trace:
    where, name, *tokens = golden.trace.split(":")
    if where == "shared":
        assert data is not None
        whole = traces.shared(data, name)
        return traces.short(whole, int(tokens[0])) if tokens else whole
    return traces.shipped(name) if where == "shipped" else traces.made(name)


def figures(golden: Golden, data: Path | None = None) -> dict[str, Any]:
    """Run a scenario; the result has gone through JSON."""
    result = run(build({"trace": golden.trace, **golden.document}), trace_of(golden, data))
    found: dict[str, Any] = json.loads(json.dumps(told(result)))
    return found


def told(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = {"runs": result.runs.drop_columns(["wall_s"]).to_pylist()}
    if result.comparison is not None:
        found["comparison"] = result.comparison.table.to_pylist()
    tables = {
        "rl_steps": result.rl_steps,
        "rollouts": result.rollouts,
        "steps": result.steps,
        "acceptance": result.acceptance,
    }
    return found | {name: digests(table) for name, table in tables.items()}  # fmt: skip


def digests(table: pa.Table) -> dict[str, str | list[float]]:
    """What is kept of every column."""
    return {name: digest(table.column(name).to_numpy()) for name in table.column_names if name != "wall_s"}


def digest(values: "np.ndarray[Any, Any]") -> str | list[float]:
    """Floats differ in their last digits from processor to processor, so those are summed, in two ways."""
    if values.dtype.kind == "f":
        known = np.nan_to_num(values, posinf=0.0, neginf=0.0)
        return [float(known.sum()), float(known @ (1 + np.arange(known.size) % 7))]
    content = repr(values.tolist()).encode() if values.dtype == object else np.ascontiguousarray(values).tobytes()
    return hashlib.sha256(content).hexdigest()[:16]
