"""What is known before an RL step starts, for policies that prepare: earlier rollouts, costs, the engine's settings."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.cost.draft_cost import FREE, DraftCost
from simulator.cost.model import CostModel
from simulator.drafting.measure import DraftCurve as DraftCurve
from simulator.drafting.strategy import Strategy
from simulator.records import read_only

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Context:
    """What an engine knows before an RL step.

    n_prompts: distinct prompts in the trace; prompt, output_tokens: int64[h], prompt index and length of the rollouts in
    the history window, oldest first (h = 0 on a cold start); cost: the cost model; max_num_seqs: slots of a replica that
    the RL step's rollouts can fill; draft_curve: measures the drafter on the history, called only by policies that need
    it, None on a cold start; draft_cost: what drafting adds to a decode step; seed: names the random numbers of a policy
    that draws them; strategies: the trees that are drafted, which budgets name by their tokens to verify (none: chains);
    rl_step: RL steps of the run before this one.
    """

    n_prompts: int
    prompt: Int64
    output_tokens: Int64
    cost: CostModel
    max_num_seqs: int
    draft_curve: Callable[[], DraftCurve | None]
    draft_cost: DraftCost = FREE
    seed: int = 0
    strategies: tuple[Strategy, ...] = ()
    rl_step: int = 0

    def __post_init__(self) -> None:
        """Keep policies from writing into what others read."""
        for name in ("prompt", "output_tokens"):
            object.__setattr__(self, name, read_only(getattr(self, name)))
