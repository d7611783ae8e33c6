"""The suffix drafter: inserting history and drafting at every position, on recorded rollouts where they are at hand."""

import os
from pathlib import Path

import numpy as np

from simulator.drafting.drafter import past_rows
from simulator.drafting.suffix import Suffix
from tests.benchmarks.timing import median_s, row
from traces.io import read

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Print the drafter's rows."""
    shared = Path(os.environ.get("ROLLOUTSIM_DATA", ROOT.parent / "shared")) / "rollouts/llama3b_rl_math.parquet"
    trace = read(shared if shared.exists() else ROOT / "traces/data/demo.parquet")
    step = trace.steps[-1]
    rows = np.flatnonzero(trace.step == step)
    positions = int(trace.output_tokens[rows].sum())
    for scope, insert_target, accept_target in (("problem", "≥ 10 M", "≥ 4 M"), ("global", "", "")):
        drafter = Suffix(scope=scope, own=False)  # type: ignore[arg-type]
        past = past_rows(trace, step, drafter.window)
        forest = drafter.learn(trace, past)
        note = f"{Path(trace.source).name}, {forest.tokens / 1e6:.1f} M tokens"
        insert = forest.tokens / median_s(lambda d=drafter, p=past: d.learn(trace, p))  # type: ignore[misc]
        row(f"suffix automaton insert, {scope}", insert / 1e6, "M tokens/s", insert_target, note)
        row(f"suffix automaton memory, {scope}", forest.nbytes / forest.tokens, "B/token", "≤ 100", "")
        accept = positions / median_s(lambda d=drafter, f=forest: d.accept_from(trace, rows, f))  # type: ignore[misc]
        row(f"A and D, frozen history, {scope}", accept / 1e6, "M positions/s", accept_target, "two threads")
    for match in ("longest", "scored"):
        drafter = Suffix(match=match)  # type: ignore[arg-type]
        forest = drafter.learn(trace, past_rows(trace, step, drafter.window))
        counts = drafter.count(trace, rows, forest, 8)
        seconds = median_s(lambda d=drafter, f=forest: d.count(trace, rows, f, 8), 3)  # type: ignore[misc]
        work = positions if match == "longest" else counts.sequence_steps
        unit = "M positions/s" if match == "longest" else "M sequence-steps/s"
        row(f"problem + own output, {match}, max 8", work / seconds / 1e6, unit, "", "two threads")
