"""Conformance of a placement."""

from typing import Any

import numpy as np

from simulator.budgets.policy import by_live
from simulator.cost.model import CostModel
from simulator.drafting.acceptance import no_drafts
from simulator.drafting.draws import rollout_keys
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from simulator.scheduling.placement import Event, KnowsLengths, Placement, View, events_of
from simulator.scheduling.resolve import prepared_placement
from simulator.testing.examples import SEED, example_cost, example_trace, rl_step
from traces.trace import Trace


def check_placement(placement: Any, trace: Trace | None = None, cost: CostModel | None = None) -> None:
    """Assert that a placement keeps its contract, on one replica and several, with slots for all and for few.

    placement: what `module:attr` would name. Checked: every rollout is placed and completes, with every token emitted once and
    every invariant of the engine intact; the same run gives the same result again; and no decision depends on how long a
    rollout will go on, unless it is an oracle and says so (`KnowsLengths`).
    """
    trace, cost = trace or example_trace(), cost or example_cost()
    for step in (trace.steps[0], trace.steps[-1]):
        for max_num_seqs, replicas in ((64, 1), (4, 2), (3, 3), (64, 3)):
            outcomes = []
            for _ in range(2):
                workload, context = rl_step(trace, step, cost, max_num_seqs)
                ready = _shown(prepared_placement(placement, context, repr(placement)), trace, step)
                deployment = Deployment(cost, max_num_seqs, replicas, ready, pull_s_per_token=1e-6)
                outcomes.append(simulate(workload, by_live([2]), deployment, check=True))
            emitted = int(sum(log["emitted_tokens"].sum() for log in outcomes[0].logs))
            assert emitted == int(workload.output_tokens.sum()), "every token is emitted once"
            first, again = (o.rollouts.tobytes() for o in outcomes)
            assert first == again, "the same run gives the same result: seed what is random, keep no state"
    _, context = rl_step(trace, trace.steps[-1], cost, 1)
    if not isinstance(prepared_placement(placement, context, repr(placement)), KnowsLengths):
        _check_causal_placement(placement, trace, cost)


def _shown(placement: Placement, trace: Trace, step: int) -> Placement:
    """An oracle, once it has been shown an RL step's lengths; any other as it is."""
    if not isinstance(placement, KnowsLengths):
        return placement
    rows = np.flatnonzero(trace.step == step)
    assert placement.knows, "knows says what it knows"
    return placement.shown(trace.output_tokens[rows].astype(np.int64), rollout_keys(trace, rows, SEED, "placement"))


def _check_causal_placement(placement: Any, trace: Trace, cost: CostModel) -> None:
    """Two runs whose rollouts differ only in how long they go on are placed alike until one of them shows it."""
    step, rows = trace.steps[-1], np.flatnonzero(trace.step == trace.steps[-1])
    short = int(trace.output_tokens[rows].min())
    seen: list[list[tuple[float, str]]] = []
    for extra in (0, 40):
        workload, context = rl_step(trace, step, cost, rows.size)
        lengths = np.full(rows.size, short + extra)
        nothing = no_drafts(np.concatenate([[0], np.cumsum(lengths)]))
        same = Workload(workload.prompt, workload.sample, workload.prompt_tokens, lengths, nothing)
        ready = prepared_placement(placement, context, repr(placement))
        spy = _PlacementSpy(ready)
        outcome = simulate(same, by_live([0]), Deployment(cost, rows.size, 2, spy, pull_s_per_token=1e-6))
        if extra == 0:
            until_s = float(outcome.rollouts["finished_s"].min())
        seen.append([told for told in spy.answers if told[0] < until_s])
    assert seen[0] == seen[1], "a placement must not depend on how long a rollout will go on"


class _PlacementSpy:
    """A placement that writes down what another one decides."""

    def __init__(self, placement: Placement) -> None:
        self.placement, self.events = placement, events_of(placement)
        self.answers: list[tuple[float, str]] = []

    def __call__(self, event: Event, view: View) -> Any:
        decisions = tuple(self.placement(event, view))
        self.answers.append((view.time_s, repr((event, decisions))))
        return decisions
