"""run(scenario) -> Result: the call that the command line and the notebooks share."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import zip_longest
from typing import Any

from simulator.begin import begin
from simulator.budgets.resolve import resolve_policy
from simulator.caveats import caveats
from simulator.compare.report import Comparison, compare
from simulator.compare.rl_step import RLStep
from simulator.compare.sensitivity import bars, joined
from simulator.compare.throughput import Throughput, speedup
from simulator.cost.breakdown import spent
from simulator.cost.errors import Source, sources_of
from simulator.deployed import (
    costs_of,
    target_of,
)
from simulator.draft_cache import DraftCache
from simulator.drafting.alone import chosen_steps
from simulator.drafting.drafter import Target, strategies_of
from simulator.drafting.measure import DraftProfile
from simulator.drafting.strategy import passes_by_tokens
from simulator.engine.deployment import Deployment, profile_of
from simulator.engine.fleet import compiling
from simulator.played import Played, Step
from simulator.prepared import Phase, Shared
from simulator.progress import doing, each
from simulator.results import ACCEPTANCE, OPERATORS, RL_STEPS, ROLLOUTS, RUNS, SPANS, STEPS, Result, table
from simulator.scenario import Scenario
from simulator.summary import rl_step_rows, rollout_block, run_rows, span_block, step_blocks, with_errors
from simulator.system import System
from simulator.system_run import SystemRun
from simulator.systems.needs import lacking
from simulator.training.loop import Watches
from traces.errors import InputError, UnfitTraceError
from traces.io import read
from traces.trace import Trace

MOST_STEPS = 4_000_000
"""Decode steps that a result keeps one by one, of all systems together: about 1 GB."""


def run(scenario: Scenario, trace: Trace | None = None, cache: DraftCache | None = None) -> Result:
    """Play each of the scenario's systems over its RL steps; InputError says what cannot be used and why.

    Each RL step is drafted from the recorded steps in the window before it, frozen, and from each rollout's own output.
    `trace` saves reading the file again, `cache` making its drafts again. `seed` names the random numbers of drafters, policies
    and stages that draw them.
    """
    if trace is None:
        with doing("reading"):
            trace = read(scenario.trace)
    (cost, from_where), steps = costs_of(scenario), chosen_steps(trace, scenario.steps)
    engine, shared = _Ready(), Shared(cache=cache)
    begun, left_out = _begun(scenario, trace, target_of(scenario, cost), steps, shared, engine)
    runs, played = [run_ for run_, _ in begun], [one for _, one in begun]
    drafts, rl_steps = _play(scenario, runs, played, shared, engine)
    runs, played, left_out = _ended(trace, runs, played, left_out)
    deployment, rows = runs[0].preparing.deployment, run_rows(played)
    sources = _errors(scenario, runs, played, rows)
    together = zip_longest(*(one.steps for one in played))
    episodes = [step.episode for steps_ in together for step in steps_ if step is not None]
    prompt_ids = {run_.name: run_.preparing.trace.prompt_ids for run_ in runs}
    arriving = [run_ for run_ in runs if not isinstance(run_.loop, Watches)]
    return Result(
        table(RUNS, rows),
        table(RL_STEPS, rl_step_rows(played)),
        table(ROLLOUTS, (rollout_block(e, prompt_ids[e.system]) for e in episodes)),
        table(STEPS, (block for e in episodes for block in step_blocks(e))),
        table(ACCEPTANCE, drafts.blocks()),
        table(SPANS, map(span_block, played)),
        table(OPERATORS, map(_operators, runs, played)),
        {
            "rolloutsim": version("rolloutsim"),
            "seed": scenario.seed,
            "trace": {"path": trace.source, "sha256": trace.sha256},
            "profile": {
                "name": cost.name,
                "source": cost.source,
                "sha256": cost.sha256,
                "relative_error": cost.relative_error,
            },
            "scenario": scenario.model_dump(mode="json"),
            "arrivals": any(step.episode.arrival_s.any() for run_ in arriving for step in run_.steps),
            "errors": [asdict(source) for source in sources],
            "left_out": left_out,
            "warnings": [
                *from_where,
                *_forgotten(played),
                *caveats(rows, played, trace, steps, cost, deployment.serving),
            ],
        },
        _compared(scenario, rl_steps, deployment, {one.system.name for one in played if not one.lossless}),
    )


def _begun(
    scenario: Scenario, trace: Trace, target: Target, steps: list[int], shared: Shared, engine: "_Ready"
) -> tuple[list[tuple[SystemRun, Played]], dict[str, str]]:
    """The run of each system before anything moves, and why others cannot be run; the first must be."""
    served, left_out = _served(scenario, trace, steps)
    begun = []
    for one in served:
        try:
            begun.append(begin(scenario, one, trace, target, steps, shared, engine))
        except UnfitTraceError as error:
            if one is served[0]:
                raise
            left_out[one.name] = str(error)
    return begun, left_out


def _served(scenario: Scenario, trace: Trace, steps: list[int]) -> tuple[list[System], dict[str, str]]:
    """The systems that can be run, and why others cannot, by name; InputError where none can."""
    why = {one.name: lacking(one, scenario, trace, steps) for one in scenario.compared}
    served = [one for one in scenario.compared if why[one.name] is None]
    if not served:
        name, told = next(iter(why.items()))
        raise InputError(f"{trace.source}: system {name} cannot be run: {told}: record what it needs, or name another")
    return served, {name: told for name, told in why.items() if told is not None}


def _ended(
    trace: Trace, runs: list[SystemRun], played: list[Played], left_out: dict[str, str]
) -> tuple[list[SystemRun], list[Played], dict[str, str]]:
    """The systems that did something in an RL step, and why others are left out; InputError where the first one did not."""
    why = {one.system.name: _idle(one) for one in played if _idle(one)}
    if told := why.get(name := played[0].system.name):
        raise InputError(f"{trace.source}: system {name}: {told}")
    runs = [run_ for run_ in runs if run_.name not in why]
    return runs, [one for one in played if one.system.name not in why], left_out | why


def _idle(one: Played) -> str:
    """Why a system has no RL step, or nothing to do in any; nothing where it has."""
    if not one.steps:
        return f"loop {one.system.loop} keeps too few groups for one RL step: record more, or use another"
    if not any(step.decoded.steps for step in one.steps):
        return "no rollout of these RL steps has a token left to generate: play an earlier RL step besides"
    return ""


def _errors(
    scenario: Scenario, runs: list[SystemRun], played: list[Played], rows: list[dict[str, Any]]
) -> list[Source]:
    """Add to the rows how far off they may be; returns the sources of error of the first system."""
    error = scenario.compare.profile_error if scenario.compare else None
    first, throughputs = list[Source](), list[Throughput]()
    for row, run_, one in zip(rows, runs, played, strict=True):
        cost = profile_of(run_.preparing.deployment)
        sources = sources_of(cost, error, run_.preparing.deployment.serving.step_overhead_s)
        effects = bars(cost, sources, joined([step.decoded.sample for step in one.steps if step.decoded.sample]))
        throughputs.append(one.throughput(cost.name, effects))
        names = ("gpu_speedup", "gpu_speedup_low", "gpu_speedup_high")
        row |= with_errors(row["makespan_s"], effects)
        row |= dict(zip(names, speedup(throughputs[0], throughputs[-1]), strict=True))
        first = first or sources
    return first


def _operators(run_: SystemRun, one: Played) -> dict[str, Any]:
    """The block of `operators` of one system."""
    steps = joined([step.decoded.sample for step in one.steps if step.decoded.sample])
    seconds = spent(profile_of(run_.preparing.deployment), steps.log, steps.stands_for)
    return {"system": one.system.name, "operator": list(seconds), "seconds": list(seconds.values())}


def _forgotten(played: list[Played]) -> list[str]:
    """A line where the table of decode steps is not whole."""
    taken = [(step.number, step.decoded.steps) for one in played for step in one.steps]
    if (steps := sum(count for _, count in taken)) <= MOST_STEPS:
        return []
    return [
        f"the table `steps` has the first {MOST_STEPS:,} of {steps:,} decode steps at most: run fewer systems for the rest"
    ]


class _Ready:
    """What waits for the engine's code: known once it is being compiled."""

    wait: Callable[[], None]

    def __call__(self) -> None:
        self.wait()


@dataclass
class _Room:
    """Decode steps that are kept one by one; those beyond MOST_STEPS are forgotten as soon as they are added up."""

    taken: int = 0

    def kept(self, steps: Iterator[Step]) -> Iterator[Step]:
        """Yield RL steps, those without their decode steps for which there is no room."""
        for step in steps:
            self.taken += step.decoded.steps
            if self.taken > MOST_STEPS:
                step.forget()
            yield step


def _play(
    scenario: Scenario, runs: list[SystemRun], played: list[Played], shared: Shared, engine: _Ready
) -> tuple[DraftProfile, list[RLStep]]:
    """Play all systems RL step by RL step, so that they share drafts; returns what the first one's drafter does, and the RL
    steps of a comparison.
    """  # fmt: skip
    drafts, rl_steps = DraftProfile(passes_by_tokens(strategies_of(played[0].drafter))), list[RLStep]()
    room = _Room()
    with compiling(any("siblings" in one.drafter.learns_from for one in played)) as engine.wait:
        for found in each(
            _step_by_step([room.kept(run_.play()) for run_ in runs]), "RL step", len(runs[0].preparing.steps)
        ):
            phases = [None if step is None else run_.phases.popleft() for run_, step in zip(runs, found, strict=True)]
            for one, step in zip(played, found, strict=True):
                if step is not None:
                    one.steps.append(step)
            if (first := phases[0]) is not None:
                for acceptance in first.acceptances:
                    drafts.add(acceptance)
                if scenario.compare:
                    rl_steps += _repeated(scenario, runs[0], first)
            shared.made.clear()
            for run_ in runs:
                run_.preparing.trace.release()
    return drafts, rl_steps


def _step_by_step(plays: list[Iterator[Step]]) -> Iterator[list[Step | None]]:
    """Yield each RL step as all systems played it; None for those that are through."""
    while any(found := [next(play, None) for play in each(plays, "system")]):
        yield found


def _repeated(scenario: Scenario, run_: SystemRun, phase: Phase) -> Iterator[RLStep]:
    """The RL step under each seed of the comparison."""
    assert scenario.compare is not None
    for seed in range(scenario.seed, scenario.seed + scenario.compare.seeds):
        workload = phase.workload
        if seed != scenario.seed and workload.siblings is None:
            rows = run_.stream.rows[phase.numbers]
            workload = replace(workload, acceptance=run_.preparing.accepted(rows, phase.past, seed))
        context = replace(phase.context, seed=seed)
        makers = {spec: partial(resolve_policy, spec, context) for spec in scenario.policies}
        yield RLStep(phase.step, seed, workload, makers)


def _compared(scenario: Scenario, rl_steps: list[RLStep], deployment: Deployment, lossy: set[str]) -> Comparison | None:
    asked = scenario.compare
    if asked is None:
        return None
    return compare(
        rl_steps, deployment, asked.baseline, asked.bootstrap, scenario.seed, asked.profile_error, lossy=lossy
    )
