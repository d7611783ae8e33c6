"""What is known before an RL step, made up: random histories and a drafter that follows Eq. 3."""

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context, DraftCurve
from simulator.cost import Affine, Profile
from simulator.cost.operators import row

Int64 = npt.NDArray[np.int64]


def affine(constant: float, query_tokens: float) -> Profile:
    """Eq. 1 as a cost model."""
    operators = (Affine("a", row(constant=constant, query_tokens=query_tokens)),)
    return Profile("p", "affine", operators, model="m", device="d", source="s", uncertainty="u")


COST = affine(8e-3, 3e-5)


def context(
    prompt: npt.ArrayLike = (),
    output_tokens: npt.ArrayLike = (),
    n_prompts: int = 3,
    curve: DraftCurve | None = None,
    max_num_seqs: int = 32,
) -> Context:
    """A context whose drafter, measured, gives `curve`."""
    prompts, lengths = np.asarray(prompt, np.int64), np.asarray(output_tokens, np.int64)
    return Context(n_prompts, prompts, lengths, COST, max_num_seqs, lambda: curve)


def long_tail(seed: int, n: int = 400, n_prompts: int = 20) -> tuple[Int64, Int64]:
    """(prompt, length) of past rollouts whose length depends on the prompt and has a long tail."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(0, n_prompts, n)
    lengths = 200 + rng.exponential(rng.exponential(3000, n_prompts)[prompt]).astype(np.int64)
    return prompt, lengths


def curve_of(lengths: Int64, k: float, alpha: float) -> DraftCurve:
    """A drafter that drafts `budget` tokens in every decode step and gets those accepted that Eq. 3 says."""
    budgets = np.array([1, 2, 4, 8, 16, 32, 64])
    drafted = np.zeros((budgets.size, lengths.size))
    for _ in range(300):  # p = budget (l - A(p)), by iteration damped for the large budgets
        accepted = k * lengths * -np.expm1(-alpha * drafted / lengths)
        drafted += 0.2 * (budgets[:, None] * (lengths - accepted) - drafted)
    accepted = k * lengths * -np.expm1(-alpha * drafted / lengths)
    return DraftCurve(budgets, lengths, np.rint(drafted).astype(np.int64), np.rint(accepted).astype(np.int64))
