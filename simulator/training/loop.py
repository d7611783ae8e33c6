"""The interface of a loop: which rollouts make an RL step, and when it is over."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LoopView:
    """What a loop knows when rollouts have finished, or an RL step begins.

    step: RL steps before this one; needed: groups that this one trains on; complete: groups of which every rollout has finished
    (and has its rewards, and is kept, for a loop that judges) and that no RL step trained on; begun: groups that have rollouts
    submitted and are not complete; in_flight: rollouts submitted and not finished; due: rollouts not in flight of the RL steps
    that the loop's `lag` allows, or of the prompts that it `Draws`, those carried over included; fresh: all rollouts not in
    flight; next_groups: int64[], sizes of the groups that have not begun, in order; rollouts: of this RL step in the trace.
    """

    step: int
    needed: int
    complete: int
    begun: int
    in_flight: int
    due: int
    fresh: int
    next_groups: Int64
    rollouts: int = 0


class Loop(Protocol):
    """When rollouts are generated and trained on.

    lag: updates that the weights behind a new RL step's rollouts may lack: 0 waits for the last one, 1 generates while the
    step before is trained on. interrupts: whether new weights are taken up at once, in the middle of rollouts. One that is no
    more than this takes every RL step's rollouts whole. `Watches` decides itself, `Judges` drops groups.
    """

    @property
    def lag(self) -> int:
        """Updates."""

    @property
    def interrupts(self) -> bool:
        """Whether an update ends what is under way."""


@runtime_checkable
class Watches(Protocol):
    """A loop that looks at what finishes, and submits rollouts or ends the RL step. What is in flight then is carried over."""

    def offer(self, view: LoopView) -> int:
        """Return how many more rollouts to submit: those carried over first, then new ones in the trace's order."""

    def enough(self, view: LoopView) -> bool:
        """Return whether the RL step's rollouts are there."""


@runtime_checkable
class OwnPace(Protocol):
    """A loop under which each replica begins the next RL step's rollouts when it has no more of this one's, within the lag.

    RL steps are generated whole. It goes with placements that give each replica a part of its own: a `View` does not show what a
    replica still does of the RL step before, so rollouts placed on it wait until it is through with that.
    """

    own_pace: bool


@runtime_checkable
class ActsOnGroups(Protocol):
    """A loop that watches and has nothing to decide before another group is whole, or judged: it is asked then alone."""

    acts_on_groups: bool


@runtime_checkable
class Judges(Protocol):
    """A loop that drops groups that teach nothing, once their rewards are known."""

    def keep(self, rewards: Float64) -> bool:
        """Return whether to train on a group with these rewards; float64[samples]."""


@runtime_checkable
class Draws(Protocol):
    """A loop that draws prompts into its queue as each RL step begins, and not all that the trace has at once.

    prompts: those drawn over those that the RL step trains on, 1 or more; what is not submitted waits for the next.
    """

    prompts: float


@runtime_checkable
class ScoresOutputs(Protocol):
    """A loop that trains on tokens of several policies, each with its log-probs under the one that sampled it.

    scores_outputs: whether so. Then what `Scores` (`training.stage`) works on what an RL step's generation put out, finished or
    stopped, in place of the batch. Not for one that an update interrupts.
    """

    scores_outputs: bool


@runtime_checkable
class Pipelines(Protocol):
    """A loop whose trainer takes an RL step's groups in mini-batches as they finish, while others are still generated.

    The trainer has GPUs of its own. The update is done, and the version goes up, with the last mini-batch. Not for one that
    `Watches`.
    """

    def minibatch(self, groups: int) -> int:
        """Return how many groups make a mini-batch, of an RL step that has so many; the last one may be smaller."""
