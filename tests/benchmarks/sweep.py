"""What a study costs: 200 policies over 8 million tokens on one core, and drafting inside the engine's loop."""

import os
from pathlib import Path

import numpy as np

from simulator.budgets.policy import TablePolicy, by_live
from simulator.budgets.view import BatchView
from simulator.cost import load_profile
from simulator.drafting.drafter import past_rows
from simulator.drafting.live import SiblingIndex
from simulator.drafting.suffix import Suffix
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from tests.benchmarks.engine import LIVE, workload
from tests.benchmarks.timing import median_s, row
from traces.io import read

ROOT = Path(__file__).parents[2]


def two_hundred() -> list[TablePolicy]:
    """Every constant budget from 0 to 39 under five batch sizes."""
    return [by_live([k] * (most + 1) + [0]) for k in range(40) for most in (16, 32, 64, 128, 256)]


def four(view: BatchView) -> np.ndarray:
    """A user's policy, asked every decode step."""
    return np.where(view.emitted_tokens > 100, 4, 2)


def main() -> None:
    """Print the rows."""
    cost = load_profile("h100-llama-3.1-8b-published")
    load = workload(2048, 3000, 16_000)
    tokens = int(load.output_tokens.sum())
    policies = two_hundred()
    seconds = median_s(lambda: [simulate(load, policy, Deployment(cost, LIVE)) for policy in policies], 3)
    row("200-policy sweep, one core", seconds, "s", "≤ 6 s", f"{tokens / 1e6:.1f} M tokens each")
    speed = tokens / median_s(lambda: simulate(load, four, Deployment(cost, LIVE)), 3)
    row("a user's vectorised policy, asked every step", speed / 1e6, "M tokens/s", "≥ 10 M", "")

    shared = Path(os.environ.get("ROLLOUTSIM_DATA", ROOT.parent / "shared")) / "rollouts/llama3b_rl_math.parquet"
    trace = read(shared if shared.exists() else ROOT / "traces/data/demo.parquet")
    step = trace.steps[-1]
    rows = np.flatnonzero(trace.step == step)
    for match in ("longest", "scored"):
        drafter = Suffix(match=match, siblings="live")  # type: ignore[arg-type]
        past = past_rows(trace, step, drafter.window)
        columns = (column[rows].astype(np.int64) for column in (trace.prompt, trace.sample, trace.prompt_tokens))
        lengths = trace.output_tokens[rows].astype(np.int64)
        siblings = SiblingIndex(drafter, trace, rows, drafter.learn(trace, past))
        live = Workload(*columns, lengths, drafter.accept(trace, rows, past), siblings)
        steps = int(simulate(live, by_live([8]), Deployment(cost, LIVE)).rollouts["steps"].sum())
        seconds = median_s(lambda w=live: simulate(w, by_live([8]), Deployment(cost, LIVE)), 3)  # type: ignore[misc]
        target = "≥ 1.2 M" if match == "scored" else ""
        row(
            f"live siblings in the loop, {match}, max 8",
            steps / seconds / 1e6,
            "M sequence-steps/s",
            target,
            "one thread",
        )
