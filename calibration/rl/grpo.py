"""GRPO: raise what did better than its group, lower what did worse, no further than a clipped ratio allows.

Shao et al. 2024 (arXiv:2402.03300), with the loss averaged over tokens as in Yu et al. 2025 (DAPO, arXiv:2503.14476) and no
KL term: rewards are verified, and the run is short.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calibration.rl.batches import Sequences, response_logprobs
from calibration.rl.policy import Shape, Weights
from calibration.rl.workers import each, set_gradients

LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Experience:
    """The rollouts of an RL step: their tokens, the log-probabilities they were sampled with, and their advantages.

    sampled: for each rollout float32[response tokens], nats. advantages: float32[rollouts].
    """

    sequences: Sequences
    sampled: list[npt.NDArray[np.float32]]
    advantages: npt.NDArray[np.float32]


def advantages_of(rewards: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """How many standard deviations of its group each reward lies above the group's mean; float32[groups, samples].

    A group whose rewards are all alike says nothing: its advantages are 0.
    """
    above = rewards - rewards.mean(axis=1, keepdims=True)
    spread = rewards.std(axis=1, keepdims=True)
    found: npt.NDArray[np.float32] = np.divide(above, spread, out=np.zeros_like(above), where=spread > 0)
    return found


def surrogate(logprobs: Tensor, sampled: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """The clipped objective of each token, to be made large: min(r A, clamp(r, 1 - clip, 1 + clip) A), r = new / sampled."""
    ratio = (logprobs - sampled).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def improve(
    weights: Weights,
    shape: Shape,
    optimiser: torch.optim.Optimizer,
    experience: Experience,
    chosen: npt.NDArray[np.int64],
    clip: float,
    threads: int,
    device: str,
) -> None:
    """One gradient step in place on the chosen rollouts; those without an advantage are left out, having no gradient."""
    telling = [int(i) for i in chosen if experience.advantages[i]]
    if not telling:
        return
    total = sum(len(experience.sequences.responses[i]) for i in telling)
    losses = [
        partial(_loss, weights, shape, experience, rows, total, clip, device)
        for rows in experience.sequences.batches(telling)
    ]
    set_gradients(weights, losses, threads)
    torch.nn.utils.clip_grad_norm_(list(weights.values()), LARGEST_GRADIENT)
    optimiser.step()


def _loss(
    weights: Weights, shape: Shape, experience: Experience, rows: list[int], total: int, clip: float, device: str
) -> Tensor:
    sequences = experience.sequences
    lengths = [len(sequences.responses[i]) for i in rows]
    advantages = torch.from_numpy(np.repeat(experience.advantages[rows], lengths)).to(device)
    sampled = torch.from_numpy(np.concatenate([experience.sampled[i] for i in rows])).to(device)
    logprobs = response_logprobs(weights, shape, *sequences.padded(rows, device))
    return -surrogate(logprobs, sampled, advantages, clip).sum() / total


def logprobs_of(
    weights: Weights, shape: Shape, sequences: Sequences, threads: int, device: str
) -> list[npt.NDArray[np.float32]]:
    """Log-probabilities of every response's tokens under these weights: for each float32[response tokens], nats."""

    def flat(rows: list[int]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            logprobs = response_logprobs(weights, shape, *sequences.padded(rows, device))
            return np.asarray(logprobs.cpu().numpy(), np.float32)

    found: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(sequences)
    batches = list(sequences.batches())
    for rows, values in zip(batches, each(flat, batches, threads), strict=True):
        cuts = np.cumsum([len(sequences.responses[i]) for i in rows])[:-1]
        for i, part in zip(rows, np.split(values, cuts), strict=True):
            found[i] = part
    return found
