"""A budget by batch bucket, switched on once the batch is small (the strategy map of TLT, arXiv 2511.16665)."""

from dataclasses import dataclass

import numpy as np

from simulator.budgets.context import Context
from simulator.budgets.policy import TablePolicy, by_live
from simulator.budgets.trees import tree_budgets
from simulator.spec import BUDGET, read, refuse, several, whole


@dataclass(frozen=True)
class Settings:
    """`buckets:bounds=B/B/...,budgets=K/K/...,live=B`, each with a default.

    bounds: smallest batch of each bucket, from 1 on; budgets: drafts per decode step in it (TLT's verified tokens), by
    default the drafter's strategies, where it has any; live: no drafts above this batch size.
    """

    bounds: tuple[int, ...] = (1, 2, 5, 21)
    budgets: tuple[int, ...] | None = None
    live: int = 32


TLT = (48, 32, 16, 8)
"""Tokens that TLT's released strategies verify, and budgets where the drafter has no strategies."""
BOUNDS = several(whole(1), "1/2/5/21", ascending=True)
READERS = {"bounds": BOUNDS, "budgets": several(BUDGET, "48/32/16/8"), "live": whole(1)}


def buckets(argument: str, context: Context) -> TablePolicy:
    """A fixed draft length or tree strategy per bucket of batch sizes, none above a batch size."""
    settings = Settings(**read("buckets", argument, READERS))
    check_bounds("buckets", argument, settings.bounds)
    given = tree_budgets("buckets", argument, settings.budgets, context) or TLT
    for budgets in (settings.budgets or TLT, given):  # the drafter's strategies are not known where a name is checked
        if len(settings.bounds) != len(budgets):
            counts = f"{len(settings.bounds)} bounds and {len(budgets)} budgets"
            refuse("buckets", argument, f"has {counts}: give one budget for each bound")
    most = min(settings.live, context.max_num_seqs)
    bucket = np.searchsorted(settings.bounds, np.maximum(np.arange(most + 1), 1), side="right") - 1
    return by_live([*np.array(given)[bucket], 0])


def check_bounds(name: str, argument: str, bounds: tuple[int, ...]) -> None:
    """Refuse buckets that leave out the smallest batch sizes."""
    if bounds[0] != 1:
        refuse(name, argument, f"has bounds from {bounds[0]}: the first bucket starts at batch size 1")
