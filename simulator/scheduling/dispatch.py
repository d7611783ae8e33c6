"""How the rollouts of an RL step reach the replicas."""

import numpy as np
import numpy.typing as npt

from simulator.limits import Dispatch as Dispatch

Int64 = npt.NDArray[np.int64]


def split(rollouts: int, replicas: int, max_num_seqs: int, dispatch: Dispatch) -> tuple[list[Int64], Int64]:
    """Return (rollouts that each replica gets before the start, rollouts left in the shared queue), in queue order.

    shared: the head of the queue goes one by one to the replica with the fewest, the lowest number first, until all
    slots are taken; the rest waits for whichever replica has room first (one replica has the whole queue as its own).
    static: contiguous, nearly equal parts. round_robin, least_loaded: in turn; without arrivals that is the same.
    """
    queue = np.arange(rollouts)
    if dispatch == "static" or replicas == 1:
        return np.array_split(queue, replicas), queue[:0]
    if dispatch != "shared":
        return [queue[number::replicas] for number in range(replicas)], queue[:0]
    first = queue[: replicas * max_num_seqs]
    return [first[number::replicas] for number in range(replicas)], queue[first.size :]
