"""A lower bound on the makespan of an RL step that no budget policy can beat, whatever it knows.

Notation. A replica has S slots and R replicas share the work. A decode step with n live sequences, q query tokens,
kv context tokens, u pairs and f prefilled tokens costs at least g = c0 + c1 n + c2 q + c3 kv + c4 u + c5 f, every
c >= 0: for affine costs that is the cost, for others a minorant (`minorant.minorants`). All that drafting adds
(`DraftCost`) is >= 0 too. A sequence with a context of x tokens that emits e tokens in a step had d >= e - 1 drafts
verified, so it contributes 1 to n, x to kv, 1 + d >= e to q and (1 + d) x >= e x to u, and the longest draft of the
step is >= e - 1. So the step costs at least

    shared + sum of own(i) over its live sequences, where shared >= share(i) for each i:
    share = c0, and if e > 1 further per_step + c0 fraction + (e - 1) per_pass
    own = c1 + c2 e + (c3 + c4 e) x, and if e > 1 further per_query + e per_emitted + (e - 1) (per_drafted
          + per_pass_kv x) + fraction own

and a prefill of P tokens costs c0 shared and its own c1 + c2 max(P, 1) + c3 P + .... Only the own e and x of a
sequence appear, and whatever a policy does, a rollout's steps are a way from its first token to its last on which
a step from position p emits at most 1 + A[p]. So the least sum of any such weights over a rollout is that of a
shortest path, which `paths.cheapest` finds exactly. Write s_i for it with weights `share`, o_i with `own`, w_i with
share / S + own, t_i with share + own.

1. A replica that is known to decode the rollouts P needs at least LS(s_P, S) + sum of o_i over P, where LS is the
   makespan of list scheduling on S machines. For measure time on the replica by the shared part of its steps alone.
   Rollouts are admitted in queue order, each to the slot that is free first, and hold it without a break for a
   duration >= s_i. List scheduling of independent jobs in a fixed order is monotone: if durations grow, the
   ascending loads of the machines after each job grow component by component (the job goes to the smallest load, and
   sorting keeps componentwise order). So the shared parts sum to at least LS(s_P, S), and the own parts to at least
   the sum of o_i. P is known where each replica has its own queue, where there is one replica, and, for the rollouts
   admitted at time 0, always: the ones that come later only add to both terms.
2. The busiest replica needs at least (sum of w_i) / R: no step has more than S live sequences, so that shared >=
   (sum of share(i) over its live sequences) / S.
3. Rollouts that wait in a queue shared by several replicas: while any waits, all slots are taken, so that each step
   of a rollout costs at least share + own + (S - 1) (c1 + c2 + c3 x), x the shortest prompt. Let v_i be the
   shortest path under that. Up to the last admission T, the true schedule is list scheduling on R S machines with the
   true durations; give a rollout that ends after T an infinite one and no start changes. All other durations are
   >= v_i, so by monotonicity every rollout starts no earlier than in list scheduling with v. After its start it
   needs at least t_i. So the makespan is at least the largest start + t_i.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from simulator.compare.minorant import BOUND_KEYS, Limits, minorants
from simulator.compare.paths import (
    DRAFT,
    DRAFT_KV,
    DRAFTS,
    DRAFTS_KV,
    EACH,
    EACH_KV,
    cheapest,
    list_starts,
    reach_of,
)
from simulator.cost.draft_cost import DraftCost
from simulator.engine.deployment import Deployment, profile_of
from simulator.engine.workload import Workload
from simulator.limits import LARGEST_BUDGET
from simulator.scheduling.placement import events_of
from simulator.scheduling.resolve import placement_of
from simulator.scheduling.start import at_start

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]

ROUNDING = 1e-9
"""The engine adds up to millions of step times in another order than the bound does: relative slack for that."""


@dataclass(frozen=True)
class Bound:
    """A bound, nan where there is none, and the argument that gave it or the reason why none did."""

    makespan_s: float
    why: str


def lower_bound(workload: Workload, deployment: Deployment, budgets: Iterable[int] | None = None) -> Bound:
    """Return the bound for what `simulate` would run on the same deployment: the largest of the three, over all minorants.

    It holds for every policy, even one that knows the future, that gives budgets in `budgets` (default: any, or those
    with a table where the draft itself depends on the budget); drafter, dispatch and costs are as given. It is proved,
    up to rounding, for every sum of affine, roof and table operators. There is none (nan) for drafts made in the engine's
    loop, for arrivals, turns, prefix caching and ranks that share experts, and for tables that extrapolate below 0.
    """
    if why := _unproved(workload, deployment):
        return Bound(np.nan, f"no bound: {why}")
    cost, slots = profile_of(deployment), deployment.max_num_seqs
    reach = reach_of(workload, budgets)
    rows = minorants(cost, _limits(workload, slots), _targets(workload, reach, slots))
    if not rows:
        return Bound(np.nan, f"no bound: profile {cost.name} has tables that no affine cost >= 0 lies under")
    best = max(
        (bound for row in rows for bound in _bounds(row, workload, deployment, reach)), key=lambda b: b.makespan_s
    )
    return replace(best, makespan_s=best.makespan_s * (1 - ROUNDING))


def _unproved(workload: Workload, deployment: Deployment) -> str | None:
    """Why the proof does not hold; None where it does."""
    if workload.siblings is not None:
        return "what is accepted depends on when siblings emit"
    if workload.arrival_s is not None or workload.turns is not None:
        return "rollouts arrive or wait for tools, and the proof has all of them there from the start"
    if deployment.data_parallel_size > 1:
        return "ranks that share experts step together, and the proof has each step on its own"
    if deployment.serving.enable_prefix_caching:
        return "prompts that share a prefix cost less than it assumes"
    return None


def _bounds(row: Float64, workload: Workload, deployment: Deployment, reach: UInt8) -> Iterator[Bound]:
    """Yield the three bounds that one minorant gives."""
    slots, replicas = deployment.max_num_seqs, deployment.replicas
    parts, rest = _begins(workload, deployment)
    draft_cost = deployment.draft_cost.at_least
    shared, own = _Weights.shared(row, draft_cost), _Weights.own(row, draft_cost)
    s, o = shared.least(workload, reach), own.least(workload, reach)
    work = [_list_makespan(s[part], slots) + float(o[part].sum()) for part in parts if part.size]
    if work:
        yield Bound(max(work), "one replica's work")
    w = (shared * (1 / slots) + own).least(workload, reach)
    yield Bound(float(w.sum()) / replicas, "all work")
    if rest.size:
        alone = shared + own
        others = (slots - 1) * (row[1] + row[2] + row[3] * float(workload.prompt_tokens.min()))
        crowded = replace(alone, step=alone.step + others * np.eye(6)[EACH], prefill=alone.prefill + others * EACH_1)
        starts = list_starts(crowded.least(workload, reach), replicas * slots)
        yield Bound(float((starts + alone.least(workload, reach)).max()), "queue and longest rollout")


def _begins(workload: Workload, deployment: Deployment) -> tuple[list[Int64], Int64]:
    """What each replica has from the start and what waits in the common queue; nothing where a placement may move rollouts."""
    placement = placement_of(deployment.placement, deployment.replicas)
    if events_of(placement) & {"left", "finished"}:
        return [], np.empty(0, np.int64)
    order = np.arange(len(workload))
    return at_start(placement, workload.requests, order, 0 * order, deployment.replicas, deployment.max_num_seqs)


EACH_1 = np.eye(6)[0]


@dataclass(frozen=True, eq=False)
class _Weights:
    """What a rollout's steps weigh: decode steps (`paths.EACH`...), and its prefill in the order of BOUND_KEYS."""

    step: Float64
    prefill: Float64

    @classmethod
    def shared(cls, row: Float64, draft: DraftCost) -> "_Weights":
        step = np.zeros(6)
        step[EACH] = row[0]
        step[DRAFT] = draft.per_pass_s
        step[DRAFTS] = draft.per_step_s + draft.step_fraction * row[0]
        return cls(step, row[0] * EACH_1)

    @classmethod
    def own(cls, row: Float64, draft: DraftCost) -> "_Weights":
        _, live, query, kv, pairs, _ = row
        step, fraction = np.zeros(6), draft.step_fraction
        step[EACH], step[EACH_KV] = live + query, kv + pairs
        step[DRAFT] = query * (1 + fraction) + draft.per_drafted_token_s + draft.per_emitted_token_s
        step[DRAFT_KV] = pairs * (1 + fraction) + draft.per_pass_kv_token_s
        step[DRAFTS] = draft.per_query_s + draft.per_emitted_token_s + fraction * (live + query)
        step[DRAFTS_KV] = fraction * (kv + pairs) + draft.per_kv_token_s
        return cls(step, row * (1 - EACH_1))

    def __mul__(self, factor: float) -> "_Weights":
        return _Weights(self.step * factor, self.prefill * factor)

    def __add__(self, other: "_Weights") -> "_Weights":
        return _Weights(self.step + other.step, self.prefill + other.prefill)

    def least(self, workload: Workload, reach: UInt8) -> Float64:
        """The least weight of each rollout, float64[n]."""
        return cheapest(workload, reach, self.step) + _prefills(workload) @ self.prefill


def _prefills(workload: Workload) -> Float64:
    """Work of each rollout's prefill, float64[n, 6] in the order of BOUND_KEYS."""
    prompt = workload.prompt_tokens.astype(np.float64)
    query, one = np.maximum(prompt, 1), np.ones(prompt.size)
    work = {"constant": one, "live": one, "query_tokens": query, "kv_tokens": prompt,
            "pairs": query * (query + 1) / 2, "prefill_tokens": query}  # fmt: skip
    return np.stack([work[key] for key in BOUND_KEYS], axis=1)


def _list_makespan(durations: Float64, slots: int) -> float:
    return float((list_starts(durations, slots) + durations).max())


def _limits(workload: Workload, max_num_seqs: int) -> Limits:
    longest = int((workload.prompt_tokens + workload.output_tokens).max())
    drafted = 1 + min(LARGEST_BUDGET, int(workload.output_tokens.max()))
    return Limits(max_num_seqs, max(drafted, int(workload.prompt_tokens.max())), longest)


def _targets(workload: Workload, reach: UInt8, max_num_seqs: int) -> list[Float64]:
    """Features of a mean decode step for the whole workload, for its longest rollout alone, and between."""
    at = np.eye(6)
    steps = cheapest(workload, reach, at[EACH])
    kv = cheapest(workload, reach, at[EACH_KV])
    pairs = cheapest(workload, reach, at[EACH_KV] + at[DRAFT_KV])
    emitted = workload.output_tokens - 1
    decode = np.stack([steps, steps, emitted, kv, pairs, np.zeros(len(workload))], axis=1)
    each = decode + _prefills(workload)
    longest = each[each[:, 0].argmax()]
    whole = each.sum(axis=0)
    whole[0] = max(_list_makespan(each[:, 0], max_num_seqs), 1.0)
    targets = [whole / whole[0], longest / longest[0]]
    return [*targets, (targets[0] + targets[1]) / 2]
