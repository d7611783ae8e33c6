"""What a trace holds: sizes, response lengths, censoring, the tail and where the spread of lengths comes from."""

import difflib
from typing import Any

import numpy as np
import numpy.typing as npt

from traces import io
from traces.schema import FINISH_REASONS, SCHEMA, columns
from traces.trace import Trace

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99}


def describe(trace: Trace) -> dict[str, Any]:
    """Figures of a trace as plain numbers, strings, lists and dicts (JSON-ready); lengths in tokens.

    `tail_share` and `between_prompt_share` are explained at the functions of those names. Shares are of 1; what cannot
    be known is None.
    """
    group = _groups(trace)
    return {
        "source": trace.source,
        "sha256": trace.sha256,
        "rollouts": len(trace),
        "prompts": len(trace.prompt_ids),
        "groups": int(group.max()) + 1,
        "steps": len(trace.steps),
        "prompt_tokens": int(trace.prompt_tokens.sum(dtype=np.int64)),
        "output_tokens": int(trace.output_tokens.sum(dtype=np.int64)),
        "has_token_ids": trace.has_tokens,
        "length_tokens": _lengths(trace.output_tokens),
        "finish_reasons": _finish_reasons(trace),
        "censored_share": _censored_share(trace),
        "tail_share": _tail_share_of_steps(trace),
        "between_prompt_share": between_prompt_share(trace.output_tokens, group, trace.step),
        "per_step": [_step(trace, step) for step in trace.steps],
        "columns": [entry for entry in columns() if entry["column"] in trace.table.column_names],
        "other_columns": [name for name in trace.table.column_names if name not in SCHEMA.names],
        "hints": _hints(trace),
        "provenance": io.provenance(trace.table),
    }


def tail_share(lengths: npt.NDArray[np.int32]) -> float:
    """Share of the shortest possible makespan during which fewer than a tenth of the rollouts are live.

    With all n rollouts started together and unit decode steps the makespan is l_max; live rollouts fall below n/10 at
    q, the ceil(n/10)-th longest length; the share is (l_max - q) / l_max.
    """
    tenth = (len(lengths) + 9) // 10
    longest = int(lengths.max())
    return (longest - int(np.sort(lengths)[-tenth])) / longest


def between_prompt_share(
    lengths: npt.NDArray[np.int32], group: npt.NDArray[np.int64], step: npt.NDArray[np.int32]
) -> float | None:
    """Share of the variance of lengths within a step that lies between its prompts; the rest is within prompts.

    The intraclass correlation from one-way analysis of variance of groups nested in steps, unbiased for small and
    unequal groups (Searle 1971, n0 weighting), cut to [0, 1]. None where groups have one rollout, or steps one group.
    """
    sizes = np.bincount(group)
    step_of_group = np.zeros(len(sizes), dtype=np.int64)
    step_of_group[group] = np.unique(step, return_inverse=True)[1]
    step_sizes = np.bincount(step_of_group, weights=sizes)
    between_freedom, within_freedom = len(sizes) - len(step_sizes), len(group) - len(sizes)
    if between_freedom < 1 or within_freedom < 1:
        return None
    values = lengths.astype(np.float64)
    means = np.bincount(group, values) / sizes
    step_means = np.bincount(step_of_group, means * sizes) / step_sizes
    within = float(((values - means[group]) ** 2).sum()) / within_freedom
    between = float((sizes * (means - step_means[step_of_group]) ** 2).sum()) / between_freedom
    typical_size = (len(group) - float((sizes**2 / step_sizes[step_of_group]).sum())) / between_freedom
    component = max(0.0, (between - within) / typical_size)
    return component / (component + within) if component + within > 0 else None


def _groups(trace: Trace) -> npt.NDArray[np.int64]:
    """Group (prompt within step) of each rollout, 0 .. groups - 1."""
    key = trace.step.astype(np.int64) * len(trace.prompt_ids) + trace.prompt
    group: npt.NDArray[np.int64] = np.unique(key, return_inverse=True)[1]
    return group


def _lengths(lengths: npt.NDArray[np.int32]) -> dict[str, float]:
    quantiles = np.quantile(lengths, list(QUANTILES.values()))
    figures = {name: float(value) for name, value in zip(QUANTILES, quantiles, strict=True)}
    return {"mean": float(lengths.mean()), **figures, "max": int(lengths.max())}


def _step(trace: Trace, step: int) -> dict[str, Any]:
    lengths = trace.output_tokens[trace.step == step]
    return {
        "step": step,
        "rollouts": len(lengths),
        "output_tokens": int(lengths.sum(dtype=np.int64)),
        "length_tokens": _lengths(lengths),
        "tail_share": tail_share(lengths),
    }


def _tail_share_of_steps(trace: Trace) -> float:
    """Tail share over all steps one after another: the steps' shares weighted by their longest rollouts."""
    lengths = [trace.output_tokens[trace.step == step] for step in trace.steps]
    return float(np.average([tail_share(part) for part in lengths], weights=[part.max() for part in lengths]))


def _reasons(trace: Trace) -> list[str | None]:
    if "finish_reason" not in trace.table.column_names:
        return [None] * len(trace)
    return [None if reason is None else str(reason) for reason in trace.table.column("finish_reason").to_pylist()]


def _finish_reasons(trace: Trace) -> dict[str, int]:
    reasons = _reasons(trace)
    return {reason: reasons.count(reason) for reason in FINISH_REASONS} | {"unknown": reasons.count(None)}


def _censored_share(trace: Trace) -> float | None:
    """Share that ended by length or was aborted, of the rollouts whose finish_reason is known; None where none is."""
    counts = _finish_reasons(trace)
    known = len(trace) - counts["unknown"]
    return (counts["length"] + counts["aborted"]) / known if known else None


def _hints(trace: Trace) -> list[str]:
    hints = []
    longest = int(trace.output_tokens.max())
    at_cap = np.flatnonzero(trace.output_tokens == longest)
    reasons = _reasons(trace)
    if len(at_cap) > 1 and any(reasons[row] is None for row in at_cap):
        hints.append(
            f"{len(at_cap)} rollouts are exactly {longest} tokens, the maximum, and their finish_reason is unknown: "
            f"probably cut by a length limit"
        )
    for name in trace.table.column_names:
        absent = [column for column in SCHEMA.names if column not in trace.table.column_names]
        near = difflib.get_close_matches(name, absent, n=1, cutoff=0.8)
        if name not in SCHEMA.names and near:
            hints.append(f"column '{name}' is not used: rename it if it is meant to be '{near[0]}'")
    return hints
