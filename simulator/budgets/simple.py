"""Policies that are one number, or one number below a batch size."""

from simulator.budgets.context import Context
from simulator.budgets.policy import UNLIMITED, TablePolicy, by_live
from simulator.spec import BUDGET
from traces.errors import InputError


def none(argument: str, context: Context) -> TablePolicy:
    """No speculation."""
    return by_live([0])


def fixed(argument: str, context: Context) -> TablePolicy:
    """K drafts for every sequence in every decode step."""
    return by_live([budget_of(argument, f"fixed:{argument}")])


def unlimited(argument: str, context: Context) -> TablePolicy:
    """As many drafts as the drafter proposes."""
    return by_live([UNLIMITED])


def threshold(argument: str, context: Context) -> TablePolicy:
    """K drafts while at most B sequences are live, else none."""
    spec = f"threshold:{argument}"
    budget, at, live = argument.partition("@")
    if not at or not live.isdecimal() or len(live) > 9 or int(live) < 1:
        raise InputError(f"policy {spec[:60]!r} is not threshold:K@B: for example threshold:4@32, with B at least 1")
    k, most = budget_of(budget, spec), min(int(live), context.max_num_seqs)
    return by_live([k] * (most + 1) + [0])


def budget_of(text: str, spec: str) -> int:
    """Read a budget out of a policy's name, or raise InputError."""
    try:
        budget: int = BUDGET(text)
    except ValueError as error:
        raise InputError(f"policy {spec[:60]!r} has budget {text[:20]!r}: {error}") from None
    return budget
