"""How many times as many samples a system makes as another, for a second of a GPU, and between what."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are first used

from simulator.compare.sensitivity import span

Float64 = npt.NDArray[np.float64]
Effects = Mapping[str, Sequence[Float64]]

LEVEL = 0.9
"""Nine of ten, as all ranges here."""


class Throughput(NamedTuple):
    """What a system made of its time.

    seconds, samples: float64[RL steps], between updates, and rollouts trained on; gpus: in all; rollout_share: of its seconds
    that hang on what decode steps cost; effects: what errors of the costs do to its makespan (`sensitivity.bars`), in the
    same order for all systems at the same profile.
    """

    seconds: Float64
    samples: Float64
    gpus: int
    rollout_share: float
    profile: str
    effects: Effects

    @property
    def per_gpu_s(self) -> float:
        """Samples a second and GPU."""
        return float(self.samples.sum() / self.seconds.sum() / self.gpus)


def speedup(base: Throughput, own: Throughput) -> tuple[float, float, float]:
    """Samples a second and GPU over those of the base: ratio, and the ends of its 90 % range.

    The range joins in quadrature, on a log scale, what errors of the costs do to the one and not to the other, and how far RL
    steps differ: Student's t on the linearised ratio, RL steps taken as independent and in pairs where both have as many; with
    one RL step nothing is known of that.
    """
    ratio = own.per_gpu_s / base.per_gpu_s
    if own is base:
        return 1.0, 1.0, 1.0
    sampled = _spread(base, own)
    low, high = span([*_costs(base, own), np.array([-sampled, sampled])])
    return ratio, ratio * low, ratio * high


def _costs(base: Throughput, own: Throughput) -> list[Float64]:
    """Logs of the ratio at the ends of each source of error."""
    moved = []
    for name in {**base.effects, **own.effects}:
        pairs = [_on_run(base, name), _on_run(own, name)]
        if base.profile == own.profile:  # they share what is off
            moved += [first - second for first, second in zip(*pairs, strict=True)]
        else:
            moved += [*pairs[0], *(-one for one in pairs[1])]
    return moved


def _on_run(one: Throughput, name: str) -> list[Float64]:
    """What moves a makespan moves the run by its share."""
    return [np.log1p(one.rollout_share * np.expm1(effects)) for effects in one.effects.get(name, ())]


def _spread(base: Throughput, own: Throughput) -> float:
    """Half the 90 % interval of the log ratio."""
    parts = [_residuals(own), _residuals(base)]
    if parts[0].size == parts[1].size:
        parts = [parts[0] - parts[1]]
    variance, freedom = 0.0, min(part.size for part in parts) - 1
    if freedom < 1:
        return 0.0
    for part in parts:
        variance += float(part.var(ddof=1)) / part.size
    quantile = float(scipy.stats.t.ppf((1 + LEVEL) / 2, freedom))
    return quantile * float(np.sqrt(variance))


def _residuals(one: Throughput) -> Float64:
    """How much more log throughput each RL step has than the run."""
    return np.asarray(one.samples / one.samples.mean() - one.seconds / one.seconds.mean())
