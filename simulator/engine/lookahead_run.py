"""Lookahead Reasoning over the rollouts of an RL step: what it is made of before it begins, and what came of it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.budgets.policy import BudgetPolicy, TablePolicy
from simulator.cost.model import CostModel
from simulator.drafting.reasoning import DrawnSteps
from simulator.engine.cluster import Outcome
from simulator.engine.deployment import Deployment
from simulator.engine.fleet import Fleet
from simulator.engine.lookahead import play
from simulator.engine.lookahead_state import CHAIN, LANE, LOOK, NEVER
from simulator.engine.replica import NO_TABLE, Ledger, Replica
from simulator.engine.state import NO_LIMIT, NOBODY, POOL, ROLLOUT
from simulator.engine.workload import Workload
from simulator.records import Pointing, joined, records
from simulator.scheduling.placement import events_of, name_of
from simulator.scheduling.resolve import placement_of
from simulator.scheduling.start import at_start
from traces.errors import InputError

Int64 = npt.NDArray[np.int64]
Records = npt.NDArray[Any]

SUMMED = ("steps", "drafted", "accepted", "preempted", "cached", "recomputed")


@dataclass(frozen=True)
class Lookahead:
    """How far ahead, and on what.

    depth: steps that are drafted ahead; waits: whether all lanes are awaited before any step is decided (the synchronous
    variant); draft, judge: costs of their decode steps (judge None: verdicts take no time); share: consecutive replicas that
    have a draft and a judge beside them in common, engines with as many slots as one replica, whose KV is not counted.
    """

    depth: int
    waits: bool
    draft: CostModel
    judge: CostModel | None
    share: int = 1

    def beside(self, replicas: int) -> int:
        """Drafts for so many replicas, and as many judges."""
        return -(-replicas // self.share)


@dataclass(frozen=True, eq=False)
class Ahead:
    """What came of it: the outcome of the target's replicas, and figures by name."""

    outcome: Outcome
    facts: dict[str, float | str]


def look_ahead(
    workload: Workload, policy: BudgetPolicy, deployment: Deployment, drawn: DrawnSteps, lookahead: Lookahead,
    check: bool = False,
) -> Ahead:  # fmt: skip
    """Generate rollouts step by step, from 0 on. check: assert what must hold where it stops.

    Where KV blocks are counted they are found by key, whatever the deployment says: else every step would compute all before it.
    InputError where something is asked of it that it does not play.
    """
    _check_playable(workload, policy, deployment)
    deployment = _caching(deployment)
    ledger = Ledger(workload, policy)
    whole = ledger.rollouts
    made = deployment.serving.pools(workload, deployment.max_num_seqs, whole, lookahead.depth + 1)
    pools = [next(made) for _ in range(deployment.replicas)]  # with the first, keys of blocks stand in `whole`
    ledger.rollouts = _sequences(whole, lookahead.depth + 1)
    replicas = [
        Replica(number, workload, ledger, policy, deployment, pools[number], True, True)
        for number in range(deployment.replicas)
    ]
    beside = [
        Replica(
            number, workload, ledger, NO_TABLE, Deployment(cost, deployment.max_num_seqs), Pointing(POOL), True, True
        )
        for cost in (lookahead.draft, lookahead.judge or lookahead.draft)
        for number in range(lookahead.beside(deployment.replicas))
    ]
    fleet = Fleet(
        [*replicas, *beside],
        1,
        True,
        np.zeros(ledger.rollouts.size, np.int64),
    )
    fleet.core["until_s"] = np.inf
    look = _look(workload, deployment, drawn, lookahead, whole)
    while (number := play(fleet.core.record, look.record)) != NOBODY:
        fleet.replicas[number].ready()
    if check:
        _check(look, replicas, beside)
    return _ended(look, whole, ledger.rollouts, replicas, beside)


def _check_playable(workload: Workload, policy: BudgetPolicy, deployment: Deployment) -> None:
    """Raise InputError for what a rollout of many sequences cannot be combined with."""
    if workload.turns is not None or workload.arrival_s is not None:
        what = "rollouts wait for tools (turns)" if workload.turns is not None else "rollouts arrive (arrival_s)"
        raise InputError(f"reasoning lookahead: {what}: it plays rollouts that are there at the start and never wait")
    placement = placement_of(deployment.placement, deployment.replicas)
    if events_of(placement) & {"left", "finished"}:
        raise InputError(
            f"reasoning lookahead: placement {name_of(placement)} moves or stops rollouts later: use one that acts at the start"
        )
    if workload.siblings is not None:
        raise InputError(
            "reasoning lookahead: the drafter learns from siblings as they emit: set siblings to next-step"
        )
    if not isinstance(policy, TablePolicy):
        raise InputError(
            "reasoning lookahead: the budget policy is asked as the batch changes: use one that is a table, such as none, "
            "fixed, threshold or das"
        )
    if deployment.data_parallel_size > 1:
        raise InputError(
            f"reasoning lookahead: engine.data_parallel_size = {deployment.data_parallel_size}: its replicas step by "
            "themselves, so give 1"
        )


def _caching(deployment: Deployment) -> Deployment:
    serving = deployment.serving
    if serving.num_gpu_blocks is None:
        return deployment
    return replace(deployment, serving=serving.model_copy(update={"enable_prefix_caching": True}))


def _sequences(whole: Records, width: int) -> Records:
    """One `state.Rollout` for each sequence: lanes, drafts, verdicts; those of one rollout find each other's KV blocks."""
    lanes, verdicts = np.repeat(whole, width), records(ROLLOUT, whole.size * width)
    drafts = whole.copy()
    drafts["row"] = 0
    for one in (lanes, drafts, verdicts):
        one["kept_blocks"] = NO_LIMIT
        for name in ("queued_s", "admitted_s", "first_token_s", "finished_s"):
            one[name] = np.nan
    return joined([lanes, drafts, verdicts])


def _look(
    workload: Workload, deployment: Deployment, drawn: DrawnSteps, lookahead: Lookahead, whole: Records
) -> Pointing:
    n, width = len(workload), lookahead.depth + 1
    chains, lanes = records(CHAIN, n), records(LANE, n * width)
    chains["first"], chains["steps"] = drawn.firsts, drawn.counts
    chains["start"], chains["tokens"] = whole["start"], workload.output_tokens
    chains["replica"], chains["mismatch"], chains["computed"] = -1, NEVER, -1
    chains["admitted_s"] = chains["finished_s"] = np.nan
    parts, rest = at_start(
        placement_of(deployment.placement, deployment.replicas), workload.requests, np.arange(n), workload.begun_tokens,
        deployment.replicas, deployment.max_num_seqs,
    )  # fmt: skip
    ends = np.cumsum([part.size for part in parts])
    paged = deployment.serving.paged
    look = Pointing(
        LOOK, replicas=deployment.replicas, share=lookahead.share, beside=lookahead.beside(deployment.replicas), width=width,
        waits=lookahead.waits, judged=lookahead.judge is not None,
        drafts=n * width, verdicts=n * width + n, block_size=deployment.serving.block_size if paged else 0, left=n,
        head=ends[-1],
    )  # fmt: skip
    look.point(
        chains=chains, lanes=lanes, touched=np.empty(n, np.int64), order=np.concatenate([*parts, rest]),
        heads=np.concatenate([[0], ends[:-1]]).astype(np.int64), tails=ends.astype(np.int64), bounds=drawn.bounds,
        accepted=drawn.accepted, draft_tokens=drawn.draft_tokens, target_tokens=drawn.target_tokens,
    )  # fmt: skip
    return look


def _check(look: Pointing, replicas: list[Replica], beside: list[Replica]) -> None:
    """Assert that everybody has finished, and that every step was decided once."""
    chains = look.target("chains")
    assert (chains["front"] == chains["steps"]).all()
    assert not np.isnan(chains["finished_s"]).any()
    assert not look.target("lanes")["active"].any()
    for replica in (*replicas, *beside):
        assert not replica.live_slots.size, "nothing is left"
        assert replica.core["head"] == replica.core["tail"]
        if replica.core["paged"]:
            replica.check(alone=False)


def _ended(look: Pointing, whole: Records, sequences: Records, replicas: list[Replica], beside: list[Replica]) -> Ahead:
    """Sum up what sequences did for the rollouts that they belong to."""
    chains, width, n = look.target("chains"), look["width"], whole.size
    lanes = sequences[: n * width].reshape(n, width)
    rollouts = whole.copy()
    for name in SUMMED:
        rollouts[name] = lanes[name].sum(axis=1)
    rollouts["recomputed"] -= chains["new_tokens"]
    rollouts["queued_s"], rollouts["first_token_s"] = lanes["queued_s"][:, 0], lanes["first_token_s"][:, 0]
    for name in ("admitted_s", "finished_s", "replica"):
        rollouts[name] = chains[name]
    rollouts["position"] = rollouts["end"]
    logs, busy_s = [replica.log for replica in replicas], [replica.log["duration_s"].sum() for replica in beside]
    outcome = Outcome(
        rollouts, logs, np.array([log["duration_s"].sum() for log in logs]),
        np.array([replica.extrapolated_s for replica in replicas]), np.zeros(len(replicas)),
    )  # fmt: skip
    emitted = sum(float(log["emitted_tokens"].sum()) for log in logs)
    drafts = len(beside) // 2
    drafted = sum(float(replica.log["emitted_tokens"].sum()) for replica in beside[:drafts])
    facts: dict[str, float | str] = {
        "reasoning_steps": int(chains["steps"].sum()),
        "drafted_steps": int(chains["drafts"].sum()),
        "accepted_steps": int(chains["accepted"].sum()),
        "target_steps": int(chains["launches"].sum()),
        "cancelled_steps": int(chains["cancelled"].sum()),
        "verdicts": int(chains["verdicts"].sum()),
        "own_tokens": int(chains["own_tokens"].sum()),
        "wasted_target_tokens": int(emitted) - int(chains["own_tokens"].sum()),
        "draft_tokens": int(drafted),
        "draft_busy_s": float(sum(busy_s[:drafts])),
        "judge_busy_s": float(sum(busy_s[drafts:])),
        "extrapolated_beside_s": sum(replica.extrapolated_s for replica in beside),
    }
    return Ahead(outcome, facts)
