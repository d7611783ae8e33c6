"""Conformance of loops and stages."""

from typing import Any, cast, get_args

import numpy as np

from simulator.cost.model import CostModel, Profile
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.model import Modelled
from simulator.drafting.suffix import Suffix
from simulator.engine.deployment import Deployment
from simulator.prepared import Preparing, Shared
from simulator.scenario import Scenario
from simulator.system_run import SystemRun
from simulator.testing.examples import SEED, example_cost, example_trace, with_rewards
from simulator.training.resolve import resolve_stage
from simulator.training.stage import Per, PreparesStage, Prices, Rollouts, TrainsOnline
from simulator.training.trainer import asked
from traces.trace import Trace

EACH = ("rollout", "drafter", "online")
"""Stages that say seconds of each rollout."""


def check_loop(loop: Any, trace: Trace | None = None, cost: CostModel | None = None) -> None:
    """Assert that a loop keeps its contract, over the RL steps of a trace with rewards and a stage of each kind.

    Checked: every RL step comes to an end with as many groups as it needs, or the run says that the trace has no more; no
    rollout is trained on twice, nor before it has finished; the same run gives the same result again.
    """
    trace, cost = with_rewards(trace or example_trace()), cost or example_cost()
    for max_num_seqs, replicas in ((64, 1), (3, 2)):
        runs = []
        for _ in range(2):
            run = _system_run(loop, trace, cost, max_num_seqs, replicas)
            runs.append(list(run.play()))
            assert run.ran_dry or len(runs[-1]) == len(trace.steps), "every RL step ends"
            trained = np.concatenate(run.batches)
            assert np.unique(trained).size == trained.size, "nothing is trained on twice"
            assert run.stream.finished[trained].all(), "what is trained on has finished"
            for step, batch in zip(runs[-1], run.batches, strict=False):
                assert batch.size > 0, "an RL step trains on something"
                assert step.start_s <= step.end_s <= step.trained_s, "time goes on"
        first, again = ([(step.start_s, step.end_s, step.trained_s) for step in steps] for steps in runs)
        assert first == again, "the same run gives the same result: seed what is random, keep no state"


def check_stage(stage: Any, trace: Trace | None = None) -> None:
    """Assert that a stage keeps its contract: seconds are finite, 0 or more, one for each rollout or for all, and no dice.

    stage: what `module:attr` would name, with `prepare` where it has one.
    """
    trace = trace or example_trace()
    if isinstance(stage, PreparesStage):
        stage = stage.prepare(Prices(trace, cast(Profile, example_cost()), None, None, 1, SEED))
    assert stage.per in get_args(Per), f"per is one of {', '.join(get_args(Per))}"
    assert stage.name, "it has a name"
    assert stage.basis, "basis says what its seconds rest on"
    for rows in (np.arange(len(trace)), np.arange(3), np.arange(0)):
        rollouts = Rollouts(
            rows, trace.prompt_tokens[rows].astype(np.int64), trace.output_tokens[rows].astype(np.int64)
        )
        seconds = np.asarray(asked(stage, rollouts), np.float64)
        assert seconds.shape in ((), rows.shape), "seconds are one number, or one for each rollout"
        assert stage.per in EACH or seconds.shape == (), "a stage of the batch takes so many seconds in all"
        assert np.array_equal(seconds, np.asarray(asked(stage, rollouts))), "the same rollouts take the same time"
        if stage.per in EACH and rows.size > 1 and seconds.shape:
            part = Rollouts(rows[1:], rollouts.prompt_tokens[1:], rollouts.output_tokens[1:])
            assert np.array_equal(seconds[1:], np.asarray(asked(stage, part))), (
                "a rollout takes its time whoever is beside it"
            )
    if stage.per == "online":
        _check_online(stage, trace)


def _check_online(stage: Any, trace: Trace) -> None:
    """A trainer beside serving can fill its batch, and a drafter that has learnt nothing drafts as before."""
    assert isinstance(stage, TrainsOnline), "a stage beside serving says how it trains"
    assert stage.samples_per_s > 0, "it trains"
    assert stage.pool >= stage.batch >= 1, "the samples of a trainer step can wait"
    assert stage.sync >= 1, "so many trainer steps make a version"
    assert np.isfinite(stage.pause_s), "a pause ends"
    assert stage.pause_s >= 0, "a pause takes time"
    assert stage.gpus >= 0, "it has GPUs, or shares those that are there"
    assert stage.domains.shape == (len(trace),), "every rollout has a domain"
    assert stage.domains.min() >= 0, "domains are numbered from 0 on"
    rows, nobody = np.arange(len(trace)), np.arange(0)
    before = Modelled("eagle", AcceptanceCurve((0.7, 0.6, 0.5)))
    after = stage.learnt(before, np.zeros(int(stage.domains.max()) + 1, np.int64))
    tables = [one.accept(trace, rows, nobody, SEED).tables[0] for one in (before, after)]
    assert np.array_equal(*tables), "nothing learnt, nothing changed"


def _system_run(loop: Any, trace: Trace, cost: CostModel, max_num_seqs: int, replicas: int) -> SystemRun:
    scenario = Scenario(trace="example", profile="example", policies=["fixed:2"], drafter={"kind": "suffix"})  # type: ignore[arg-type]
    deployment = Deployment(cost, max_num_seqs, replicas)
    stages = [
        resolve_stage(stage, Prices(trace, cast(Profile, cost), None, None, 1, SEED))
        for stage in ("reward:seconds=0.25,servers=2", "update:seconds=0.5", "sync:seconds=0.125")
    ]
    preparing = Preparing(scenario, trace, trace.steps, Suffix(), deployment, None, Shared())
    return SystemRun("loop", preparing, loop, stages, lambda: None)
