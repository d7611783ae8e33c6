"""A budget by batch bucket, switched on once the batch is small (the strategy map of TLT, arXiv 2511.16665)."""

from dataclasses import dataclass, replace

import numpy as np

from simulator.budgets.context import Context
from simulator.budgets.policy import TablePolicy, by_live
from simulator.budgets.switch import REPREFILL, switch_from
from simulator.budgets.trees import CHAINS, budgets_of
from simulator.spec import BUDGET, read, refuse, several, whole


@dataclass(frozen=True)
class Settings:
    """`buckets:bounds=B/B/...,budgets=K/K/...,live=B,patience=STEPS,reprefill=no|yes`, each with a default.

    bounds: smallest batch of each bucket, from 1 on; budgets: in it, by default the drafter's strategies, most tokens to verify
    first, or `trees.CHAINS`; live: no drafts above this batch size. With patience `live` is where drafting begins
    (`switch.Switch`), and it then goes on at any size.
    """

    bounds: tuple[int, ...] = (1, 2, 5, 21)
    budgets: tuple[int, ...] | None = None
    live: int = 32
    patience: int = 0
    reprefill: str = "no"


BOUNDS = several(whole(1), "1/2/5/21", ascending=True)
READERS = {
    "bounds": BOUNDS,
    "budgets": several(BUDGET, "48/32/16/8"),
    "live": whole(1),
    "patience": whole(0),
    "reprefill": REPREFILL,
}


def buckets(argument: str, context: Context) -> TablePolicy:
    """A fixed draft length or tree strategy per bucket of batch sizes, none above a batch size."""
    settings = Settings(**read("buckets", argument, READERS))
    check_bounds("buckets", argument, settings.bounds)
    given = budgets_of("buckets", argument, settings.budgets, context)
    for budgets in (
        settings.budgets or CHAINS,
        given,
    ):  # the drafter's strategies are not known where a name is checked
        if len(settings.bounds) != len(budgets):
            counts = f"{len(settings.bounds)} bounds and {len(budgets)} budgets"
            refuse("buckets", argument, f"has {counts}: give one budget for each bound")
    switch = switch_from("buckets", argument, settings.live, settings.patience, settings.reprefill)
    most = min(settings.live, context.max_num_seqs) if switch.on else context.max_num_seqs
    bucket = np.searchsorted(settings.bounds, np.maximum(np.arange(most + 1), 1), side="right") - 1
    table = np.array(given)[bucket]
    return replace(by_live([*table, 0] if switch.on else table), switch=switch)


def check_bounds(name: str, argument: str, bounds: tuple[int, ...]) -> None:
    """Refuse buckets that leave out the smallest batch sizes."""
    if bounds[0] != 1:
        refuse(name, argument, f"has bounds from {bounds[0]}: the first bucket starts at batch size 1")
