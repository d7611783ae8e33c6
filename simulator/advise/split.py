"""Two parts of a trace: one to choose on, one to judge on, so that no gain is told of rollouts that the choice was made for."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa

from simulator.draft_cache import DraftCache
from simulator.drafting.alone import chosen_steps
from traces.errors import InputError
from traces.trace import Trace

MOST_SEARCHED = 4
"""RL steps to choose on, the last ones before those that judge: earlier ones have less history."""
MOST_JUDGED = 6
"""RL steps that judge, evenly spread over the later half."""
COPIES = 2


@dataclass(frozen=True, eq=False)
class Part:
    """RL steps to play. copies: how often each prompt is among them, so that half of the prompts make a whole batch."""

    trace: Trace
    steps: list[int]
    copies: int = 1

    @cached_property
    def drafts(self) -> DraftCache:
        """Drafts for it, from run to run."""
        return DraftCache([self.trace])


@dataclass(frozen=True, eq=False)
class Split:
    """What is chosen on and what judges; by: what tells them apart."""

    searched: Part
    judged: Part
    by: Literal["RL steps", "prompts"]


def split(trace: Trace, steps: list[int] | None = None) -> Split:
    """Of several RL steps the later half judges, of one its earlier ones are searched, of the first one half of the prompts.

    History stays what it is in a replay: all recorded RL steps before. Raises InputError where there is one prompt.
    """
    chosen = chosen_steps(trace, steps)
    before = [step for step in trace.steps if step < chosen[0]]
    if len(chosen) == 1 and not before:
        return _by_prompts(trace, chosen)
    half = len(chosen) // 2
    searched, judged = (chosen[:half], chosen[half:]) if half else (before, chosen)
    return Split(Part(trace, searched[-MOST_SEARCHED:]), Part(trace, _spread(judged)), "RL steps")


def _spread(steps: list[int]) -> list[int]:
    some = np.linspace(0, len(steps) - 1, min(len(steps), MOST_JUDGED)).round().astype(int)
    return [steps[i] for i in some.tolist()]


def _by_prompts(trace: Trace, steps: list[int]) -> Split:
    rows = np.flatnonzero(trace.step == steps[0])
    prompts, order = np.unique(trace.prompt[rows], return_inverse=True)
    if prompts.size < 2:
        raise InputError(
            f"{trace.source}: RL step {steps[0]} has one prompt and none before it: there is nothing to judge a choice on; "
            "record more prompts, or another RL step"
        )
    searched, judged = (_twice(trace, rows[order % 2 == odd], steps) for odd in (0, 1))
    return Split(searched, judged, "prompts")


def _twice(trace: Trace, rows: "np.ndarray[tuple[int], np.dtype[np.int64]]", steps: list[int]) -> Part:
    """These rollouts and a copy of each under a prompt of its own, so that neither drafts from the other."""
    part = trace.select(np.repeat(rows, COPIES))
    names = part.table.column("prompt_id").to_pylist()
    told = pa.array([f"{number % COPIES} {name}" for number, name in enumerate(names)], pa.string())
    at = part.table.column_names.index("prompt_id")
    return Part(Trace(part.table.set_column(at, "prompt_id", told), trace.source, trace.sha256), steps, COPIES)
