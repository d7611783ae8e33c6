"""How likely a draft model's tokens are to be accepted: by draft position, between rollouts, and as training moves on."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are first used

from simulator.limits import LARGEST_BUDGET
from traces.errors import InputError

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AcceptanceCurve:
    """Acceptance probability of the tokens of a draft, for the positions 1..K at which it is known.

    conditional: P(token j accepted | tokens 1..j-1 accepted), j = 1..K. Their running product S_j = P(at least j tokens
    accepted) is the survival; its sum is the mean number of accepted tokens.

    drift_per_step: added to the log-odds of every conditional probability for each RL step after `drift_from` (taken
    away before it): below 0 for a drafter that the policy trains away from. Probabilities of 0 and 1 stay.

    spread: how unequal rollouts are, in [0, 1). Each rollout draws one level v, uniform in (0, 1), and has
    S_j(v) = the v-quantile of Beta(S_j·n, (1 - S_j)·n) with n = 1/spread - 1, the same v for every j. So

    - the mean over rollouts is the curve: E[S_j(v)] = S_j for every j, and with it the mean number of accepted tokens;
    - Var[S_j(v)] = spread·S_j·(1 - S_j): `spread` is the share of the variance of "j tokens accepted?" that lies
      between rollouts (the intraclass correlation), 0 for rollouts that are all alike;
    - S_1(v) >= S_2(v) >= ..., because these beta distributions are ordered: every rollout has a valid curve, and one
      that is better at one position is better at all.

    Every rollout counts once in this mean. Counters of an engine count every draft once, and a rollout whose drafts
    fail takes more of them: with spread, such a counter reads a little less than the curve.

    assumed: what the probabilities rest on besides what was measured, in words.
    """

    conditional: tuple[float, ...]
    spread: float = 0.0
    drift_per_step: float = 0.0
    drift_from: int = 0
    name: str = "curve"
    source: str = ""
    assumed: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no probability, spread or drift."""
        if not 1 <= len(self.conditional) <= LARGEST_BUDGET:
            raise InputError(
                f"acceptance curve {self.name}: {len(self.conditional)} positions: give 1 to {LARGEST_BUDGET}"
            )
        for j, p in enumerate(self.conditional):
            if not 0 <= p <= 1:
                raise InputError(
                    f"acceptance curve {self.name}: position {j + 1} is accepted with probability {p:g}: give 0 to 1"
                )
        if not 0 <= self.spread < 1:
            raise InputError(
                f"acceptance curve {self.name}: spread = {self.spread:g}: give 0 (all rollouts alike) to below 1"
            )
        if not np.isfinite(self.drift_per_step):
            raise InputError(
                f"acceptance curve {self.name}: drift_per_step = {self.drift_per_step:g}: give a finite change of log-odds"
            )

    @property
    def positions(self) -> int:
        """Draft positions that the curve knows."""
        return len(self.conditional)

    def cut(self, positions: int | None) -> "AcceptanceCurve":
        """Return the curve of the first `positions` tokens (None: all); InputError beyond what is known."""
        if positions is None:
            return self
        if positions > self.positions:
            raise InputError(
                f"acceptance curve {self.name} knows {self.positions} draft positions, {positions} are asked for: measure "
                f"a longer draft, or draft at most {self.positions} tokens (nothing is extrapolated)"
            )
        return replace(self, conditional=self.conditional[:positions])

    def conditional_at(self, step: int) -> Float64:
        """Return float64[K], the conditional probabilities at an RL step."""
        conditional = np.array(self.conditional, np.float64)
        if shift := self.drift_per_step * (step - self.drift_from):
            moved: Float64 = scipy.special.expit(scipy.special.logit(conditional) + shift)
            return moved
        return conditional

    def survival(self, step: int = 0) -> Float64:
        """Return float64[K], P(at least j drafted tokens are accepted) at an RL step, over all rollouts."""
        found: Float64 = np.cumprod(self.conditional_at(step), dtype=np.float64)
        return found

    def mean_accepted(self, budget: int, step: int = 0) -> float:
        """Return the expected accepted tokens of a draft of `budget` tokens, the bonus not counted."""
        return float(self.cut(budget).survival(step).sum()) if budget else 0.0

    def survival_of(self, steps: Int64, levels: Float64) -> Float64:
        """Return float64[n, K], the survival of each rollout: its RL step and its level in (0, 1), both [n]."""
        distinct, which = np.unique(steps, return_inverse=True)
        means = np.stack([self.survival(step) for step in distinct.tolist()])[which] if steps.size else np.empty((0, 1))
        if self.spread == 0:
            return np.ascontiguousarray(means)
        n = 1 / self.spread - 1
        inside = (means > 0) & (means < 1)
        means_inside = np.where(inside, means, 0.5)
        drawn = scipy.special.betaincinv(means_inside * n, (1 - means_inside) * n, levels[:, None])
        found: Float64 = np.where(inside, drawn, means)
        return found

    def describe(self) -> str:
        """Name it with every number that a result depends on."""
        spread = f", spread={self.spread:g}" if self.spread else ""
        drift = f", drift={self.drift_per_step:+g}/step from step {self.drift_from}" if self.drift_per_step else ""
        shown = [f"{p:.4g}" for p in self.conditional]
        alike = len(set(self.conditional)) == 1 and self.positions > 2
        assumed = f", assumed: {self.assumed}" if self.assumed else ""
        return f"{self.name} [{f'{shown[0]} x{self.positions}' if alike else ' '.join(shown)}]{spread}{drift}{assumed}"
