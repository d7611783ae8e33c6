"""Longest first: rollouts that are expected to be long start before the others (list scheduling in LPT order)."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.scheduling.placement import Decision, Event, Kind, Place, View
from simulator.spec import refuse

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LongestFirst:
    """One queue for all replicas, in order of expected length, longest first; ties in queue order.

    expected_tokens: float64[prompts], of a rollout of each prompt; empty where nothing is known.
    """

    expected_tokens: Float64
    name = "longest_first"
    events: frozenset[Kind] = frozenset({"start", "arrival"})

    def __call__(self, event: Event, view: View) -> Iterable[Decision]:
        """Let them join the common queue, longest first."""
        if not self.expected_tokens.size:
            return (Place(event.rollouts),)
        expected = self.expected_tokens[view.requests.prompt[event.rollouts]]
        return (Place(event.rollouts[np.argsort(-expected, kind="stable")]),)


def longest_first(argument: str, context: Context | None) -> LongestFirst:
    """One queue in order of the mean length of each prompt's earlier rollouts; prompts without any come first."""
    if argument:
        refuse("longest_first", argument, "takes no settings", "placement")
    return LongestFirst(np.empty(0) if context is None else mean_lengths(context))


def mean_lengths(context: Context) -> Float64:
    """Mean length of each prompt's rollouts in the history; of one without any the longest there is. float64[prompts]."""
    counts = np.bincount(context.prompt, minlength=context.n_prompts)
    sums = np.bincount(context.prompt, context.output_tokens, context.n_prompts)
    most = float(context.output_tokens.max(initial=0))
    return np.where(counts > 0, sums / np.maximum(counts, 1), most)
