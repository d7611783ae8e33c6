"""Conformance of a budget policy."""

from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.budgets.policy import BudgetPolicy
from simulator.budgets.resolve import prepared
from simulator.budgets.view import BatchView
from simulator.cost.model import CostModel
from simulator.drafting.acceptance import no_drafts
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from simulator.testing.examples import example_cost, example_trace, rl_step
from traces.trace import Trace


def check_policy(policy: Any, trace: Trace | None = None, cost: CostModel | None = None) -> None:
    """Assert that a budget policy keeps its contract, with `prepare` and without a history, on one replica and several.

    policy: what `module:attr` would name. Checked: budgets are whole numbers in [0, 255], one for each live sequence or
    one for all; a run ends with every token emitted and every invariant of the engine intact; the same run gives the
    same result again; and nothing the policy sees of a rollout changes when only its future does.
    """
    trace, cost = trace or example_trace(), cost or example_cost()
    for step in (trace.steps[0], trace.steps[-1]):
        for max_num_seqs, replicas in ((1, 1), (4, 1), (64, 1), (3, 2)):
            outcomes = []
            for _ in range(2):
                workload, context = rl_step(trace, step, cost, max_num_seqs)
                ready = prepared(policy, context, repr(policy))
                outcomes.append(simulate(workload, ready, Deployment(cost, max_num_seqs, replicas), check=True))
            emitted = int(sum(log["emitted_tokens"].sum() for log in outcomes[0].logs))
            assert emitted == int(workload.output_tokens.sum()), "every token is emitted"
            first, again = (o.rollouts.tobytes() for o in outcomes)
            assert first == again, "the same run gives the same result: seed what is random, keep no state"
            assert outcomes[0].makespan_s == outcomes[1].makespan_s
    _check_causal(policy, trace, cost)


def _check_causal(policy: Any, trace: Trace, cost: CostModel) -> None:
    """Two runs whose rollouts differ only in how long they go on must get the same budgets while all are live."""
    step, rows = trace.steps[-1], np.flatnonzero(trace.step == trace.steps[-1])
    short = int(trace.output_tokens[rows].min())
    seen: list[list[list[int]]] = []
    for extra in (0, 40):
        workload, context = rl_step(trace, step, cost, rows.size)
        lengths = np.full(rows.size, short + extra)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        nothing = no_drafts(offsets)
        same = Workload(workload.prompt, workload.sample, workload.prompt_tokens, lengths, nothing)
        spy = _Spy(prepared(policy, context, repr(policy)))
        simulate(same, spy, Deployment(cost, rows.size))
        seen.append(spy.answers[:short])
    assert seen[0] == seen[1], "budgets must not depend on how long a rollout will go on"


class _Spy:
    """A policy that writes down what another one answers, asked before every decode step."""

    def __init__(self, policy: BudgetPolicy) -> None:
        self.policy = policy
        self.answers: list[list[int]] = []

    def __call__(self, view: BatchView) -> npt.ArrayLike:
        budgets = self.policy(view)
        self.answers.append(np.broadcast_to(np.asarray(budgets), (view.live,)).tolist())
        return budgets
