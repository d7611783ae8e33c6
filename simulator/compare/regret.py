"""Regret: how much of what could be gained over no speculation a policy leaves on the table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Makespans in seconds that a policy's is held against: without speculation, of the oracle, and the lower bound.

    nan where one is not known.
    """

    none_s: float
    oracle_s: float
    bound_s: float

    def closed(self, makespan_s: float) -> float:
        """Share of the gap between no speculation and the bound that a makespan closes.

        1 at the bound, 0 at no speculation, below 0 if slower; nan where there is no bound, or no gap.
        """
        return _share(self.none_s, makespan_s, self.bound_s)

    def closed_of_oracle(self, makespan_s: float) -> float:
        """The same against the oracle; can exceed 1, since an oracle is not always the best possible."""
        return _share(self.none_s, makespan_s, self.oracle_s)


def _share(none_s: float, makespan_s: float, best_s: float) -> float:
    gap = none_s - best_s
    return (none_s - makespan_s) / gap if gap > 0 else float("nan")
