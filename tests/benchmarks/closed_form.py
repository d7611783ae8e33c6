"""DAS's printed and corrected closed forms on random instances: which forward passes each was after, and which it gets.

.venv/bin/python -m tests.benchmarks.closed_form
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.budgets.closed_form import Form, accepted, objective, optimum

Float64 = npt.NDArray[np.float64]

SEED = 0
INSTANCES = 1000


class Instance(NamedTuple):
    """A batch of rollouts and the costs of Eq. 1: c_tok = 1, c_base in drafted tokens."""

    length: Float64
    k: Float64
    alpha: Float64
    c_base: float


def instances(n: int = INSTANCES, seed: int = SEED) -> list[Instance]:
    """Batches of 1 to 256 rollouts: lognormal lengths up to 16K tokens, one capacity of 0.3 to 1, efficiencies 0.2 to 2."""
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < n:
        size = int(np.exp(rng.uniform(0, np.log(256))))
        length = np.clip(rng.lognormal(np.log(3000), 0.8, size), 50, 16_000)
        k, alpha = np.full(size, rng.uniform(0.3, 1.0)), np.exp(rng.uniform(np.log(0.2), np.log(2), size))
        one = Instance(length, k, alpha, float(np.exp(rng.uniform(np.log(10), np.log(3000)))))
        if optimum(*one[:3], one.c_base, 1.0)[0] < 0.999 * length.max():  # others: drafting does not pay, both draft 0
            found.append(one)
    return found


def achieved(one: Instance, form: Form) -> tuple[float, float]:
    """(N reached over N aimed at, J over the least J) with the drafts of one form."""
    target, drafts = optimum(*one[:3], one.c_base, 1.0, form)
    passes = float((one.length - accepted(drafts, one.length, one.k, one.alpha)).max())
    _, best = optimum(*one[:3], one.c_base, 1.0)
    least = objective(best, *one[:3], one.c_base, 1.0)
    return passes / target, objective(drafts, *one[:3], one.c_base, 1.0) / least


def main() -> None:
    """Print one table."""
    found = instances()
    print(f"| {INSTANCES} instances | form | 5 % | median | 95 % | worst | within 0.1 % of 1 |")
    print("|---|---|---|---|---|---|---|")
    for what, form, which in (
        ("N reached / N aimed at", "corrected", 0), ("N reached / N aimed at", "printed", 0), ("J / least J", "printed", 1)
    ):  # fmt: skip
        ratio = np.array([achieved(one, form) for one in found])[:, which]  # type: ignore[arg-type]
        quantiles = " | ".join(f"{value:.3f}" for value in (*np.quantile(ratio, [0.05, 0.5, 0.95]), ratio.max()))
        print(f"| {what} | {form} | {quantiles} | {np.mean(np.abs(ratio - 1) < 1e-3):.1%} |")
    k = np.array([one.k[0] for one in found])
    reached = np.array([achieved(one, "printed")[0] for one in found])
    for low, high in ((0.3, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 1.0)):
        chosen = reached[(k >= low) & (k < high)]
        print(
            f"median N reached / N aimed at, printed, k {low} to {high}: {np.median(chosen):.3f} ({chosen.size} instances)"
        )


if __name__ == "__main__":
    main()
