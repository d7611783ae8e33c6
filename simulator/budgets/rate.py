"""The acceptance rate of a draft token, followed by an exponential moving average (SmartSpec, arXiv 2406.14066)."""

from simulator.budgets.feedback import LastStep


class AcceptanceRate:
    """One replica's estimate: start, then each interval moves it by `weight` of the way to the interval's own rate.

    Drafts are taken as chains of tokens, each accepted with the same probability until the first that is not; what comes
    after that one was never put to the test. The likeliest rate is accepted / (accepted + drafts cut short).
    """

    def __init__(self, start: float, weight: float) -> None:
        self.value = start
        self._weight = weight
        self._accepted = self._rejected = 0

    def observe(self, step: LastStep) -> None:
        """Add one decode step to the interval."""
        self._accepted += step.accepted
        self._rejected += step.rejected

    def end_interval(self) -> float:
        """Fold the interval into the average and return it; an interval without drafts changes nothing."""
        tested = self._accepted + self._rejected
        if tested:
            self.value += self._weight * (self._accepted / tested - self.value)
            self._accepted = self._rejected = 0
        return self.value
