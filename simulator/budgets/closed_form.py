"""DAS's optimal drafts per rollout (arXiv 2511.13841 §4.2): Eq. 3 fitted to history, Eq. 4-6 solved for the budget.

A rollout of l tokens that drafts p tokens in all has A(p) = k l (1 - exp(-alpha p / l)) of them accepted. Minimise
J = c_base N + c_tok sum p_i, N = max_i (l_i - A_i(p_i)). At a given N the tight constraint l (1 - k + k e^(-alpha p/l)) = N
gives p, and J is convex in N, so the optimum is a root in one dimension. The paper's printed p is another formula, which
reaches its N only where k = 1; it is kept under the name `printed`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are first used

Float64 = npt.NDArray[np.float64]
Form = Literal["corrected", "printed"]


@dataclass(frozen=True)
class Efficiency:
    """Eq. 3 fitted: capacity k in (0, 1] and efficiency alpha > 0; r2 and rmse (of accepted / length) say how well.

    r2 is None where all rollouts have the same accepted / length, none in particular.
    """

    k: float
    alpha: float
    r2: float | None
    rmse: float


def accepted(drafted: npt.ArrayLike, length: npt.ArrayLike, k: npt.ArrayLike, alpha: npt.ArrayLike) -> Float64:
    """Eq. 3: accepted tokens of rollouts of `length` tokens that draft `drafted` tokens in all."""
    p, l_, k_, a = (np.asarray(x, np.float64) for x in (drafted, length, k, alpha))
    return np.asarray(k_ * l_ * -np.expm1(-a * p / l_))


def fit(drafted: npt.ArrayLike, accepted_tokens: npt.ArrayLike, length: npt.ArrayLike) -> Efficiency:
    """Fit Eq. 3 to (drafted, accepted) totals of rollouts of known length, by least squares on accepted / length."""
    p, a, l_ = (np.ravel(np.asarray(x, np.float64)) for x in (drafted, accepted_tokens, length))
    x, y = p / l_, a / l_
    slope = float((x * y).sum() / max((x * x).sum(), 1e-12))

    def residuals(parameters: Float64) -> Float64:
        return np.asarray(parameters[0] * -np.expm1(-parameters[1] * x) - y)

    start = [0.8, max(slope / 0.8, 1e-3)]
    k, alpha = scipy.optimize.least_squares(residuals, start, bounds=([1e-6, 1e-6], [1.0, 1e3])).x
    error = residuals(np.array([k, alpha]))
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float((error**2).sum()) / spread if spread > 0 else None
    return Efficiency(float(k), float(alpha), r2, float(np.sqrt((error**2).mean())))


def drafts_for(n_fwd: float, length: Float64, k: Float64, alpha: Float64, form: Form = "corrected") -> Float64:
    """Drafts that bring each rollout down to `n_fwd` forward passes; needs n_fwd > max length (1 - k)."""
    fraction = np.maximum(0.0, 1 - n_fwd / length)
    inside = 1 - fraction / k if form == "corrected" else 1 - k * fraction
    return np.asarray(-(length / alpha) * np.log(inside))


def objective(drafted: Float64, length: Float64, k: Float64, alpha: Float64, c_base: float, c_tok: float) -> float:
    """J without its constant: seconds of the forward passes and of the drafted tokens."""
    passes = float((length - accepted(drafted, length, k, alpha)).max())
    return c_base * passes + c_tok * float(drafted.sum())


def optimum(
    length: Float64, k: Float64, alpha: Float64, c_base: float, c_tok: float, form: Form = "corrected"
) -> tuple[float, Float64]:
    """Return (N, p float64[n]): forward passes of the longest rollout and drafts of each that minimise J.

    N is the root of c_base = c_tok sum_{l_i > N} 1 / (alpha_i (k_i - 1 + N / l_i)); p follows in the given form.
    """
    lowest, highest = float((length * (1 - k)).max()), float(length.max())

    def slope(n_fwd: float) -> float:
        speculating = length > n_fwd
        rate = alpha[speculating] * (k[speculating] - 1 + n_fwd / length[speculating])
        return c_base - c_tok * float((1 / rate).sum())

    nearly = lowest + 1e-9 * max(highest - lowest, 1e-300)
    if slope(highest * (1 - 1e-12)) <= 0:
        n_fwd = highest
    elif slope(nearly) >= 0:
        n_fwd = nearly
    else:
        n_fwd = float(scipy.optimize.brentq(slope, nearly, highest * (1 - 1e-12), xtol=1e-9 * highest))
    return n_fwd, drafts_for(n_fwd, length, k, alpha, form)
