"""DAS's length classes (arXiv 2511.13841 §4.2.3): what a rollout will turn out to be, from history and tokens so far."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

CLASSES = ("short", "medium", "long")

NEVER = int(np.iinfo(np.int64).max)
"""A boundary that no rollout reaches."""


@dataclass(frozen=True)
class Thresholds:
    """Short: fewer than `short` tokens; Long: `long` or more; Medium between."""

    short: int
    long: int

    def classes(self, tokens: npt.ArrayLike) -> Int64:
        """Return 0 Short, 1 Medium or 2 Long for each length."""
        return np.searchsorted([self.short, self.long], np.asarray(tokens), side="right").astype(np.int64)


def initial_rows(prompt: Int64, tokens: Int64, n_prompts: int, thresholds: Thresholds) -> Int64:
    """Return Init of every prompt: the class most of its past rollouts ended in (ties: the longer), 3 where none is known."""
    counts = np.zeros((n_prompts, 3), np.int64)
    np.add.at(counts, (prompt, thresholds.classes(tokens)), 1)
    longest_mode = 2 - counts[:, ::-1].argmax(axis=1)
    return np.where(counts.sum(axis=1) > 0, longest_mode, 3).astype(np.int64)


def upgrade_points(init: Int64, tokens: Int64, thresholds: Thresholds) -> Int64:
    """Return int64[4, 2]: emitted tokens from which a rollout of Init 0..3 is taken for Medium, and for Long.

    The class at t emitted tokens is argmax_c P(c | length > t, Init), counted over past rollouts whose prompt had that
    Init (Init 3: over all); ties go to the longer class, and where no past rollout was longer than t the class is Long.
    As t grows only the counts of the shorter classes fall, so the class never goes down. Without past rollouts the class
    is the one that the emitted tokens alone have reached. `init` and `tokens` are int64[h].
    """
    points = np.empty((4, 2), np.int64)
    for row in range(4):
        lengths = np.sort(tokens if row == 3 else tokens[init == row])
        if not lengths.size:
            points[row] = [thresholds.short, thresholds.long]
            continue
        at = np.arange(int(lengths[-1]) + 1)
        short, medium, long = (
            (members := lengths[thresholds.classes(lengths) == c]).size - np.searchsorted(members, at, side="right")
            for c in range(3)
        )
        is_long = (long >= medium) & (long >= short)
        beyond_short = is_long | (medium >= short)
        points[row] = [int(beyond_short.argmax()), int(is_long.argmax())]
    return points


def refreshed(points: Int64, every: int) -> Int64:
    """Return the upgrade points of rollouts whose class is looked at again after every so many emitted tokens only."""
    late: Int64 = -(-points // every) * every
    return late


def mean_lengths(prompt: Int64, tokens: Int64, n_prompts: int, weight: float) -> npt.NDArray[np.float64]:
    """Return float64[n_prompts], the exponential moving average of each prompt's lengths, nan where none is known.

    The first length counts whole; each later one moves the average by `weight` of the difference. int64[h], oldest first.
    """
    order = np.argsort(prompt, kind="stable")
    count = np.bincount(prompt, minlength=n_prompts)
    rank = np.arange(prompt.size) - np.repeat(np.cumsum(count) - count, count)
    share = np.where(rank == 0, 1.0, weight) * (1 - weight) ** (np.repeat(count, count) - 1 - rank)
    mean = np.bincount(prompt[order], share * tokens[order], n_prompts)
    return np.where(count > 0, mean, np.nan)
