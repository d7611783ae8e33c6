"""From a policy's name to the policy: a built-in, an installed entry point, or `module:attr`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from simulator.budgets.adaptive import adaptive
from simulator.budgets.aimd import aimd
from simulator.budgets.answers import every_of
from simulator.budgets.bandit import bandit
from simulator.budgets.buckets import buckets
from simulator.budgets.context import Context
from simulator.budgets.das import das
from simulator.budgets.goodput import goodput
from simulator.budgets.policy import BudgetPolicy, Learner, Prepares, TablePolicy
from simulator.budgets.schedule import schedule
from simulator.budgets.seer import seer
from simulator.budgets.simple import fixed, none, threshold, unlimited
from simulator.budgets.static_classes import classes
from simulator.plugins import calling, load
from traces.errors import InputError


class BuiltIn(NamedTuple):
    """build: from the argument of the name and the context; usage: how to name it; source: where it comes from."""

    build: Callable[[str, Context], BudgetPolicy]
    usage: str
    source: str


BUILT_IN = {
    "none": BuiltIn(none, "none", "baseline"),
    "fixed": BuiltIn(fixed, "fixed:K", "baseline"),
    "unlimited": BuiltIn(unlimited, "unlimited", "baseline"),
    "threshold": BuiltIn(threshold, "threshold:K@B", "baseline"),
    "schedule": BuiltIn(schedule, "schedule:LOW-HIGH=K,...", "vLLM, num_speculative_tokens_per_batch_size"),
    "buckets": BuiltIn(buckets, "buckets", "TLT, arXiv 2511.16665"),
    "bandit": BuiltIn(bandit, "bandit", "TLT, arXiv 2511.16665"),
    "classes": BuiltIn(classes, "classes", "baseline of DAS, arXiv 2511.13841"),
    "das": BuiltIn(das, "das", "DAS, arXiv 2511.13841"),
    "goodput": BuiltIn(goodput, "goodput", "SmartSpec/TurboSpec, arXiv 2406.14066"),
    "aimd": BuiltIn(aimd, "aimd", "RhymeRL, arXiv 2508.18588"),
    "adaptive": BuiltIn(adaptive, "adaptive", "DiffuSpec, arXiv 2510.02358"),
    "seer": BuiltIn(seer, "seer", "Seer, arXiv 2511.14617"),
}
NEEDS_ARGUMENT = {"fixed", "threshold", "schedule"}
TAKES_NONE = {"none", "unlimited"}
ENTRY_POINTS = "rolloutsim.budgets"


def resolve_policy(spec: str, context: Context, previous: BudgetPolicy | None = None) -> BudgetPolicy:
    """Return the policy that `spec` names, prepared for one RL step; InputError says what is wrong with the name.

    previous: what this returned for the RL step before; a built-in that learns goes on from what that one had learnt.
    """
    name, _, argument = spec.partition(":")
    if entry := BUILT_IN.get(name):
        if name in TAKES_NONE and ":" in spec:
            raise InputError(f"policy {spec!r}: {name} takes no argument: write {name!r}")
        if name in NEEDS_ARGUMENT and not argument:
            raise InputError(f"policy {spec!r} needs an argument: write {entry.usage}")
        policy = entry.build(argument, context)
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


def catalogue() -> list[tuple[str, str, str]]:
    """Return (how to name it, what it does, source) of every built-in; `docs/policies` has a page for each."""
    return [(entry.usage, str(entry.build.__doc__), entry.source) for entry in BUILT_IN.values()]


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
