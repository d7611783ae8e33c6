"""run(scenario) -> Result: the call that the command line and the notebooks share."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context, DraftCurve
from simulator.budgets.policy import BudgetPolicy, TablePolicy, by_live
from simulator.budgets.resolve import resolve_policy
from simulator.catalogue import estimate, load_device, load_model
from simulator.caveats import caveats
from simulator.compare.report import compare
from simulator.compare.rl_step import RLStep
from simulator.cost.model import Profile
from simulator.cost.model_config import model_shape
from simulator.cost.profiles import load_profile
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.alone import chosen_steps
from simulator.drafting.drafter import Drafter, past_rows
from simulator.drafting.live import SiblingIndex
from simulator.drafting.measure import DraftProfile, draft_curve
from simulator.drafting.pricing import priced
from simulator.drafting.suffix import Suffix
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.serving import LARGEST_GRAPH, Serving, capture_sizes
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
    cost = cost_of(scenario)
    steps = chosen_steps(trace, scenario.steps)
    drafter = priced(scenario.drafter.drafter(), cost)
    if drafter.needs_tokens and not trace.has_tokens:
        name = scenario.drafter.kind
        raise InputError(
            f"{trace.source}: has no token_ids, which drafter {name} replays: record them, or use drafter none"
        )
    serving, engine = serving_of(scenario, drafter), scenario.engine
    deployment = Deployment(cost, engine.max_num_seqs, engine.replicas, engine.dispatch, drafter.cost, serving)
    _warm_up(cost)
    episodes: list[Episode] = []
    rl_steps: list[RLStep] = []
    drafts = DraftProfile()
    policies: dict[str, BudgetPolicy] = {}
    for step in steps:
        rows = np.flatnonzero(trace.step == step)
        past = past_rows(trace, step, drafter.window)
        known = past_rows(trace, step, max(drafter.window, POLICY_WINDOW))
        acceptance = drafter.accept(trace, rows, past, scenario.seed)
        siblings = _siblings(drafter, trace, rows, past)
        workload = workload_of(trace, rows, acceptance, siblings, scenario.engine.arrivals)
        context = Context(
            len(trace.prompt_ids), trace.prompt[known].astype(np.int64), trace.output_tokens[known].astype(np.int64),
            cost, _slots_filled(scenario, rows.size), _curve(drafter, trace, known, scenario.seed), drafter.cost, scenario.seed,
        )  # fmt: skip
        for spec in scenario.policies:
            policy = policies[spec] = resolve_policy(spec, context, policies.get(spec))
            if isinstance(policy, TablePolicy):
                acceptance.serve(np.unique(policy.budgets))
            started = time.perf_counter()
            outcome = simulate(workload, policy, deployment)
            wall_s = time.perf_counter() - started
            if not np.isfinite(outcome.makespan_s):
                raise InputError(f"profile {cost.name}: its costs add up to {outcome.makespan_s} s: correct them")
            facts = dict(getattr(policy, "facts", {}))
            episodes.append(
                Episode(
                    spec, step, workload.requests, workload.output_tokens, outcome, wall_s, facts,
                    workload.arrivals_s, workload.waits_s,
                )
            )  # fmt: skip
        drafts.add(acceptance)
        if scenario.compare:
            for seed in range(scenario.seed, scenario.seed + scenario.compare.seeds):
                drawn = acceptance if seed == scenario.seed else drafter.accept(trace, rows, past, seed)
                seeded = replace(context, seed=seed)
                makers = {spec: partial(resolve_policy, spec, seeded) for spec in scenario.policies}
                rl_steps.append(RLStep(step, seed, replace(workload, acceptance=drawn), makers))
        else:
            acceptance.release()
    comparison = None
    if scenario.compare:
        asked = scenario.compare
        comparison = compare(rl_steps, deployment, asked.baseline, asked.bootstrap, scenario.seed, asked.profile_error)
    runs = run_rows(episodes, scenario.policies, drafter)
    about = {
        "rolloutsim": version("rolloutsim"),
        "seed": scenario.seed,
        "trace": {"path": trace.source, "sha256": trace.sha256},
        "profile": {"name": cost.name, "sha256": cost.sha256, "relative_error": cost.relative_error},
        "scenario": scenario.model_dump(mode="json"),
        "arrivals": any(e.arrival_s.any() for e in episodes),
        "warnings": caveats(runs, episodes, trace, steps, cost, drafter, serving),
    }
    return Result(
        table(RUNS, runs),
        table(RL_STEPS, rl_step_rows(episodes, scenario.policies[0])),
        table(ROLLOUTS, (rollout_block(e, trace.prompt_ids) for e in episodes)),
        table(STEPS, (block for e in episodes for block in step_blocks(e))),
        table(ACCEPTANCE, drafts.blocks()),
        about,
        comparison,
    )


def cost_of(scenario: Scenario) -> Profile:
    """The profile that the scenario names, or an estimate from its model and device."""
    if scenario.profile is not None:
        return load_profile(scenario.profile)
    assert scenario.model is not None, "the scenario was validated"
    assert scenario.device is not None
    return estimate(scenario.model, scenario.device, scenario.tensor_parallel_size)


def serving_of(scenario: Scenario, drafter: Drafter) -> Serving:
    """The engine's limits, those derived that the scenario leaves to the model, the device and the drafter."""
    engine = scenario.engine
    chosen = {name: getattr(engine, name) for name in Serving.model_fields}
    if engine.num_gpu_blocks == "auto":
        assert scenario.model is not None, "the scenario was validated"
        assert scenario.device is not None
        memory_bytes = int(load_device(scenario.device)["memory_bytes"])
        chosen["num_gpu_blocks"] = model_shape(load_model(scenario.model)).num_gpu_blocks(
            memory_bytes, engine.gpu_memory_utilization, engine.block_size, scenario.tensor_parallel_size
        )
    if engine.lookahead_tokens is None:
        chosen["lookahead_tokens"] = int(getattr(drafter, "lookahead_tokens", 0))
    if engine.cudagraph_capture_sizes == "vllm":
        chosen["cudagraph_capture_sizes"] = capture_sizes(
            engine.max_num_seqs, engine.max_num_batched_tokens or LARGEST_GRAPH, chosen["lookahead_tokens"]
        )
    return Serving(**chosen)


def _slots_filled(scenario: Scenario, rollouts: int) -> int:
    """Return how many of a replica's slots the rollouts can fill; the first may get one more than others."""
    return min(scenario.engine.max_num_seqs, -(-rollouts // scenario.engine.replicas))


def _siblings(drafter: Drafter, trace: Trace, rows: Int64, past: Int64) -> SiblingIndex | None:
    if isinstance(drafter, Suffix) and drafter.siblings == "live":
        return SiblingIndex(drafter, trace, rows, drafter.learn(trace, past))
    return None


def _curve(drafter: Drafter, trace: Trace, past: Int64, seed: int) -> Callable[[], DraftCurve | None]:
    @cache
    def measure() -> DraftCurve | None:
        return draft_curve(drafter, trace, past, seed) if past.size else None

    return measure


def _warm_up(cost: Any) -> None:
    """Load the compiled engine before the clock starts, so that `wall_s` is the simulation's alone."""
    one = np.ones(1, np.int64)
    tables = Acceptance(np.array([0, 1]), lambda budget: np.zeros((1, 2), np.uint8), prefix=True)
    simulate(Workload(one, one, one, one, tables), by_live([0]), Deployment(cost, 1))
