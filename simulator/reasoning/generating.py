"""From what a system says of reasoning steps to what generates an RL step's rollouts by them."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt

from simulator.budgets.policy import BudgetPolicy
from simulator.cost import Affine, Profile
from simulator.cost.model import CostModel
from simulator.cost.operators import row
from simulator.deployed import costs_of
from simulator.drafting.reasoning import draw_steps
from simulator.engine.deployment import Deployment
from simulator.engine.lookahead_run import Ahead, Lookahead, look_ahead
from simulator.engine.workload import Workload
from simulator.reasoning.resolve import Reasoning
from simulator.scenario import Scenario
from traces.errors import InputError, UnfitTraceError
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Generate = Callable[[Workload, BudgetPolicy, Deployment, Int64], Ahead]
"""From an RL step's rollouts, policy, deployment and rows of the trace to what came of them."""


def generating(reasoning: Reasoning, scenario: Scenario, trace: Trace) -> Generate | None:
    """Return what generates an RL step's rollouts so; None where nothing is drafted ahead.

    scenario: as it is for this system. Raises UnfitTraceError for rollouts that arrive or wait, and for ranks that step together;
    InputError where costs lack something.
    """
    if reasoning.depth == 0:
        return None
    _check_fit(scenario, trace)

    @cache
    def cost(model: str | float) -> CostModel:
        return _cost(model, scenario)

    judge = None if reasoning.judge == 0.0 else cost(reasoning.judge)
    lookahead = Lookahead(reasoning.depth, reasoning.waits, cost(reasoning.draft), judge, reasoning.share)

    prices: dict[str, float | str] = {
        "draft_price": lookahead.draft.name,
        "judge_price": judge.name if judge else "none",
    }

    def generate(workload: Workload, policy: BudgetPolicy, deployment: Deployment, rows: Int64) -> Ahead:
        drawn = draw_steps(trace, rows, scenario.seed, reasoning.law)
        found = look_ahead(workload, policy, deployment, drawn, lookahead)
        return replace(found, facts=found.facts | prices)

    return generate


def _check_fit(scenario: Scenario, trace: Trace) -> None:
    there = {name for name in trace.table.column_names if trace.table.column(name).null_count < len(trace)}
    if "turns" in there or ("arrival_s" in there and scenario.engine.arrivals):
        what = "wait for tools (turns)" if "turns" in there else "arrive (arrival_s): set engine.arrivals to false"
        raise UnfitTraceError(f"{trace.source}: reasoning lookahead plays rollouts that never wait, and these {what}")
    if (ranks := scenario.engine.data_parallel_size) > 1:
        raise UnfitTraceError(
            f"engine.data_parallel_size = {ranks}: reasoning lookahead plays replicas that step by themselves: give 1"
        )


def _cost(model: str | float, scenario: Scenario) -> CostModel:
    """Costs of an engine beside the target: of a model on one GPU of the scenario's device, or a constant."""
    if isinstance(model, float):
        told = f"{model:g} s a decode step, as given"
        constant = Affine("given", row(constant=model))
        return Profile("given", "affine", (constant,), "none", "none", told, "as given")
    if scenario.device is None:
        raise InputError(
            f"reasoning lookahead: {model} has no price: name model and device in the scenario, or give draft_s and judge_s"
        )
    engine = scenario.engine.model_copy(update={"data_parallel_size": 1})
    beside = {"profile": None, "model": model, "tensor_parallel_size": 1, "engine": engine}
    return costs_of(scenario.model_copy(update=beside))[0]
