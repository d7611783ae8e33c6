"""What a budget policy may see of a live batch: what a deployed engine knows, so nothing about the future."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BatchView:
    """One replica's live batch at the start of a decode step; arrays are int64[live], in order of admission, read-only.

    time_s: the replica's clock; max_num_seqs: slots; waiting: rollouts in the replica's own queue (a
    queue shared with others is not counted). prompt: index of the
    prompt, the same for all samples of a group and in the history; sample: index within the group; prompt_tokens,
    emitted_tokens: lengths so far (0 emitted: this step is the prefill, which drafts nothing); decode_steps,
    drafted_tokens, accepted_tokens: of each rollout until now; budget: the budget it had in the last step.
    """

    time_s: float
    max_num_seqs: int
    waiting: int
    prompt: Int64
    sample: Int64
    prompt_tokens: Int64
    emitted_tokens: Int64
    decode_steps: Int64
    drafted_tokens: Int64
    accepted_tokens: Int64
    budget: Int64

    @property
    def live(self) -> int:
        """Sequences in the batch."""
        return int(self.prompt.size)
