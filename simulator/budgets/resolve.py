"""From a policy's name to the policy: a built-in, an installed entry point, or `module:attr`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from simulator.budgets.adaptive import adaptive
from simulator.budgets.aimd import aimd
from simulator.budgets.answers import every_of
from simulator.budgets.bandit import bandit
from simulator.budgets.buckets import buckets
from simulator.budgets.context import Context
from simulator.budgets.das import das
from simulator.budgets.goodput import goodput
from simulator.budgets.names import NAMES
from simulator.budgets.policy import BudgetPolicy, Learner, Prepares, TablePolicy
from simulator.budgets.schedule import schedule
from simulator.budgets.seer import seer
from simulator.budgets.simple import fixed, none, threshold, unlimited
from simulator.budgets.static_classes import classes
from simulator.plugins import calling, load
from traces.errors import InputError

Build = Callable[[str, Context], BudgetPolicy]
"""From the argument of a name and the context to the policy."""
BUILT_IN: dict[str, Build] = {
    "none": none, "fixed": fixed, "unlimited": unlimited, "threshold": threshold, "schedule": schedule, "buckets": buckets,
    "bandit": bandit, "classes": classes, "das": das, "goodput": goodput, "aimd": aimd, "adaptive": adaptive, "seer": seer,
}  # fmt: skip
"""Those that `names.NAMES` tells of."""
NEEDS_ARGUMENT = {"fixed", "threshold", "schedule"}
TAKES_NONE = {"none", "unlimited"}
ENTRY_POINTS = "rolloutsim.budgets"


def resolve_policy(spec: str, context: Context, previous: BudgetPolicy | None = None) -> BudgetPolicy:
    """Return the policy that `spec` names, prepared for one RL step; InputError says what is wrong with the name.

    previous: what this returned for the RL step before; a built-in that learns goes on from what that one had learnt.
    """
    name, _, argument = spec.partition(":")
    if build := BUILT_IN.get(name):
        if name in TAKES_NONE and ":" in spec:
            raise InputError(f"policy {spec!r}: {name} takes no argument: write {name!r}")
        if name in NEEDS_ARGUMENT and not argument:
            raise InputError(f"policy {spec!r} needs an argument: write {NAMES[name].usage}")
        policy = build(argument, context)
        if previous is not None and isinstance(policy, Learner):
            policy.remember(previous)
        return policy
    return prepared(load(spec, ENTRY_POINTS, "policy", list(BUILT_IN)), context, spec)


def check_spec(spec: str) -> None:
    """Raise InputError if `spec` names no policy; nothing is prepared yet."""
    name = spec.partition(":")[0]
    if name in BUILT_IN:
        empty = np.empty(0, np.int64)
        resolve_policy(spec, Context(0, empty, empty, None, 1, lambda: None))  # type: ignore[arg-type]
    else:
        load(spec, ENTRY_POINTS, "policy", list(BUILT_IN))


def prepared(policy: Any, context: Context, spec: str) -> BudgetPolicy:
    """Return a user's policy after its `prepare`, where it has one."""
    if isinstance(policy, Prepares):
        with calling(f"policy {spec!r}: prepare", "mend the policy"):
            policy = policy.prepare(context)
    if not callable(policy):
        raise InputError(f"policy {spec!r} is a {type(policy).__name__}: it must be callable, (BatchView) -> budgets")
    result: BudgetPolicy = policy
    if not isinstance(result, TablePolicy):
        every_of(result, repr(spec))
    return result
