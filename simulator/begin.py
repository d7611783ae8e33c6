"""From a system's settings to its run before anything moves: its trace, costs, drafter, deployment, loop and stages."""

from collections.abc import Callable, Sequence

import numpy as np

from simulator.deployed import (
    check_parallel,
    deployment_of,
    drafter_of,
    gpus_per_replica,
    prices_of,
)
from simulator.drafting.drafter import Target
from simulator.played import Played
from simulator.prepared import Preparing, Shared
from simulator.reasoning.generating import generating
from simulator.reasoning.resolve import resolve_reasoning
from simulator.scenario import Scenario
from simulator.system import System
from simulator.system_run import SystemRun
from simulator.training.loop import Judges, Loop, OwnPace, Pipelines, Watches
from simulator.training.resolve import resolve_loop, resolve_stage
from simulator.training.stage import AfterBatch, Stage
from simulator.transforms.apply import facts_told, transformed
from simulator.transforms.prefixes import keeping
from simulator.transforms.resolve import resolve_transform
from simulator.validated import made
from traces.errors import InputError, UnfitTraceError
from traces.trace import Trace


def begin(
    scenario: Scenario, system: System, trace: Trace, target: Target, steps: list[int], shared: Shared, ready: Callable[[], None]
) -> tuple[SystemRun, Played]:  # fmt: skip
    """A system's run before it begins, and what will be told of it."""
    if system.train_share == "balanced":
        system = system.model_copy(update={"train_share": _balanced(scenario, system, trace, target, steps)})
    own = scenario.of(system)
    transforms = [resolve_transform(one) for one in system.transforms]
    trace, target = transformed(transforms, trace, target, scenario.seed)
    cost = target.profile
    drafter = drafter_of(own, trace, target)
    check_parallel(own, cost)
    deployment, loop = deployment_of(own, cost, drafter, target.config), resolve_loop(system.loop)
    prices = prices_of(scenario, system, trace, cost)
    stages = [resolve_stage(stage, prices) for stage in system.stages]
    _check_loop(loop, own, trace, system, stages)
    keeps = keeping(transforms, system.name, system.loop, loop)
    reasoning = resolve_reasoning(system.reasoning) if system.reasoning else None
    ahead = generating(reasoning, own, trace) if reasoning else None
    if ahead and (keeps is not None or isinstance(loop, Watches | OwnPace)):
        raise InputError(
            f"system {system.name}: reasoning lookahead plays rollouts from their first token to their last: use loop sync or "
            "one_step_async, and no transform that keeps what they begin with"
        )
    preparing = Preparing(own, trace, steps, drafter, deployment, system.placement, shared, keeps)
    alike = next((one.partition(":")[2] for one in system.stages if one.partition(":")[0] == "log_probs"), "")
    verification = None if keeps is None else keeps.verification(prices, alike)
    apart = loop.lag > 0 or loop.interrupts or isinstance(loop, Pipelines)
    apart = apart or system.train_gpus is not None or system.train_share is not None
    train_gpus = prices.train_gpus if apart and (stages or system.train_share) else 0
    placement = system.placement or own.engine.dispatch
    one = Played(
        system, drafter, transforms, placement, [*filter(None, [verification]), *stages], deployment.replicas,
        gpus_per_replica(own, cost), train_gpus, facts_told(transforms, trace), reasoning,
    )  # fmt: skip
    return SystemRun(system.name, preparing, loop, stages, ready, verification, ahead), one


def _balanced(scenario: Scenario, system: System, trace: Trace, target: Target, steps: list[int]) -> float:
    """The share of replicas with which the slower of training and generation is fastest, in one RL step without drafts."""
    own = scenario.of(system).engine
    ranks, replicas = own.data_parallel_size, own.replicas
    if replicas == ranks:
        return 0.5

    def seconds(generate: int) -> tuple[float, float]:
        settings = {"name": system.name, "drafter": {"kind": "none"}, "stages": system.stages}
        plain: System = made(System, settings | {"engine": system.engine | {"replicas": generate}})
        step = next(begin(scenario, plain, trace, target, steps[:1], Shared(), lambda: None)[0].play())
        return step.episode.outcome.makespan_s, step.train_s * generate / (replicas - generate)

    few, many = 1, max(replicas // ranks - 1, 1)  # groups of ranks that generate: with more, training takes longer
    while few < many:
        middle = (few + many) // 2
        generation_s, training_s = seconds(middle * ranks)
        few, many = (middle + 1, many) if generation_s > training_s else (few, middle)
    best = min((max(few - 1, 1), few), key=lambda groups: max(seconds(groups * ranks)))
    return 1 - best * ranks / replicas


def _check_loop(loop: Loop, scenario: Scenario, trace: Trace, system: System, stages: Sequence[Stage]) -> None:
    """Raise UnfitTraceError for a trace that lacks what a loop goes by, InputError for stages that it cannot have."""
    if isinstance(loop, Watches) and "arrival_s" in trace.table.column_names and scenario.engine.arrivals:
        raise UnfitTraceError(
            f"{trace.source}: says when rollouts arrive (arrival_s), but loop {system.loop} submits them: "
            "set engine.arrivals to false"
        )
    late = [one.name for one in stages if isinstance(one, AfterBatch) and one.after_batch]
    if late and isinstance(loop, Judges | Pipelines):
        does = "keeps groups by rewards" if isinstance(loop, Judges) else "trains on groups"
        raise InputError(
            f"system {system.name}: loop {system.loop} {does} before it has a batch, and stage {late[0]} waits for the batch: "
            "leave when=batch out"
        )
    if not isinstance(loop, Judges):
        return
    column = trace.table.column("reward") if "reward" in trace.table.column_names else None
    lacking = len(trace) if column is None else int(np.isnan(column.to_numpy()).sum())
    if lacking:
        missing = "has no rewards" if lacking == len(trace) else f"has no reward in {lacking:,} of its rows"
        raise UnfitTraceError(
            f"{trace.source}: {missing}, by which loop {system.loop} keeps groups: record them, or use another loop"
        )
