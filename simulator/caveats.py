"""What a reader of a result must know before believing it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from simulator.cost.model import Profile
from simulator.drafting.drafter import Drafter
from simulator.engine.kernel import LOG_COLUMNS
from simulator.summary import Episode
from traces.trace import Trace

UNMODELLED = {
    "arrival_s": "all rollouts of an RL step are there at its start",
    "turns": "a rollout generates without waiting for tools",
    "block_hashes": "no prefix is shared",
}


def caveats(
    runs: Sequence[dict[str, Any]],
    episodes: Sequence[Episode],
    trace: Trace,
    steps: Sequence[int],
    cost: Profile,
    drafter: Drafter,
) -> list[str]:
    """Return one line for each reservation: extrapolated costs, columns not modelled, missing history, no drafts."""
    notes = []
    if (most := max(run["extrapolated_fraction"] for run in runs)) > 0:
        notes.append(
            f"up to {most:.0%} of decoding time lies outside the valid range of profile {cost.name}, so extrapolated: "
            + "; ".join(_beyond(episodes, cost))
        )
    if steps[0] == trace.steps[0]:
        notes.append(f"RL step {steps[0]} has no recorded step before it: no history to draft or to predict from")
    for column, instead in UNMODELLED.items():
        if column in trace.table.column_names and trace.table.column(column).null_count < len(trace):
            notes.append(f"column {column} is not modelled: {instead}")
    if "siblings" in drafter.learns_from:
        notes.append("acceptance by position is that of the frozen history: live drafts depend on when they are made")
    idle = [run["policy"] for run in runs if run["policy"] != "none" and run["drafted_tokens"] == 0]
    if idle:
        notes.append(f"nothing was drafted under {', '.join(idle)}: the drafter had nothing to propose, or no budget")
    return notes


def _beyond(episodes: Sequence[Episode], cost: Profile) -> list[str]:
    """Each feature whose span over the decode steps leaves the valid range, with both."""
    logs = [log for episode in episodes for log in episode.outcome.logs if len(log)]
    spans: dict[str, tuple[float, float]] = {}
    for log in logs:
        columns = {
            name: log[:, LOG_COLUMNS.index(name)] for name in ("live", "query_tokens", "kv_tokens", "prefill_tokens")
        }
        columns["context_tokens"] = columns["kv_tokens"] / columns["live"]
        columns["query_per_seq"] = columns["query_tokens"] / columns["live"]
        for name, values in columns.items():
            low, high = spans.get(name, (np.inf, -np.inf))
            spans[name] = (min(low, float(values.min())), max(high, float(values.max())))
    told = []
    for name, (low, high) in spans.items():
        least, most = cost.valid_range.get(name, (-np.inf, np.inf))
        if low < least or high > most:
            told.append(f"{name} {low:,.0f} to {high:,.0f}, valid {least:,.0f} to {most:,.0f}")
    return told
