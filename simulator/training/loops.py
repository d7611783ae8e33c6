"""The built-in loops. Each ends every RL step with as many groups as the trace's has."""

from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt

from simulator.training.loop import LoopView

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Whole:
    """An RL step's rollouts all at once, and all of them: `sync` (lag 0) and `one_step_async` (lag 1)."""

    lag: int = 0
    interrupts = False


@dataclass(frozen=True)
class Pacing:
    """The same, but no replica waits for another: each goes on to the next RL step when it is through with this one (RhymeRL's
    HistoPipe, 2508.18588). With lag 0 it is `sync`, for all wait for the update.
    """  # fmt: skip

    lag: int = 1
    interrupts = False
    own_pace = True


@dataclass(frozen=True)
class Pipelined:
    """As `Whole`, but training takes an RL step's groups in mini-batches as they finish (StreamRL, 2504.15930).

    A mini-batch has `groups` groups, or, with 0, an RL step has nearly equal ones in the number of `minibatches`.
    """

    lag: int = 0
    groups: int = 0
    minibatches: int = 1
    interrupts = False

    def minibatch(self, groups: int) -> int:
        """As many as asked for, or a share, rounded up."""
        return self.groups or -(-groups // self.minibatches)


@dataclass(frozen=True)
class Partial:
    """So many rollouts in flight, until enough groups are whole; the rest goes on in the next RL step (CoPRIS, 2511.05589).

    Those with tokens go on first, then those that had none yet, then new ones. The groups that finished first are trained on;
    those that did besides count for the next RL step. rollouts: in flight; or share: in flight over the rollouts of an RL step.
    prompts: drawn for an RL step over those it trains on. scores_outputs: log-probs of what each RL step put out.
    """

    rollouts: int = 0
    share: float = 0.0
    prompts: float = inf
    scores_outputs: bool = False
    lag = 0
    interrupts = False

    def offer(self, view: LoopView) -> int:
        """Fill up what is in flight."""
        most = self.rollouts or max(round(self.share * view.rollouts), 1)
        return min(most - view.in_flight, view.due)

    def enough(self, view: LoopView) -> bool:
        """With as many groups as are needed."""
        return view.complete >= view.needed


@dataclass(frozen=True)
class Refill:
    """Groups that are all right or all wrong teach nothing: they are dropped, and others begin instead (BroRL, 2510.01180)."""

    lag = 0
    interrupts = False
    acts_on_groups = True

    def offer(self, view: LoopView) -> int:
        """As many groups as are missing."""
        return int(view.next_groups[: max(view.needed - view.complete - view.begun, 0)].sum())

    def enough(self, view: LoopView) -> bool:
        """With as many groups as are needed, or with all that there are."""
        return view.complete >= view.needed or (view.in_flight == 0 and view.fresh == 0 and view.begun == 0)

    def keep(self, rewards: Float64) -> bool:
        """Unless all rewards are the same."""
        return bool((rewards != rewards[0]).any())


@dataclass(frozen=True)
class Streaming:
    """Generation never waits: so many rollouts in flight, up to `lag` RL steps ahead; training takes groups as they complete.

    New weights are taken up as soon as they are there: what is in flight goes on under them, its KV computed again.
    """

    rollouts: int
    lag: int = 1
    interrupts = True

    def offer(self, view: LoopView) -> int:
        """Fill up what is in flight, as far as the lag allows."""
        return min(self.rollouts - view.in_flight, view.due)

    def enough(self, view: LoopView) -> bool:
        """Never: an update ends the phase."""
        return False
