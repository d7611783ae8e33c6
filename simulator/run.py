"""run(scenario) -> Result: the call that the command line and the notebooks share."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context, DraftCurve
from simulator.budgets.policy import TablePolicy, by_live
from simulator.budgets.resolve import resolve_policy
from simulator.caveats import caveats
from simulator.cost.profiles import load_profile
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.drafter import Drafter, past_rows
from simulator.drafting.measure import DraftProfile, draft_curve
from simulator.drafting.pricing import priced
from simulator.drafting.settings import SuffixSettings
from simulator.engine.cluster import simulate
from simulator.engine.workload import Workload
from simulator.results import ACCEPTANCE, RL_STEPS, ROLLOUTS, RUNS, STEPS, Result, table
from simulator.scenario import Scenario
from simulator.summary import Episode, rl_step_rows, rollout_block, run_rows, step_blocks
from traces.errors import InputError
from traces.io import read
from traces.trace import Trace

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


def run(scenario: Scenario, trace: Trace | None = None) -> Result:
    """Replay the scenario's RL steps under each of its policies; InputError says what cannot be used and why.

    Each RL step is drafted from the recorded steps in the window before it, frozen, and from each rollout's own output.
    `trace` saves reading the file again. Nothing here draws random numbers; `seed` is recorded for those who plug in.
    """
    trace = read(scenario.trace) if trace is None else trace
    cost = load_profile(scenario.profile)
    steps = _chosen(trace, scenario.steps)
    drafter = priced(scenario.drafter.drafter(), cost)
    if drafter.needs_tokens and not trace.has_tokens:
        name = scenario.drafter.kind
        raise InputError(
            f"{trace.source}: has no token_ids, which drafter {name} replays: record them, or use drafter none"
        )
    _warm_up(cost)
    episodes: list[Episode] = []
    drafts = DraftProfile()
    for step in steps:
        rows = np.flatnonzero(trace.step == step)
        past = past_rows(trace, step, drafter.window)
        acceptance = drafter.accept(trace, rows, past, scenario.seed)
        workload = Workload(
            prompt=trace.prompt[rows].astype(np.int64),
            sample=trace.sample[rows].astype(np.int64),
            prompt_tokens=trace.prompt_tokens[rows].astype(np.int64),
            output_tokens=trace.output_tokens[rows].astype(np.int64),
            acceptance=acceptance,
        )
        context = Context(
            len(trace.prompt_ids), trace.prompt[past].astype(np.int64), trace.output_tokens[past].astype(np.int64),
            cost, scenario.engine.max_num_seqs, _curve(drafter, trace, past, scenario.seed),
        )  # fmt: skip
        for spec in scenario.policies:
            policy = resolve_policy(spec, context)
            if isinstance(policy, TablePolicy):
                acceptance.serve(np.unique(policy.budgets))
            started = time.perf_counter()
            outcome = simulate(workload, cost, policy, **scenario.engine.model_dump(), draft_cost=drafter.cost)
            wall_s = time.perf_counter() - started
            facts = dict(getattr(policy, "facts", {}))
            episodes.append(Episode(spec, step, workload, outcome, wall_s, facts))
        drafts.add(acceptance)
        acceptance.release()
    runs = run_rows(episodes, scenario.policies, drafter)
    about = {
        "rolloutsim": version("rolloutsim"),
        "seed": scenario.seed,
        "trace": {"path": trace.source, "sha256": trace.sha256},
        "profile": {"name": cost.name, "sha256": cost.sha256, "relative_error": cost.relative_error},
        "scenario": scenario.model_dump(mode="json"),
        "warnings": caveats(runs, episodes, trace, steps, cost),
    }
    return Result(
        table(RUNS, runs),
        table(RL_STEPS, rl_step_rows(episodes, scenario.policies[0])),
        table(ROLLOUTS, (rollout_block(e, trace.prompt_ids) for e in episodes)),
        table(STEPS, (block for e in episodes for block in step_blocks(e))),
        table(ACCEPTANCE, drafts.blocks()),
        about,
    )


def acceptance_by_step(
    trace: Trace, settings: SuffixSettings, budget: int, steps: list[int] | None, samples: int | None, prompt: bool
) -> list[dict[str, Any]]:
    """Replay rollouts alone with a constant budget and return the counts of each RL step.

    samples: replay only the first so many samples of each prompt, in sample order (history stays whole); prompt: whether
    prompts are context.
    """
    drafter = replace(settings.drafter(), prompt=prompt)
    found = []
    for step in _chosen(trace, steps):
        rows = np.flatnonzero(trace.step == step)
        if samples is not None:
            rows = rows[_rank_in_group(trace.prompt[rows], trace.sample[rows]) < samples]
        history = drafter.learn(trace, past_rows(trace, step, drafter.window))
        counts = drafter.count(trace, rows, history, budget)
        found.append({"step": step, **asdict(counts), "mean_acceptance_length": counts.mean_acceptance_length,
                      "draft_acceptance_rate": counts.draft_acceptance_rate})  # fmt: skip
    return found


def _rank_in_group(prompt: npt.NDArray[np.int32], sample: npt.NDArray[np.int32]) -> Int64:
    """Return how many samples of the same prompt come before each rollout, by sample number."""
    order = np.lexsort((sample, prompt))
    starts = np.flatnonzero(np.diff(prompt[order], prepend=-1))
    rank = np.empty(prompt.size, np.int64)
    rank[order] = np.arange(prompt.size) - np.repeat(starts, np.diff(starts, append=prompt.size))
    return rank


def _chosen(trace: Trace, steps: list[int] | None) -> list[int]:
    if steps is None:
        return trace.steps
    if missing := sorted(set(steps) - set(trace.steps)):
        known = ", ".join(map(str, trace.steps[:8])) + (", ..." if len(trace.steps) > 8 else "")
        raise InputError(f"{trace.source}: has no RL step {missing[0]}: choose from {known}")
    return sorted(set(steps))


def _curve(drafter: Drafter, trace: Trace, past: Int64, seed: int) -> Callable[[], DraftCurve | None]:
    @cache
    def measure() -> DraftCurve | None:
        return draft_curve(drafter, trace, past, seed) if past.size else None

    return measure


def _warm_up(cost: Any) -> None:
    """Load the compiled engine before the clock starts, so that `wall_s` is the simulation's alone."""
    one = np.ones(1, np.int64)
    tables = Acceptance(np.array([0, 1]), lambda budget: np.zeros((1, 2), np.uint8), prefix=True)
    simulate(Workload(one, one, one, one, tables), cost, by_live([0]), 1)
