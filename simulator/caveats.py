"""What a reader of a result must know before believing it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from simulator.cost.model import Profile
from simulator.drafting.drafter import Drafter
from simulator.engine.fields import LOG_COLUMNS
from simulator.engine.serving import Serving
from simulator.summary import Episode
from traces.trace import Trace

MEASURED = ("live", "query_tokens", "kv_tokens", "prefill_tokens", "prefill_seqs", "padded_tokens", "longest_context")
"""Columns of the step log that are features of the cost model."""


def caveats(
    runs: Sequence[dict[str, Any]],
    episodes: Sequence[Episode],
    trace: Trace,
    steps: Sequence[int],
    cost: Profile,
    drafter: Drafter,
    serving: Serving,
) -> list[str]:
    """Return one line for each reservation: extrapolated and derived costs, what is not shared, missing history, no drafts."""
    notes = []
    if (most := max(run["extrapolated_fraction"] for run in runs)) > 0:
        notes.append(
            f"up to {most:.0%} of decoding time lies outside the valid range of profile {cost.name}, so extrapolated: "
            + "; ".join(_beyond(episodes, cost))
        )
    if steps[0] == trace.steps[0]:
        notes.append(f"RL step {steps[0]} has no recorded step before it: no history to draft or to predict from")
    notes += _derived(episodes, cost)
    if "block_hashes" in trace.table.column_names and not serving.enable_prefix_caching:
        notes.append("prefix caching is off: equal block_hashes share nothing; set engine.enable_prefix_caching")
    if "siblings" in drafter.learns_from:
        notes.append("acceptance by position is that of the frozen history: live drafts depend on when they are made")
    idle = [run["policy"] for run in runs if run["policy"] != "none" and run["drafted_tokens"] == 0]
    if idle:
        notes.append(f"nothing was drafted under {', '.join(idle)}: the drafter had nothing to propose, or no budget")
    return notes


def _derived(episodes: Sequence[Episode], cost: Profile) -> list[str]:
    """A line if any step leaned on costs that were derived and not measured."""
    spans = _spans(episodes)
    beyond = {name: most for name, most in cost.derived.items() if spans.get(name, (0.0, 0.0))[1] > most}
    told = ", ".join(f"{name} up to {spans[name][1]:.3g} (measured up to {most:g})" for name, most in beyond.items())
    return [f"derived, not measured: {told}: {cost.derivation}"] if beyond else []


def _beyond(episodes: Sequence[Episode], cost: Profile) -> list[str]:
    """Each feature whose span over the decode steps leaves the valid range, with both."""
    told = []
    for name, (low, high) in _spans(episodes).items():
        least, most = cost.valid_range.get(name, (-np.inf, np.inf))
        if low < least or high > most:
            told.append(f"{name} {low:,.0f} to {high:,.0f}, valid {least:,.0f} to {most:,.0f}")
    return told


def _spans(episodes: Sequence[Episode]) -> dict[str, tuple[float, float]]:
    """Least and largest of each feature that the step logs tell."""
    logs = [log for episode in episodes for log in episode.outcome.logs if len(log)]
    spans: dict[str, tuple[float, float]] = {}
    for log in logs:
        columns = {name: log[:, LOG_COLUMNS.index(name)] for name in MEASURED}
        live, query, chunks = columns["live"], columns["query_tokens"], columns["prefill_seqs"]
        columns["context_tokens"] = columns["kv_tokens"] / live
        columns["query_per_seq"] = query / live
        columns["decode_seqs"] = live - chunks
        columns["decode_width"] = (query - columns["prefill_tokens"]) / np.maximum(live - chunks, 1)
        columns["prefill_chunk"] = columns["prefill_tokens"] / np.maximum(chunks, 1)
        columns["sampled_tokens"] = query - columns["prefill_tokens"] + chunks
        for name, values in columns.items():
            low, high = spans.get(name, (np.inf, -np.inf))
            spans[name] = (min(low, float(values.min())), max(high, float(values.max())))
    return spans
