"""Small batches of made-up rollouts for comparisons: lengths and acceptance hang together within a prompt."""

import numpy as np

from simulator.budgets.policy import by_live
from simulator.compare.rl_step import RLStep
from simulator.cost import Affine, Profile
from simulator.cost.operators import row
from simulator.drafting.acceptance import Acceptance
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload

AFFINE = Affine("a", row(constant=7e-3, query_tokens=2e-5, kv_tokens=4e-8))
MAKERS = {
    "none": lambda: by_live([0]),
    "fixed:4": lambda: by_live([4]),
    "threshold": lambda: by_live([8] * 9 + [0]),
    "unlimited": lambda: by_live([255]),
}


def profile(*operators, error: float | None = None, kind: str = "affine") -> Profile:
    return Profile(
        "p", kind, operators or (AFFINE,), model="m", device="d", source="s", uncertainty="u", relative_error=error
    )


def batch(
    seed: object, prompts: int, samples: int = 4, prompt_share: float = 0.6, own_share: float = 0.5, a: float = 2.0
) -> Workload:
    """Lognormal lengths of median 60 tokens; of up to 8 drafts each is accepted with a chance that the prompt has."""
    rng = np.random.default_rng(seed)
    n, prompt = prompts * samples, np.repeat(np.arange(prompts), samples)
    logs = prompt_share * rng.standard_normal(prompts)[prompt] + own_share * rng.standard_normal(n)
    lengths = np.clip(np.rint(60 * np.exp(logs)), 2, 2000).astype(np.int64)
    chance = np.repeat(0.95 * rng.beta(a, 3, prompts)[prompt], lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    left = np.repeat(offsets[1:], lengths) - np.arange(offsets[-1]) - 1
    drafted = np.minimum(8, left)
    accepted = np.minimum(rng.geometric(1 - chance) - 1, drafted)
    table = np.stack([accepted, drafted], axis=1).astype(np.uint8)
    acceptance = Acceptance(offsets, lambda budget: table, prefix=True)
    return Workload(prompt, np.tile(np.arange(samples), prompts), np.full(n, 5), lengths, acceptance)


def rl_step(workload: Workload, step: int = 0, seed: int = 0, **makers) -> RLStep:
    return RLStep(step, seed, workload, makers or MAKERS)


def setup(max_num_seqs: int = 16, cost: Profile | None = None, **more) -> Deployment:
    return Deployment(cost or profile(), max_num_seqs, **more)
