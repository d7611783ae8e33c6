"""A clairvoyant policy: it knows every length and every accepted draft beforehand. A scale, not something to deploy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.budgets.policy import UNLIMITED, by_live
from simulator.budgets.view import POSITION, BatchView
from simulator.compare.paths import DRAFT, DRAFT_KV, DRAFTS, EACH, EACH_KV, cheapest_drafts, reach_of
from simulator.cost.work import StepWork
from simulator.drafting.acceptance import NO_TABLE, Acceptance
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]

CAPS = (UNLIMITED, 1, 2, 3, 4, 6, 8, 12, 16, 24)
CRITICAL = (1.0, 0.1, 0.01)
"""How much of the cost that the whole batch shares a rollout's plan counts as its own."""


@dataclass(frozen=True, eq=False)
class Oracle:
    """An oracle: the budget planned for the position of each sequence while at most `most_live` are live, else 0.

    budgets: uint8[positions of the workload]. A BudgetPolicy for that workload alone.
    """

    budgets: UInt8
    most_live: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    every = 1

    def __call__(self, view: BatchView) -> npt.ArrayLike:
        """Return the planned budgets."""
        return self.budgets[view.seen[POSITION]] if view.live <= self.most_live else 0


@dataclass(frozen=True, eq=False)
class _Plan:
    """budgets: uint8[positions]; outcome: uint8[positions, 2], what they get accepted and drafted."""

    name: str
    budgets: UInt8
    outcome: UInt8


def oracle(workload: Workload, deployment: Deployment) -> Oracle:
    """Return the best of some clairvoyant plans, each tried on the workload itself.

    Every plan gives a sequence a budget that its drafter will get accepted in full, so nothing is drafted in vain (where
    the draft itself depends on the budget: the least of the budgets with a table that get the most accepted). Plans
    differ in the cap of a draft, and in whether a rollout takes all it can or the cheapest way to its end, weighing the
    costs that the batch shares more or less: a draft whose marginal cost exceeds what it saves is left out. Each plan is
    also tried withheld above a half, a quarter, ... of the slots, until that is slower. No speculation at all is among the
    plans, and under costs that grow with the work it is never slower than `fixed:K` for the K in CAPS.
    Raises InputError where drafts are made in the engine's loop: nobody can know them beforehand.
    """
    if workload.siblings is not None:
        raise InputError("oracle: drafts from live siblings depend on the schedule: use --siblings next-step")

    def seconds(plan: _Plan, most_live: int) -> float:
        planned = Acceptance(workload.acceptance.offsets, lambda budget: plan.outcome, prefix=True)
        policy = by_live([UNLIMITED] * (most_live + 1) + [0])
        return simulate(replace(workload, acceptance=planned), policy, deployment).makespan_s

    nothing = np.zeros((workload.acceptance.tables.shape[1], 2), np.uint8)
    best, most_live = _Plan("no drafts", nothing[:, 0], nothing), 0
    best_s = seconds(best, most_live)
    for plan in _plans(workload, deployment):
        live, last_s = deployment.max_num_seqs, np.inf
        while live and (tried_s := seconds(plan, live)) <= last_s:
            if tried_s < best_s:
                best, best_s, most_live = plan, tried_s, live
            live, last_s = live // 2, tried_s
    return Oracle(best.budgets, most_live, {"oracle": True, "plan": best.name, "most_live": most_live})


def _plans(workload: Workload, deployment: Deployment) -> Iterator[_Plan]:
    acceptance = workload.acceptance
    if not acceptance.prefix:
        known = np.flatnonzero(acceptance.table_of != NO_TABLE)
        for cap in CAPS:
            yield _best_budgets(acceptance, known[known <= cap], f"most accepted, at most {cap}")
        return
    reach = reach_of(workload)
    for cap in CAPS:
        drafts = np.minimum(reach, cap).astype(np.uint8)
        yield _Plan(f"all accepted, at most {cap}", drafts, np.stack([drafts, drafts], axis=1))
    for share in CRITICAL:
        drafts = cheapest_drafts(workload, reach, _marginal(workload, deployment, share))
        yield _Plan(f"cheapest way, sharing {share:g}", drafts, np.stack([drafts, drafts], axis=1))


def _best_budgets(acceptance: Acceptance, budgets: Int64, name: str) -> _Plan:
    """For each position the least budget that gets the most accepted."""
    at = np.zeros(acceptance.tables.shape[1], np.uint8)
    outcome = np.zeros((at.size, 2), np.uint8)
    for budget in budgets.tolist():
        got = np.minimum(acceptance.tables[acceptance.table_of[budget]], budget).astype(np.uint8)
        better = got[:, 0] > outcome[:, 0]
        at[better], outcome[better] = budget, got[better]
    return _Plan(name, at, outcome)


def _marginal(workload: Workload, deployment: Deployment, share: float) -> Float64:
    """Weights of `paths.cheapest`: differences of step times around a step of one sequence in mid-rollout."""
    kv = float(workload.prompt_tokens.mean() + workload.output_tokens.mean() / 2)
    step = StepWork(1.0, query_tokens=[1, 2, 1, 1], kv_tokens=[kv, kv, kv + 1, kv], pairs=[kv, kv, kv, kv + 1])
    draft_cost = deployment.draft_cost.at_least
    base, query, more_kv, pair = deployment.cost.step_time_s(step)
    query, more_kv, pair = (max(float(x - base), 0.0) for x in (query, more_kv, pair))
    weights = np.zeros(6)
    weights[EACH] = share * float(base) + query
    weights[EACH_KV], weights[DRAFT_KV] = more_kv + pair, pair
    weights[DRAFT] = query + share * draft_cost.per_pass_s + draft_cost.per_drafted_token_s
    weights[DRAFTS] = share * (draft_cost.per_step_s + draft_cost.step_fraction * float(base)) + draft_cost.per_query_s
    return weights
