"""The acceptance rate of a draft token, followed by an exponential moving average (SmartSpec, arXiv 2406.14066)."""

import numpy as np
import numpy.typing as npt

from simulator.budgets.feedback import LastStep

Float64 = npt.NDArray[np.float64]


class MeasuredShare:
    """What one replica's trees get accepted, as a share of their strategies' measured means: 1 at first, then as AcceptanceRate.

    means: float64[256], accepted tokens that are expected of a tree, by its tokens to verify.
    """

    def __init__(self, means: Float64, weight: float, start: float = 1.0) -> None:
        self.value, self.means = start, means
        self._weight = weight
        self._accepted, self._expected = 0, 0.0

    def observe(self, step: LastStep, budget: int) -> None:
        """Add one decode step, in which trees of `budget` tokens were drafted, to the interval."""
        self._accepted += step.accepted
        self._expected += float(self.means[budget]) * step.drafting

    def end_interval(self) -> float:
        """Fold the interval into the average and return it; an interval without drafts changes nothing."""
        if self._expected:
            self.value += self._weight * (self._accepted / self._expected - self.value)
            self._accepted, self._expected = 0, 0.0
        return self.value


class AcceptanceRate:
    """One replica's estimate: start, then each interval moves it by `weight` of the way to the interval's own rate.

    Drafts are taken as chains of tokens, each accepted with the same probability until the first that is not; what comes
    after that one was never put to the test. The likeliest rate is accepted / (accepted + drafts cut short).
    """

    def __init__(self, start: float, weight: float) -> None:
        self.value = start
        self._weight = weight
        self._accepted = self._rejected = 0

    def observe(self, step: LastStep, budget: int | None = None) -> None:
        """Add one decode step to the interval; how long drafts might have been says nothing of it."""
        self._accepted += step.accepted
        self._rejected += step.rejected

    def end_interval(self) -> float:
        """Fold the interval into the average and return it; an interval without drafts changes nothing."""
        tested = self._accepted + self._rejected
        if tested:
            self.value += self._weight * (self._accepted / tested - self.value)
            self._accepted = self._rejected = 0
        return self.value
