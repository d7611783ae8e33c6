"""Whether drafting pays on vLLM itself: what the simulator says before a run, from the trace alone, beside what was measured.

`main` reads a recording of `rolloutsim calibrate vllm` (`R` in the environment). Costs come from its runs without drafts and with
n-gram drafts of 4 tokens, at the fewest and the most slots; time to draft, of a drafter in none of them, from one other run of
it. What is simulated before are the rollouts that the trace holds of the same prompts, cut where the runs cut theirs: none of
the runs emitted them.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from calibration.asked import read_json
from calibration.live import recording, seconds
from calibration.live.recording import Recorded
from calibration.live.seconds import Costs, Repeated
from calibration.live.steps import simulated
from simulator.cost.draft_cost import FREE
from traces.io import from_table, read
from traces.trace import Trace

FITTED = ("none", "ngram-4")


def main() -> None:
    """Print a table."""
    folder = Path(os.environ.get("R", "R"))
    about = read_json(folder / "run.json")
    trace = read(about["trace"])
    before = cut(from_table(trace.table.take(about["rows"]), trace.source), int(about["sampling"]["max_tokens"]))
    runs = seconds.repeated(recording.read(folder))
    slots = sorted({run.runs[0].slots for run in runs})
    fitted = [f"{name}@{most}" for name in FITTED for most in (slots[0], slots[-1])]
    costs = seconds.fit(runs, fitted, str(about["engine"]["model"]))
    for line in table(runs, costs, before):
        print(line)


def table(runs: Sequence[Repeated], costs: Costs, before: Trace) -> Iterator[str]:
    """A line for each configuration and number of slots: measured seconds, their range, and both speed-ups over none."""
    yield "| configuration | slots | measured s | repeats | tokens a step | speed-up | simulated before | step ms | drafting ms |"
    yield "|---|---|---|---|---|---|---|---|---|"
    plain = {run.runs[0].slots: run for run in runs if run.drafter is None}
    for run in runs:
        one, base = run.runs[0], plain[run.runs[0].slots]
        expected = ahead(base, costs, before) / ahead(run, costs, before)
        # outputs differ in length, since a rejected draft uses other random numbers: seconds for each token
        gained = base.measured_s / tokens(base) / (run.measured_s / tokens(run))
        least, most = run.makespans_s.min(), run.makespans_s.max()
        steps = one.steps.num_rows
        yield (
            f"| {one.name} | {one.slots} | {run.measured_s:.2f} | {least:.2f} to {most:.2f} | {tokens(run) / steps:.1f} "
            f"| {gained:.2f} | {expected:.2f} | {run.measured_s / steps * 1e3:.1f} | {run.drafting_s.sum() / steps * 1e3:.2f} |"
        )


def ahead(run: Repeated, costs: Costs, before: Trace) -> float:
    """Seconds that the trace's rollouts would take under the run's configuration."""
    one: Recorded = replace(run.runs[0], trace=before)
    _, outcome, _ = simulated(one, costs.profile, FREE if run.drafter is None else costs.drafting[run.drafter])
    return outcome.makespan_s


def cut(trace: Trace, tokens: int) -> Trace:
    """The rollouts as they would have been with so many tokens at most."""
    kept = {
        name: trace.table.column(name) for name in ("step", "prompt_id", "sample", "prompt_tokens", "prompt_token_ids")
    }
    ids = [one[:tokens] for one in trace.table.column("token_ids").to_pylist()]
    lengths = pa.array(list(map(len, ids)), pa.int32())
    return from_table(
        pa.table(kept | {"output_tokens": lengths, "token_ids": pa.array(ids, pa.list_(pa.int32()))}), trace.source
    )


def tokens(run: Repeated) -> int:
    """Tokens that the run emitted."""
    return int(run.runs[0].trace.output_tokens.sum())
