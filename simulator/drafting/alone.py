"""A drafter on its own: what it proposes and what of it is accepted, RL step by RL step, without any cost."""

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.drafting.acceptance import count_at
from simulator.drafting.drafter import Counting, Drafter, accepted, past_rows
from traces.errors import InputError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]


def acceptance_by_step(
    trace: Trace,
    drafter: Drafter,
    budget: int,
    steps: list[int] | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Replay rollouts alone with a constant budget and return the counts of each RL step.

    samples: replay only the first so many samples of each prompt, in sample order; the history stays whole.
    """
    found = []
    for step in chosen_steps(trace, steps):
        rows = np.flatnonzero(trace.step == step)
        if samples is not None:
            rows = rows[_rank_in_group(trace.prompt[rows], trace.sample[rows]) < samples]
        past = past_rows(trace, step, drafter.window)
        if isinstance(drafter, Counting):
            counts = drafter.counted(trace, rows, past, budget)
        else:
            counts = count_at(accepted(drafter, trace, rows, past, seed), budget)
        found.append({"step": step, **asdict(counts), "mean_acceptance_length": counts.mean_acceptance_length,
                      "draft_acceptance_rate": counts.draft_acceptance_rate})  # fmt: skip
    return found


def chosen_steps(trace: Trace, steps: list[int] | None) -> list[int]:
    """Return the RL steps asked for, ascending, or all of them; InputError for one that was not recorded."""
    if steps is None:
        return trace.steps
    if missing := sorted(set(steps) - set(trace.steps)):
        known = ", ".join(map(str, trace.steps[:8])) + (", ..." if len(trace.steps) > 8 else "")
        raise InputError(f"{trace.source}: has no RL step {missing[0]}: choose from {known}")
    return sorted(set(steps))


def _rank_in_group(prompt: npt.NDArray[np.int32], sample: npt.NDArray[np.int32]) -> Int64:
    """Return how many samples of the same prompt come before each rollout, by sample number."""
    order = np.lexsort((sample, prompt))
    starts = np.flatnonzero(np.diff(prompt[order], prepend=-1))
    rank = np.empty(prompt.size, np.int64)
    rank[order] = np.arange(prompt.size) - np.repeat(starts, np.diff(starts, append=prompt.size))
    return rank
