"""How many times as fast: of the same seconds there are several means, they differ, and reports name none or any of them.

With M_j the makespan of RL step j and t_r the seconds of rollout r from its admission to its last token, 0 the baseline's:

    speedup              sum_j M0_j / sum_j M_j             what a run of these RL steps takes: long ones count more
    step_speedup         (prod_j M0_j / M_j) ** (1 / J)     a typical RL step: all count alike
    rollout_speedup      (prod_r t0_r / t_r) ** (1 / R)     a typical rollout, without its time in the queue
    rollout_speedup_mean (1 / R) sum_r t0_r / t_r           the same as most reports of decoding speed have it; never below it

A makespan ends with its longest rollout, in a batch that gets smaller; most rollouts are done long before: so the last two say
little about a makespan.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


def geometric_mean(base_s: Sequence[float] | Float64, own_s: Sequence[float] | Float64) -> float | None:
    """Return the geometric mean of base_s / own_s, seconds in pairs; None where nothing pairs, or takes no time."""
    base, own = np.asarray(base_s, float), np.asarray(own_s, float)
    if base.shape != own.shape or not base.size or (base <= 0).any() or (own <= 0).any():
        return None
    return float(np.exp(np.log(base / own).mean()))


def mean(base_s: Float64, own_s: Float64) -> float | None:
    """Return the arithmetic mean of base_s / own_s, as `geometric_mean` takes them."""
    return None if geometric_mean(base_s, own_s) is None else float((base_s / own_s).mean())


def decoding_s(rollouts: npt.NDArray[np.void]) -> Float64:
    """Seconds from each rollout's first admission to its last token, of records `engine.state.ROLLOUT`."""
    return np.asarray(rollouts["finished_s"] - rollouts["admitted_s"], float)
