"""What the experiments share: the recorded traces, runs of a trace in memory, and tables in Markdown."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from simulator.drafting.settings import SuffixSettings
from simulator.drafting.suffix import Suffix
from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from traces.io import read
from traces.trace import Trace

ROOT = Path(__file__).parents[3]
LLAMA = "h100-llama-3.1-8b-published"
R1 = "h100-r1-distill-qwen-7b-published"


def recorded(name: str) -> Trace:
    """Read a recorded trace, or end with a clear reason."""
    path = Path(os.environ.get("ROLLOUTSIM_DATA", ROOT.parent / "shared")) / f"rollouts/{name}.parquet"
    if not path.exists():
        sys.exit(f"{path}: not there: set ROLLOUTSIM_DATA to the folder of the recorded rollouts")
    return read(path)


def made_up(table: pa.Table) -> Trace:
    """Take a table of rollouts as a trace."""
    return Trace(table, "synth", "0" * 64)


def samples_as_steps(trace: Trace, first: int) -> Trace:
    """Call the first so many samples of each prompt RL step 0 and the others RL step 1."""
    step = np.where(trace.sample < first, 0, 1).astype(np.int32)
    at = trace.table.column_names.index("step")
    return Trace(trace.table.set_column(at, "step", pa.array(step)), trace.source, trace.sha256)


def suffix(**settings: Any) -> Suffix:
    """Return the suffix drafter as the command line makes it, at its measured cost."""
    return SuffixSettings(**settings).drafter()


def replayed(
    trace: Trace, profile: str, policies: Sequence[str], *, steps: list[int] | None = None, max_num_seqs: int = 256,
    drafter: dict[str, Any] | None = None, compare: dict[str, Any] | None = None, seed: int = 0,
) -> Result:  # fmt: skip
    """Run the policies on the trace, as `rolloutsim replay` does."""
    scenario = build({
        "trace": trace.source, "profile": profile, "policies": list(policies), "steps": steps, "seed": seed,
        "drafter": drafter or {}, "engine": {"max_num_seqs": max_num_seqs}, "compare": compare,
    })  # fmt: skip
    return run(scenario, trace)


def head(title: str, *columns: str) -> None:
    """Begin a table."""
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def row(*cells: object) -> None:
    """Print a line of the table."""
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)
