"""What a budget policy may see of a live batch: what a deployed engine knows, so nothing about the future."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.records import read_only

Int64 = npt.NDArray[np.int64]


class Seen:
    """What is seen of each live rollout; `engine.state.Slot` has more, which a policy must not see."""

    rollout: int
    position: int
    budget: int
    origin: int
    drafted: int
    since: int


SEEN = tuple(Seen.__annotations__)
ROLLOUT, POSITION, BUDGET, ORIGIN, DRAFTED, SINCE = range(len(SEEN))


@dataclass(frozen=True, eq=False)
class Requests:
    """What was submitted for the RL step, by rollout number; arrays are int64[n].

    prompt: index of the prompt, the same for all samples of a group and in the history; sample: index within the group;
    prompt_tokens: length.
    """

    prompt: Int64
    sample: Int64
    prompt_tokens: Int64

    def __post_init__(self) -> None:
        """Keep policies from writing into what others read."""
        for name in ("prompt", "sample", "prompt_tokens"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


@dataclass(frozen=True, eq=False)
class BatchView:
    """One replica's live batch at the start of a decode step; arrays are int64[live], in order of admission.

    replica: its number; time_s: its clock; max_num_seqs: slots; waiting: rollouts in its own queue (one that is shared
    with others is not counted); steps: decode steps of this replica so far; seen: int64[6, live], a copy of the batch's state,
    read-only; requests: what was submitted for the RL step. The properties say what these mean.
    """

    replica: int
    time_s: float
    max_num_seqs: int
    waiting: int
    steps: int
    seen: Int64
    requests: Requests

    def __post_init__(self) -> None:
        """Keep policies from writing into what others read."""
        self.seen.flags.writeable = False

    @property
    def live(self) -> int:
        """Sequences in the batch."""
        return int(self.seen.shape[1])

    @property
    def rollout(self) -> Int64:
        """Number of each rollout, by which a policy may remember it during the RL step."""
        row: Int64 = self.seen[ROLLOUT]
        return row

    @property
    def prompt(self) -> Int64:
        """Index of the prompt, the same for all samples of a group and in the history."""
        return self.requests.prompt[self.rollout]

    @property
    def sample(self) -> Int64:
        """Index within the group."""
        return self.requests.sample[self.rollout]

    @property
    def prompt_tokens(self) -> Int64:
        """Length of the prompt."""
        return self.requests.prompt_tokens[self.rollout]

    @property
    def context_tokens(self) -> Int64:
        """Prompt and emitted tokens."""
        context: Int64 = self.seen[POSITION] - self.seen[ORIGIN]
        return context

    @property
    def emitted_tokens(self) -> Int64:
        """Tokens emitted so far; 0: this step is the prefill, which drafts nothing."""
        return self.context_tokens - self.prompt_tokens

    @property
    def decode_steps(self) -> Int64:
        """Decode steps that each rollout has been live in."""
        steps: Int64 = self.steps - self.seen[SINCE]
        return steps

    @property
    def drafted_tokens(self) -> Int64:
        """Tokens drafted for each rollout so far."""
        row: Int64 = self.seen[DRAFTED]
        return row

    @property
    def accepted_tokens(self) -> Int64:
        """Drafts accepted of each rollout so far."""
        return self.emitted_tokens - self.decode_steps

    @property
    def budget(self) -> Int64:
        """The budget that each rollout had in the last decode step."""
        row: Int64 = self.seen[BUDGET]
        return row
