"""A measured serving run, simulated: the same requests at the same times, through an engine with the same settings."""

from dataclasses import replace
from typing import Literal

import numpy as np

from calibration.runs.deployment import Deployment
from calibration.runs.facts import EngineFacts
from calibration.runs.measured import MeasuredRun, Rollouts
from calibration.validation import COUNTS, SimulatedRun, StepLog
from simulator.budgets.policy import by_live, capped
from simulator.caveats import beyond, derived
from simulator.compare.sensitivity import SAMPLE, bar
from simulator.cost import load_profile
from simulator.cost.draft_cost import FREE, DraftCost
from simulator.cost.errors import in_words, sources_of
from simulator.cost.model import Profile
from simulator.decoded import decoded, ends
from simulator.deployed import deployment_of, drafter_of, target_of
from simulator.drafting.acceptance import Acceptance
from simulator.engine.cluster import Outcome, simulate
from simulator.engine.deployment import Deployment as Engines
from simulator.engine.serving import Serving
from simulator.engine.workload import Workload
from simulator.prepared import Phase, Preparing, Shared
from simulator.records import joined
from simulator.scenario import Scenario
from simulator.validated import made
from traces.errors import InputError

Router = Literal["round_robin", "least_loaded"]


def simulate_run(
    run: MeasuredRun, facts: EngineFacts, profile: Profile, deployment: Deployment | None, router: Router
) -> SimulatedRun:
    """Replay the requests of a run on replicas with its settings, and return when each was queued, began and ended.

    Raises InputError where the profile is of other parallelism than the run was, or does not say that it has the run's experts
    spread.
    """
    _check_parallel(facts, profile)
    replicas = deployment.replicas if deployment else facts.data_parallel_size or 1
    ranks = (facts.data_parallel_size or 1) if facts.enable_expert_parallel else 1
    assert facts.max_num_seqs is not None, "the settings are complete"
    if run.rollouts is None:
        engines = Engines(
            profile, facts.max_num_seqs, replicas, router, serving=serving_of(facts), data_parallel_size=ranks
        )
        outcome = simulate(requests_of(run), by_live([0]), engines)
    else:
        _, outcome = decode(run.rollouts, facts, profile, replicas, router, ranks=ranks)
    rollouts = outcome.rollouts
    preempted, cached = int(rollouts["preempted"].sum()), int(rollouts["cached"].sum())
    notes = [f"{preempted:,} preemptions, {cached:,} tokens found in the prefix cache"] if preempted or cached else []
    if ranks > 1:
        share = float(outcome.waited_s.sum()) / (replicas * float(rollouts["finished_s"].max()))
        notes.append(
            f"{ranks} ranks share experts and step together: {share:.1%} of their time goes by in waiting for each other"
        )
    found = ends([decoded(outcome.logs, SAMPLE)])
    notes += derived(found, profile)
    if outside := beyond(found, profile):
        notes.append("outside the profile's range: " + "; ".join(outside))
    sources = sources_of(profile)
    return SimulatedRun(
        rollouts["queued_s"],
        rollouts["first_token_s"],
        rollouts["finished_s"],
        _steps(outcome),
        float(outcome.extrapolated_s.sum()) / float(outcome.busy_s.sum()),
        bar(profile, sources, [outcome.logs]),
        tuple(in_words(sources)),
        tuple(notes),
        {name: sum(int(log[column].sum()) for log in outcome.logs) for name, column in COUNTS.items()},
    )


def decode(
    rollouts: Rollouts, facts: EngineFacts, cost: Profile, replicas: int = 1, router: Router = "round_robin",
    drafting: DraftCost = FREE, ranks: int = 1,
) -> tuple[Phase, Outcome]:  # fmt: skip
    """Simulate recorded rollouts, all there at once, with the drafts that their tokens allow, and return how that went.

    drafting: what drafting costs, for a drafter whose settings name no cost; ranks: as many replicas step together.
    """
    trace, told = rollouts
    known = cost if told.profile is None else load_profile(told.profile)
    limits = serving_of(facts).model_dump(exclude_defaults=True)
    scenario = made(Scenario, {
        "trace": trace.source, "profile": known.name, "drafter": told.drafter, "policies": [told.policy], "seed": told.seed,
        "engine": {"max_num_seqs": facts.max_num_seqs, "replicas": replicas, "dispatch": router, **limits},
    })  # fmt: skip
    drafter, last = drafter_of(scenario, trace, target_of(scenario, known)), trace.steps[-1]
    preparing = Preparing(scenario, trace, [last], drafter, deployment_of(scenario, known, drafter), None, Shared())
    phase = preparing.phase(0, False, np.ones(int((trace.step == last).sum()), np.bool_))
    deployment = replace(preparing.placed(phase), cost=cost, draft_cost=drafting, data_parallel_size=ranks)
    return phase, simulate(phase.workload, capped(preparing.policy(phase, None), told.most), deployment)


def _check_parallel(facts: EngineFacts, profile: Profile) -> None:
    """InputError where the costs are of another degree than the run; what a profile leaves unsaid is one."""
    said = profile.parallel
    for name, degree, flag in (
        ("tensor_parallel_size", facts.tensor_parallel_size or 1, "--tp"),
        ("expert_parallel_size", _expert_ranks(facts), "--ep"),
    ):
        found = said.get(name, 1)
        if found != degree:
            what = f"says {name} {found}" if name in said else f"says no {name}"
            raise InputError(
                f"profile {profile.name}: {what}, but the run had {degree}: import one with {flag} {degree}, or write "
                f"'parallel: {{{name}: {degree}}}' into it if its costs are of that many GPUs"
            )


def _expert_ranks(facts: EngineFacts) -> int:
    """Over how many GPUs the run spread its experts: all of its tensor- and data-parallel ranks, if asked to, as in vLLM."""
    if not facts.enable_expert_parallel:
        return 1
    return (facts.tensor_parallel_size or 1) * (facts.data_parallel_size or 1)


def requests_of(run: MeasuredRun) -> Workload:
    """The requests of a run as a workload in which nothing is drafted and no two prompts are alike."""
    n = len(run.requests)
    lengths, numbers = run.requests.output_tokens, np.arange(n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    nothing = Acceptance(offsets, lambda budget: np.zeros((int(offsets[-1]), 2), np.uint8), prefix=True)
    return Workload(
        numbers, np.zeros(n, np.int64), run.requests.prompt_tokens, lengths, nothing, arrival_s=run.requests.arrival_s
    )


def serving_of(facts: EngineFacts) -> Serving:
    """The engine's limits and switches from complete settings."""
    return Serving(
        max_num_batched_tokens=facts.max_num_batched_tokens,
        max_model_len=facts.max_model_len,
        enable_chunked_prefill=bool(facts.enable_chunked_prefill),
        block_size=facts.block_size or 16,
        num_gpu_blocks=facts.num_gpu_blocks,
        enable_prefix_caching=bool(facts.enable_prefix_caching) and facts.num_gpu_blocks is not None,
        scheduler_reserve_full_isl=bool(facts.scheduler_reserve_full_isl),
        async_scheduling=bool(facts.async_scheduling),
        cudagraph_capture_sizes=facts.cudagraph_capture_sizes or None,
    )


def _steps(outcome: Outcome) -> StepLog:
    log = joined([one[:] for one in outcome.logs])
    live, waiting, emitted = (log[name].astype(np.int64) for name in ("live", "waiting", "emitted_tokens"))
    replica = np.repeat(np.arange(len(outcome.logs)), [len(one) for one in outcome.logs])
    return StepLog(log["start_s"].copy(), log["duration_s"].copy(), live, waiting, emitted, replica)
