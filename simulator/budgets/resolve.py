"""From a policy's name to the policy: a built-in, an installed entry point, or `module:attr`."""

import difflib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from simulator.budgets.context import Context
from simulator.budgets.das import das
from simulator.budgets.policy import BudgetPolicy
from simulator.budgets.simple import fixed, none, threshold, unlimited
from traces.errors import InputError

Builder = Callable[[str, Context], BudgetPolicy]

BUILT_IN: dict[str, Builder] = {
    "none": none,
    "fixed": fixed,
    "unlimited": unlimited,
    "threshold": threshold,
    "das": das,
}
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


def check_spec(spec: str) -> None:
    """Raise InputError if `spec` names no policy; nothing is prepared yet."""
    name = spec.partition(":")[0]
    if name in BUILT_IN:
        empty = np.empty(0, np.int64)
        resolve_policy(spec, Context(0, empty, empty, None, 1, lambda: None))  # type: ignore[arg-type]
    else:
        _load(spec)


def prepared(policy: Any, context: Context, spec: str) -> BudgetPolicy:
    """Return a user's policy after its `prepare`, where it has one."""
    if hasattr(policy, "prepare"):
        try:
            policy = policy.prepare(context)
        except Exception as error:
            raise InputError(f"policy {spec!r}: prepare raised {_told(error)}: mend the policy") from error
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
    if not (colon and module and attribute and _importable(module)):
        names = [*BUILT_IN, *plugins.names]
        near = difflib.get_close_matches(module, names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"policy {spec!r} is unknown: {hint}use {', '.join(names)}, or module:attr for your own")
    try:
        target = importlib.import_module(module)
    except Exception as error:
        raise InputError(f"policy {spec!r}: importing {module!r} raised {_told(error)}: mend the module") from error
    try:
        for part in attribute.split("."):
            target = getattr(target, part)
    except AttributeError as error:
        raise InputError(f"policy {spec!r}: {module!r} has no {attribute!r}: check the name") from error
    return target


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _told(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
