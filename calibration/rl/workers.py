"""Share work out between CPU threads: each does whole batches by itself, which two threads in one small product cannot match.

Torch is held to one thread for each of them. Results come back in the order of the work, so sums do not depend on who is
done first.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from calibration.rl.policy import Weights

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def each(work: Callable[[Item], Answer], items: Sequence[Item], threads: int) -> list[Answer]:
    """What `work` answers for each item, in order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(before)


def set_gradients(weights: Weights, losses: Sequence[Callable[[], Tensor]], threads: int) -> float:
    """Set the weights' gradients to those of the sum of the losses, and return that sum."""
    parameters = list(weights.values())

    def one(loss: Callable[[], Tensor]) -> tuple[float, tuple[Tensor, ...]]:
        value = loss()
        return value.item(), torch.autograd.grad(value, parameters)

    found = each(one, losses, threads)
    for weight, *parts in zip(parameters, *(gradients for _, gradients in found), strict=True):
        weight.grad = torch.stack(parts).sum(0)
    return sum(value for value, _ in found)
