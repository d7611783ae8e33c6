"""run(scenario) -> Result: the call that the command line and the notebooks share."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version

import numpy as np
import numpy.typing as npt

from simulator.budgets.answers import facts_of
from simulator.budgets.context import Context
from simulator.budgets.policy import BudgetPolicy, TablePolicy
from simulator.budgets.resolve import resolve_policy
from simulator.caveats import caveats
from simulator.compare.report import Comparison, compare
from simulator.compare.rl_step import RLStep
from simulator.deployed import cost_of, deployment_of, drafter_of
from simulator.drafting.alone import chosen_steps
from simulator.drafting.drafter import Drafter, LiveDrafter, accepted, past_rows
from simulator.drafting.measure import DraftCurve, DraftProfile, draft_curve
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.replica import compiling
from simulator.engine.workload import Workload, workload_of
from simulator.results import ACCEPTANCE, RL_STEPS, ROLLOUTS, RUNS, STEPS, Result, table
from simulator.scenario import Scenario
from simulator.summary import Episode, rl_step_rows, rollout_block, run_rows, step_blocks
from traces.errors import InputError
from traces.io import read
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]

POLICY_WINDOW = 16
"""RL steps of history that policies learn lengths from, or the drafter's window where that is longer."""


def run(scenario: Scenario, trace: Trace | None = None) -> Result:
    """Replay the scenario's RL steps under each of its policies; InputError says what cannot be used and why.

    Each RL step is drafted from the recorded steps in the window before it, frozen, and from each rollout's own output.
    `trace` saves reading the file again. `seed` names the random numbers of drafters and policies that draw them.
    """
    trace = read(scenario.trace) if trace is None else trace
    cost, steps = cost_of(scenario), chosen_steps(trace, scenario.steps)
    drafter = drafter_of(scenario, trace, cost)
    deployment = deployment_of(scenario, cost, drafter)
    episodes: list[Episode] = []
    rl_steps: list[RLStep] = []
    drafts = DraftProfile()
    policies: dict[str, BudgetPolicy] = {}
    with compiling("siblings" in drafter.learns_from) as engine_ready:
        for step in steps:
            prepared = _prepare(scenario, trace, step, drafter, deployment)
            engine_ready()  # before the clock starts, so that `wall_s` is the simulation's alone
            episodes += _play(scenario, prepared, policies, deployment)
            drafts.add(prepared.workload.acceptance)
            if scenario.compare:
                rl_steps += _repeated(scenario, trace, prepared, drafter)
            else:
                prepared.workload.acceptance.release()
    comparison = _compared(scenario, rl_steps, deployment)
    runs = run_rows(episodes, scenario.policies, drafter)
    warnings = caveats(runs, episodes, trace, steps, cost, drafter, deployment.serving)
    return Result(
        table(RUNS, runs),
        table(RL_STEPS, rl_step_rows(episodes, scenario.policies[0])),
        table(ROLLOUTS, (rollout_block(e, trace.prompt_ids) for e in episodes)),
        table(STEPS, (block for e in episodes for block in step_blocks(e))),
        table(ACCEPTANCE, drafts.blocks()),
        {
            "rolloutsim": version("rolloutsim"),
            "seed": scenario.seed,
            "trace": {"path": trace.source, "sha256": trace.sha256},
            "profile": {"name": cost.name, "sha256": cost.sha256, "relative_error": cost.relative_error},
            "scenario": scenario.model_dump(mode="json"),
            "arrivals": any(e.arrival_s.any() for e in episodes),
            "warnings": warnings,
        },
        comparison,
    )


@dataclass(frozen=True, eq=False)
class _Prepared:
    """One RL step before any policy has decoded it: its rollouts, and the history that is drafted from."""

    step: int
    rows: Int64
    past: Int64
    workload: Workload
    context: Context


def _prepare(scenario: Scenario, trace: Trace, step: int, drafter: Drafter, deployment: Deployment) -> _Prepared:
    rows = np.flatnonzero(trace.step == step)
    past = past_rows(trace, step, drafter.window)
    known = past_rows(trace, step, max(drafter.window, POLICY_WINDOW))
    acceptance = accepted(drafter, trace, rows, past, scenario.seed)
    siblings = drafter.sibling_index(trace, rows, past) if isinstance(drafter, LiveDrafter) else None
    workload = workload_of(trace, rows, acceptance, siblings, scenario.engine.arrivals)
    filled = min(
        deployment.max_num_seqs, -(-rows.size // deployment.replicas)
    )  # the first may get one more than others
    context = Context(
        len(trace.prompt_ids), trace.prompt[known].astype(np.int64), trace.output_tokens[known].astype(np.int64),
        deployment.cost, filled, _curve(drafter, trace, known, scenario.seed), drafter.cost, scenario.seed,
    )  # fmt: skip
    return _Prepared(step, rows, past, workload, context)


def _play(
    scenario: Scenario, prepared: _Prepared, policies: dict[str, BudgetPolicy], deployment: Deployment
) -> Iterator[Episode]:
    """Decode an RL step under each policy; `policies`: those of the RL step before, which give way to these."""
    workload = prepared.workload
    for spec in scenario.policies:
        policy = policies[spec] = resolve_policy(spec, prepared.context, policies.get(spec))
        if isinstance(policy, TablePolicy):
            workload.acceptance.serve(np.unique(policy.budgets))
        started = time.perf_counter()
        outcome = simulate(workload, policy, deployment)
        wall_s = time.perf_counter() - started
        if not np.isfinite(outcome.makespan_s):
            raise InputError(
                f"profile {deployment.cost.name}: its costs add up to {outcome.makespan_s} s: correct them"
            )
        yield Episode(
            spec, prepared.step, workload.requests, workload.output_tokens, outcome, wall_s, facts_of(policy),
            workload.arrivals_s, workload.waits_s,
        )  # fmt: skip


def _repeated(scenario: Scenario, trace: Trace, prepared: _Prepared, drafter: Drafter) -> Iterator[RLStep]:
    """The RL step under each seed of the comparison."""
    assert scenario.compare is not None
    for seed in range(scenario.seed, scenario.seed + scenario.compare.seeds):
        workload = prepared.workload
        if seed != scenario.seed:
            drawn = accepted(drafter, trace, prepared.rows, prepared.past, seed)
            workload = replace(workload, acceptance=drawn)
        context = replace(prepared.context, seed=seed)
        makers = {spec: partial(resolve_policy, spec, context) for spec in scenario.policies}
        yield RLStep(prepared.step, seed, workload, makers)


def _compared(scenario: Scenario, rl_steps: list[RLStep], deployment: Deployment) -> Comparison | None:
    asked = scenario.compare
    if asked is None:
        return None
    return compare(rl_steps, deployment, asked.baseline, asked.bootstrap, scenario.seed, asked.profile_error)


def _curve(drafter: Drafter, trace: Trace, past: Int64, seed: int) -> Callable[[], DraftCurve | None]:
    @cache
    def measure() -> DraftCurve | None:
        return draft_curve(drafter, trace, past, seed) if past.size else None

    return measure
