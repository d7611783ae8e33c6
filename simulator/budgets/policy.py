"""The interface of a budget policy, and the one class that holds every policy that is a table."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from simulator.budgets.switch import ALWAYS, Switch, switch_of
from simulator.budgets.view import BatchView, Requests
from simulator.limits import LARGEST_BUDGET
from simulator.records import Pointing
from traces.errors import InputError

if TYPE_CHECKING:
    from simulator.budgets.context import Context

Int64 = npt.NDArray[np.int64]

UNLIMITED = LARGEST_BUDGET
"""The largest budget: a drafter proposes as much as it can, and never more than this."""


class BudgetPolicy(Protocol):
    """Any callable from a view of the batch to a budget for each live sequence, int[live] in [0, 255].

    An attribute `every` (`Paced`, default 1) says after how many decode steps it wants to be asked again; 0: only when the
    batch changes. It is always asked when a rollout joins or leaves. `Prepares` is asked once per RL step for the policy to
    use; `Explains`, `Learner` and `Switches` (`budgets.switch`) are optional, too.

    One object serves all replicas of an RL step, each with its own clock and its own count of decode steps. Rollout
    numbers are the same on all of them; what is learnt of a replica goes by its number.
    """

    def __call__(self, view: BatchView) -> npt.ArrayLike:
        """Return the budget of every live sequence."""


@runtime_checkable
class Learner(Protocol):
    """A policy that goes on in the next RL step from what it has learnt in this one."""

    def __call__(self, view: BatchView) -> npt.ArrayLike:
        """Return the budget of every live sequence."""

    def remember(self, previous: BudgetPolicy) -> None:
        """Take over what `previous`, which served the RL step before, has learnt; once, before the first view."""


@runtime_checkable
class Prepares(Protocol):
    """What makes a policy anew for each RL step."""

    def prepare(self, context: "Context") -> BudgetPolicy:
        """Return the policy to use in the RL step that `context` is known of."""


@runtime_checkable
class Paced(Protocol):
    """A policy that says how often it wants to be asked; others are asked before every decode step."""

    every: int


FOR_BATCH, FOR_EACH, BY_PRIORITY = 1, 2, 3
"""How compiled code finds budgets: one for the batch (`choosing`), one for each rollout (`following`), or two (`sharing`)."""


@runtime_checkable
class Chooses(Protocol):
    """A policy whose answers compiled code finds by itself, from records; asking it gives the same."""

    budgets: Int64
    """What it chooses among, or first: drafts of other budgets are made when they are first chosen."""
    way: int
    """`FOR_BATCH`, by a `choosing.Chooser`; `FOR_EACH`, by a `following.Follower`; or `BY_PRIORITY`, by a `sharing.Sharer`."""

    def __call__(self, view: BatchView) -> npt.ArrayLike:
        """Return the budget of every live sequence."""

    def chooser(self, replica: int, requests: Requests, slots: int) -> Pointing:
        """Return the record by which a replica of so many slots chooses, in an RL step of these requests."""


@runtime_checkable
class Supplies(Protocol):
    """One whose record needs from time to time what compiled code cannot find: random numbers, or a decision."""

    def supply(self, replica: int, steps: int) -> None:
        """Put there what the replica needs at this decode step, and for more to come."""


@runtime_checkable
class Explains(Protocol):
    """A policy of which a result should say something."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What it is, in words and numbers that JSON knows."""


@dataclass(frozen=True, eq=False)
class TablePolicy:
    """A policy whose budgets are a table of what a sequence is, how far it is and how many are live.

    boundaries: int64[rows, stages - 1], ascending; a sequence of a row is in stage s once it has emitted
    boundaries[row, s - 1] tokens. budgets: int64[rows, stages, b], by live sequences 0..b-1; beyond that the last holds.
    row_of_prompt: int64[prompts], or None where there is one row. facts: what a result should say about it. trailing: whether
    the sequences of the step before are those that count, by whose end an engine has drafted. switch: when it begins to draft.
    The engine looks these up in compiled code; calling the policy gives the same budgets, by those that are live.
    """

    boundaries: Int64
    budgets: Int64
    row_of_prompt: Int64 | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    trailing: bool = False
    switch: Switch = ALWAYS

    def __post_init__(self) -> None:
        """Refuse a table that compiled code could not look up."""
        rows, stages = self.boundaries.shape[0], self.boundaries.shape[1] + 1
        if self.budgets.ndim != 3 or self.budgets.shape[:2] != (rows, stages) or self.budgets.shape[2] < 1:
            raise InputError(
                f"budget table of shape {self.budgets.shape}: {rows} rows and {stages} stages need {(rows, stages, 'b')}"
            )
        if self.budgets.min() < 0 or self.budgets.max() > UNLIMITED:
            raise InputError(
                f"budget table from {self.budgets.min()} to {self.budgets.max()}: stay within 0 to {UNLIMITED}"
            )
        if self.boundaries.size and (self.boundaries.min() < 0 or (np.diff(self.boundaries, axis=1) < 0).any()):
            raise InputError("boundaries of a budget table must be 0 or more tokens, ascending in each row: sort them")
        used = self.row_of_prompt
        if used is not None and used.size and (used.min() < 0 or used.max() >= rows):
            raise InputError(f"row_of_prompt names rows {used.min()} to {used.max()}: the budget table has {rows}")

    def rows(self, prompt: Int64) -> Int64:
        """Return the table row of each prompt index."""
        return np.zeros(prompt.size, np.int64) if self.row_of_prompt is None else self.row_of_prompt[prompt]

    def __call__(self, view: BatchView) -> Int64:
        """Return the budget of every live sequence."""
        rows = self.rows(view.prompt)
        stage = (self.boundaries[rows] <= view.emitted_tokens[:, None]).sum(axis=1)
        budgets: Int64 = self.budgets[rows, stage, min(view.live, self.budgets.shape[2] - 1)]
        return budgets


def by_live(budgets: npt.ArrayLike, facts: Mapping[str, Any] | None = None) -> TablePolicy:
    """Return the policy that gives every sequence budgets[live] (the last one beyond)."""
    table = np.asarray(budgets, np.int64)
    return TablePolicy(np.empty((1, 0), np.int64), table[None, None, :], facts=facts or {})


class Capped:
    """A policy that is asked, its budgets cut; see `capped`."""

    def __init__(self, policy: BudgetPolicy, most: int) -> None:
        self.policy, self.most = policy, most
        self.every = policy.every if isinstance(policy, Paced) else 1
        self.switch = switch_of(policy)

    def __call__(self, view: BatchView) -> npt.ArrayLike:
        """Return the budget of every live sequence."""
        return np.minimum(self.policy(view), self.most)


def capped(policy: BudgetPolicy, most: int) -> BudgetPolicy:
    """Return the policy as an engine has it that verifies so many drafts of a sequence at most."""
    if isinstance(policy, TablePolicy):
        return replace(policy, budgets=np.minimum(policy.budgets, most))
    return Capped(policy, most)
