"""A fixed budget for each length class, the class read off token thresholds."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from simulator.budgets.classes import NEVER
from simulator.budgets.context import Context
from simulator.budgets.policy import TablePolicy
from simulator.spec import BUDGET, one_of, read, refuse, several, whole


@dataclass(frozen=True)
class Settings:
    """`classes:bounds=TOKENS/...,budgets=K/K/...,by=emitted|history`, each with a default.

    bounds: smallest length of every class but the first, in tokens; budgets: drafts per decode step, one more. by:
    emitted puts a rollout into the class of the tokens that it has emitted; history into the class of the median length
    of its prompt's past rollouts for good, and by emitted tokens where there are none.
    """

    bounds: tuple[int, ...] = (256, 1024)
    budgets: tuple[int, ...] = (0, 8, 24)
    by: Literal["emitted", "history"] = "emitted"


READERS = {
    "bounds": several(whole(1), "256/1024", ascending=True),
    "budgets": several(BUDGET, "0/8/24"),
    "by": one_of("emitted", "history"),
}


def classes(argument: str, context: Context) -> TablePolicy:
    """A fixed draft length per length class, by tokens emitted or by the prompt's past."""
    settings = Settings(**read("classes", argument, READERS))
    stages = len(settings.budgets)
    if len(settings.bounds) + 1 != stages:
        counts = f"{len(settings.bounds)} bounds and {stages} budgets"
        refuse("classes", argument, f"has {counts}: give one budget more than bounds")
    bounds = np.array(settings.bounds, np.int64)
    budgets = np.array(settings.budgets, np.int64)
    if settings.by == "emitted":
        return TablePolicy(bounds[None], budgets[None, :, None])
    # row c: class c from the first token on; the last row: by tokens emitted
    rows = np.where(np.arange(stages - 1) < np.arange(stages)[:, None], 0, NEVER)
    row_of_prompt = np.full(context.n_prompts, stages)
    for prompt in np.unique(context.prompt):
        median = np.median(context.output_tokens[context.prompt == prompt])
        row_of_prompt[prompt] = np.searchsorted(bounds, median, side="right")
    table = np.broadcast_to(budgets[None, :, None], (stages + 1, stages, 1))
    return TablePolicy(np.concatenate([rows, bounds[None]]), np.array(table), row_of_prompt)
