"""What a budget policy answered, checked: policies are anybody's code."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.budgets.policy import UNLIMITED, BudgetPolicy, Explains, Paced
from simulator.plugins import calling
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]
SELDOM = 10**9
"""Decode steps between questions, at most."""


def every_of(policy: BudgetPolicy, name: str | None = None) -> int:
    """How often a policy, called so, wants to be asked, in decode steps; 0: when the batch changes."""
    every: Any = policy.every if isinstance(policy, Paced) else 1
    if isinstance(every, bool) or not isinstance(every, int | np.integer) or not 0 <= every <= SELDOM:
        raise InputError(
            f"policy {name or name_of(policy)}: every = {every!r}: give decode steps, an integer from 0 (on changes) to {SELDOM}"
        )
    return int(every)


def facts_of(policy: BudgetPolicy) -> dict[str, Any]:
    """What a result should say of a policy; InputError where JSON does not know it."""
    if not isinstance(policy, Explains):
        return {}
    with calling(f"policy {name_of(policy)}: facts that are no mapping of words and numbers", "mend the policy"):
        facts = dict(policy.facts)
        json.dumps(facts, allow_nan=False)
    return facts


def name_of(policy: BudgetPolicy) -> str:
    """Return what a policy is called in an error."""
    return str(getattr(policy, "__qualname__", type(policy).__qualname__))


def checked(answer: Any, live: int, policy: BudgetPolicy) -> Int64 | int:
    """Return what a policy answered as budgets, or as one for all; the usual forms are let through quickly."""
    if type(answer) is int and 0 <= answer <= UNLIMITED:
        return answer
    whole = type(answer) is np.ndarray and answer.dtype == np.int64 and answer.shape == (live,)
    if whole and answer.view(np.uint64).max() <= UNLIMITED:
        given: Int64 = answer
        return given
    name = name_of(policy)
    try:
        budgets = np.asarray(answer)
    except ValueError:
        raise InputError(f"policy {name} returned lists of different lengths: return one budget each") from None
    if budgets.shape not in {(live,), ()}:
        raise InputError(
            f"policy {name} returned shape {budgets.shape} for {live} live sequences: return one budget each"
        )
    if budgets.dtype.kind not in "iu":
        raise InputError(f"policy {name} returned {budgets.dtype} budgets: return whole numbers")
    if budgets.min() < 0 or budgets.max() > UNLIMITED:
        raise InputError(
            f"policy {name} returned a budget of {budgets.min()} to {budgets.max()}: stay within 0 to {UNLIMITED}"
        )
    return budgets.astype(np.int64) if budgets.ndim else int(budgets)
