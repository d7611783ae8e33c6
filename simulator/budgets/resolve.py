"""From a policy's name to the policy: a built-in, an installed entry point, or `module:attr`."""

import difflib
import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

from simulator.budgets.context import Context
from simulator.budgets.das import das
from simulator.budgets.policy import BudgetPolicy
from simulator.budgets.simple import fixed, none, threshold, unlimited
from traces.errors import InputError

Builder = Callable[[str, Context], BudgetPolicy]

BUILT_IN: dict[str, Builder] = {"none": none, "fixed": fixed, "unlimited": unlimited, "threshold": threshold, "das": das}
NEEDS_ARGUMENT = {"fixed": "fixed:K", "threshold": "threshold:K@B"}
TAKES_NONE = {"none", "unlimited"}
ENTRY_POINTS = "rolloutsim.budgets"


def resolve_policy(spec: str, context: Context) -> BudgetPolicy:
    """Return the policy that `spec` names, prepared for one RL step; InputError says what is wrong with the name."""
    name, _, argument = spec.partition(":")
    if builder := BUILT_IN.get(name):
        if name in TAKES_NONE and ":" in spec:
            raise InputError(f"policy {spec!r}: {name} takes no argument: write {name!r}")
        if name in NEEDS_ARGUMENT and not argument:
            raise InputError(f"policy {spec!r} needs an argument: write {NEEDS_ARGUMENT[name]}")
        return builder(argument, context)
    return prepared(_load(spec), context, spec)


def prepared(policy: Any, context: Context, spec: str) -> BudgetPolicy:
    """Return a user's policy after its `prepare`, where it has one."""
    if hasattr(policy, "prepare"):
        policy = policy.prepare(context)
    if not callable(policy):
        raise InputError(f"policy {spec!r} is a {type(policy).__name__}: it must be callable, (BatchView) -> budgets")
    every = getattr(policy, "every", 1)
    if not isinstance(every, int) or every < 0:
        raise InputError(f"policy {spec!r} has every={every!r}: give decode steps between calls, 0 or more")
    result: BudgetPolicy = policy
    return result


def _load(spec: str) -> Any:
    plugins = importlib.metadata.entry_points(group=ENTRY_POINTS)
    if spec in plugins.names:
        return plugins[spec].load()
    module, colon, attribute = spec.partition(":")
    names = [*BUILT_IN, *plugins.names]
    if not colon or module in {n.partition(":")[0] for n in difflib.get_close_matches(module, names)}:
        near = difflib.get_close_matches(module, names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"policy {spec!r} is unknown: {hint}use {', '.join(names)}, or module:attr for your own")
    try:
        target = importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"policy {spec!r}: cannot import {module!r} ({error}): check the name and PYTHONPATH") from error
    try:
        for part in attribute.split("."):
            target = getattr(target, part)
    except AttributeError as error:
        raise InputError(f"policy {spec!r}: {module!r} has no {attribute!r}: check the name") from error
    return target
