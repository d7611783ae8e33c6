"""What one RL step asks of the engine: rollouts in queue order, and what would be accepted of their drafts."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from simulator.budgets.view import Requests
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.live import Classroom

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Workload:
    """The n rollouts of an RL step in queue order; arrays are int64[n].

    prompt: index of the prompt in the trace; sample: index in the group; prompt_tokens, output_tokens: lengths
    (output_tokens >= 1); acceptance: tables whose offsets are the rollouts' cumulative lengths; classroom: drafts in the
    engine's loop instead, where they depend on what siblings emitted meanwhile.
    """

    prompt: Int64
    sample: Int64
    prompt_tokens: Int64
    output_tokens: Int64
    acceptance: Acceptance
    classroom: Classroom | None = None

    def __post_init__(self) -> None:
        """Assert that lengths and acceptance describe the same rollouts."""
        assert (np.diff(self.acceptance.offsets) == self.output_tokens).all()
        assert (self.output_tokens >= 1).all()

    @cached_property
    def requests(self) -> Requests:
        """What a policy may know of the rollouts."""
        return Requests(self.prompt, self.sample, self.prompt_tokens)

    def __len__(self) -> int:
        """Return the number of rollouts."""
        return self.prompt.size
