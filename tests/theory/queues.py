"""Workloads that theory speaks about: i.i.d. acceptance, given lengths; and the costs it assumes."""

import numpy as np
import numpy.typing as npt

from simulator.budgets.policy import BudgetPolicy
from simulator.budgets.resolve import resolve_policy
from simulator.cost import Affine, Profile
from simulator.cost.operators import row
from simulator.drafting.acceptance import Acceptance
from simulator.engine.cluster import Outcome, simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from simulator.limits import Dispatch
from tests.engine.workloads import context_of

Int64 = npt.NDArray[np.int64]


def affine(**seconds: float) -> Profile:
    operators = (Affine("a", row(**seconds)),)
    return Profile("p", "affine", operators, model="m", device="d", source="s", uncertainty="u")


UNIT = affine(constant=1.0)


def iid_workload(acceptance_rate: float, lengths: Int64, seed: int, prompt_tokens: int = 0) -> Workload:
    """At every position as many drafts as there can be, each accepted with the same probability, up to the first miss."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    left = np.repeat(offsets[1:], lengths) - np.arange(offsets[-1])
    right = rng.geometric(1 - acceptance_rate, offsets[-1]) - 1
    table = np.minimum(np.stack([right, np.full_like(right, 255)], 1), np.minimum(left, 255)[:, None]).astype(np.uint8)
    n = lengths.size
    prompts = np.full(n, prompt_tokens, np.int64)
    return Workload(np.arange(n), np.zeros(n, np.int64), prompts, lengths, Acceptance(offsets, lambda k: table, True))


def run(
    workload: Workload,
    cost: Profile,
    policy: str | BudgetPolicy = "none",
    slots: int = 1,
    replicas: int = 1,
    dispatch: Dispatch = "shared",
) -> Outcome:
    """The outcome under a policy or the name of one."""
    if isinstance(policy, str):
        policy = resolve_policy(policy, context_of(cost, slots))
    return simulate(workload, policy, Deployment(cost, slots, replicas, dispatch))


def lengths_only(lengths: Int64) -> Workload:
    """Rollouts that are never drafted for."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    empty = np.zeros((int(offsets[-1]), 2), np.uint8)
    none = np.zeros(lengths.size, np.int64)
    return Workload(np.arange(lengths.size), none, none, lengths, Acceptance(offsets, lambda k: empty, True))
