"""How acceptance grows with the number of siblings that are known (the table of Seer, arXiv 2511.14617, by references)."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.drafting.acceptance import AcceptanceCounts, count_at
from simulator.drafting.alone import chosen_steps
from simulator.drafting.drafter import Counting, Drafter, accepted
from simulator.drafting.hybrid import Hybrid
from simulator.drafting.last import Last
from simulator.drafting.suffix import Suffix
from simulator.progress import each
from traces.errors import InputError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]


def acceptance_by_references(
    trace: Trace,
    drafter: Drafter,
    budget: int,
    references: Sequence[int],
    steps: list[int] | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Replay rollouts alone from n whole siblings of the same RL step in place of a history, and return counts for each n.

    The siblings are the n after a rollout by sample number, in a circle, so that every rollout serves as often as any other.
    Only rollouts of groups with more than the largest n count: all rows are of the same rollouts. With 0 a rollout has its own
    prompt and output alone. samples: replay only the first so many samples of each group; siblings may be any.

    Raises InputError for a drafter that learns nothing from its group, and where no group is large enough.
    """
    if not _learns_from_siblings(drafter):
        raise InputError(
            f"drafter {drafter.describe()}: learns nothing from siblings alone: use suffix with scope problem"
        )
    groups = [one for step in chosen_steps(trace, steps) for one in _groups(trace, step, max(references) + 1)]
    if not groups:
        raise InputError(
            f"{trace.source}: no group has more than {max(references)} rollouts: give fewer --references, or other --steps"
        )
    most = max(one.size for one in groups)
    rounds = [(n, turn) for n in references for turn in range(most if samples is None else min(samples, most))]
    counts = {n: AcceptanceCounts(0, 0, 0, 0, 0) for n in references}
    for n, turn in each(rounds, "rounds of siblings"):
        asked = [one for one in groups if turn < one.size]
        rows = np.array([one[turn] for one in asked])
        past = np.concatenate([np.take(one, np.arange(turn + 1, turn + 1 + n), mode="wrap") for one in asked])
        counts[n] = _added(counts[n], _counted(trace, drafter, rows, past, budget, seed))
    return [{"references": n, **asdict(found), "mean_acceptance_length": found.mean_acceptance_length,
             "draft_acceptance_rate": found.draft_acceptance_rate} for n, found in counts.items()]  # fmt: skip


def _learns_from_siblings(drafter: Drafter) -> bool:
    suffix = drafter.suffix if isinstance(drafter, Hybrid) else drafter
    if isinstance(suffix, Suffix):
        return suffix.scope == "problem"
    return "history" in drafter.learns_from and not isinstance(drafter, Last)


def _counted(trace: Trace, drafter: Drafter, rows: Int64, past: Int64, budget: int, seed: int) -> AcceptanceCounts:
    if isinstance(drafter, Counting):
        return drafter.counted(trace, rows, past, budget)
    return count_at(accepted(drafter, trace, rows, past, seed), budget)


def _groups(trace: Trace, step: int, least: int) -> list[Int64]:
    """Rows of each group of the RL step that has at least so many rollouts, by sample number."""
    rows = np.flatnonzero(trace.step == step)
    rows = rows[np.lexsort((trace.sample[rows], trace.prompt[rows]))]
    groups = np.split(rows, np.flatnonzero(np.diff(trace.prompt[rows])) + 1)
    return [one for one in groups if one.size >= least]


def _added(one: AcceptanceCounts, other: AcceptanceCounts) -> AcceptanceCounts:
    return AcceptanceCounts(*(getattr(one, field.name) + getattr(other, field.name) for field in fields(one)))
