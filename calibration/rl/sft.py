"""Teach fresh weights to write searches: supervised learning on random problems, before any RL."""

import math
from collections.abc import Collection
from functools import partial

import numpy as np
import torch
from torch import Tensor

from calibration.rl.batches import Sequences, response_logprobs
from calibration.rl.countdown import Problem, draw
from calibration.rl.keyed import keyed
from calibration.rl.policy import Shape, Weights
from calibration.rl.search import write
from calibration.rl.vocabulary import encode, prompt_of
from calibration.rl.workers import set_gradients

SEARCHES = 64  # of an SFT step; they are learnt from in several small batches of like lengths
BATCH_TOKENS = 2048  # small, because for tokens seen, many small gradient steps teach more than few large ones
LEARNING_RATE, WARM_UP_STEPS = 2e-3, 10
LARGEST_GRADIENT = 1.0


def lesson(seed: int, step: int, max_tokens: int, held_out: Collection[Problem] = ()) -> Sequences:
    """The searches of an SFT step, each of a problem of its own that is not held out, cut at `max_tokens`."""
    prompts, responses = [], []
    for which in range(SEARCHES):
        random = keyed(seed, "lesson", step, which)
        while (problem := draw(random)) in held_out:
            pass
        prompts.append(encode(prompt_of(problem)))
        responses.append(encode(write(problem, random, max_tokens)))
    return Sequences(prompts, responses)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth."""
    done = max(step - WARM_UP_STEPS, 0) / max(steps - WARM_UP_STEPS, 1)
    return LEARNING_RATE * min((step + 1) / WARM_UP_STEPS, 0.525 + 0.475 * math.cos(math.pi * done))


def teach(
    weights: Weights,
    shape: Shape,
    optimiser: torch.optim.Optimizer,
    sequences: Sequences,
    order: np.random.Generator,
    threads: int,
    device: str,
) -> float:
    """One SFT step in place, its batches in random order; returns the mean cross-entropy of a response token (nats)."""
    loss = 0.0
    batches = list(sequences.batches(most=BATCH_TOKENS))
    for which in order.permutation(len(batches)):
        parts = [rows for i in range(threads) if (rows := batches[which][i::threads])]
        total = sum(len(sequences.responses[i]) for i in batches[which])
        losses = [partial(_cross_entropy, weights, shape, sequences, rows, total, device) for rows in parts]
        loss += total * set_gradients(weights, losses, threads)
        torch.nn.utils.clip_grad_norm_(list(weights.values()), LARGEST_GRADIENT)
        optimiser.step()
    return loss / sum(map(len, sequences.responses))


def _cross_entropy(
    weights: Weights, shape: Shape, sequences: Sequences, rows: list[int], total: int, device: str
) -> Tensor:
    return -response_logprobs(weights, shape, *sequences.padded(rows, device)).sum() / total
