"""Budgets where trees are drafted: they name a strategy by its tokens to verify, which is no length of a path."""

from simulator.budgets.context import Context
from simulator.spec import refuse

CHAINS = (8, 6, 4, 2)
"""Lengths of paths where no strategies are drafted: TLT's trees are 8 deep, so no path of theirs is longer; shorter ones for
larger batches are our choice."""


def budgets_of(name: str, argument: str, given: tuple[int, ...] | None, context: Context) -> tuple[int, ...]:
    """Return the budgets that were given, or the drafter's strategies, most tokens first, or `CHAINS` where it has none.

    Refuses one that is neither 0 nor the tokens that a strategy verifies.
    """
    verify = [one.verify for one in context.strategies]
    if given is None:
        return tuple(verify[::-1]) or CHAINS
    if verify and (unknown := [budget for budget in given if budget not in (0, *verify)]):
        known = "/".join(map(str, verify))
        refuse(
            name, argument, f"has {unknown[0]}, which no strategy of the drafter verifies: choose from 0 and {known}"
        )
    return given


def chains_only(name: str, argument: str, context: Context) -> None:
    """Refuse a drafter of trees, for a policy that counts on acceptance falling with every token of its budget."""
    if context.strategies:
        refuse(
            name, argument, "reads budgets as lengths of paths, and the drafter drafts trees: use fixed, threshold, schedule, "
            "buckets, bandit or goodput, or a drafter with a curve",
        )  # fmt: skip
