"""Sequences of many lengths as batches with little padding, and the log-probabilities of their responses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from calibration.rl.policy import Shape, Weights, logits
from calibration.rl.vocabulary import ID, PAD

BATCH_TOKENS = 4096  # with padding; larger batches are no faster on a CPU


@dataclass(frozen=True)
class Sequences:
    """Prompts with their responses, as token ids."""

    prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.prompts)

    def batches(self, chosen: Sequence[int] | None = None, most: int = BATCH_TOKENS) -> Iterator[list[int]]:
        """The chosen indices by length, longest first, cut so that a padded batch holds at most so many tokens."""
        lengths = [len(p) + len(r) for p, r in zip(self.prompts, self.responses, strict=True)]
        order = sorted(range(len(self)) if chosen is None else chosen, key=lambda i: (-lengths[i], i))
        while order:
            size = max(most // lengths[order[0]], 1)
            yield order[:size]
            order = order[size:]

    def padded(self, rows: Sequence[int], device: str) -> tuple[Tensor, Tensor]:
        """Token ids of these rows, int64[rows, longest], and which of all but the first are response, bool[rows, longest - 1]."""
        longest = max(len(self.prompts[i]) + len(self.responses[i]) for i in rows)
        tokens = torch.full((len(rows), longest), ID[PAD])
        responds = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, i in enumerate(rows):
            start, end = len(self.prompts[i]), len(self.prompts[i]) + len(self.responses[i])
            tokens[row, :start] = torch.as_tensor(self.prompts[i])
            tokens[row, start:end] = torch.as_tensor(self.responses[i])
            responds[row, start:end] = True
        return tokens.to(device), responds[:, 1:].to(device)


def response_logprobs(weights: Weights, shape: Shape, tokens: Tensor, responds: Tensor) -> Tensor:
    """Log-probability of every response token given those before it, row by row: float32[number of them]."""
    found = logits(weights, shape, tokens[:, :-1])[responds].log_softmax(-1)
    return found.gather(1, tokens[:, 1:][responds][:, None])[:, 0]
