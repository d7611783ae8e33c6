"""Conformance checks for anybody's parts: run them in your tests; AssertionError says what fails."""

from functools import partial
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from simulator.budgets.context import Context
from simulator.budgets.policy import BudgetPolicy, by_live
from simulator.budgets.resolve import prepared
from simulator.budgets.view import BatchView
from simulator.cost.draft_cost import DraftCost
from simulator.cost.kernel import step_times
from simulator.cost.model import CostModel, Profile
from simulator.cost.operators import Affine, row
from simulator.cost.work import StepWork
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.drafter import Drafter, past_rows
from simulator.drafting.draws import rollout_keys
from simulator.drafting.measure import draft_curve
from simulator.drafting.model import Modelled
from simulator.drafting.suffix import Suffix
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from simulator.limits import LARGEST_BUDGET
from simulator.prepared import Preparing, Shared
from simulator.scenario import Scenario
from simulator.scheduling.placement import Event, KnowsLengths, Placement, View, events_of
from simulator.scheduling.resolve import prepared_placement
from simulator.system_run import SystemRun
from simulator.training.resolve import resolve_stage
from simulator.training.stage import Per, PreparesStage, Prices, Rollouts, TrainsOnline
from simulator.training.trainer import asked
from simulator.transforms.prefixes import NOBODY, KeepsPrefixes, Kept, kept_of
from simulator.transforms.transform import ChangesRollouts
from traces.io import from_table
from traces.synthesis import synth
from traces.trace import Trace
from traces.validation import validate

Int64 = npt.NDArray[np.int64]

PLAIN = ("step", "prompt_id", "sample", "prompt_tokens", "prompt_token_ids")
NAMES = ("step", "prompt_id", "sample")
SEED = 20
EACH = ("rollout", "drafter", "online")
"""Stages that say seconds of each rollout."""


def example_trace(seed: int = SEED) -> Trace:
    """Return a made-up trace: 3 RL steps of 5 prompts x 3 samples, about 60 tokens each, with token ids."""
    return from_table(
        synth(prompts=5, samples=3, steps=3, median_tokens=60, max_tokens=300, seed=seed), "example trace"
    )


def example_cost() -> CostModel:
    """Return an affine cost model: 5 ms a step, 20 us a query token, 40 ns a KV token."""
    operator = Affine("step", row(constant=5e-3, query_tokens=2e-5, kv_tokens=4e-8))
    return Profile("example", "affine", (operator,), "none", "none", "made up for tests", "made up")


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
                workload, context = _rl_step(trace, step, cost, max_num_seqs)
                ready = prepared(policy, context, repr(policy))
                outcomes.append(simulate(workload, ready, Deployment(cost, max_num_seqs, replicas), check=True))
            emitted = int(sum(log["emitted_tokens"].sum() for log in outcomes[0].logs))
            assert emitted == int(workload.output_tokens.sum()), "every token is emitted"
            first, again = (o.rollouts.tobytes() for o in outcomes)
            assert first == again, "the same run gives the same result: seed what is random, keep no state"
            assert outcomes[0].makespan_s == outcomes[1].makespan_s
    _check_causal(policy, trace, cost)


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
                workload, context = _rl_step(trace, step, cost, max_num_seqs)
                ready = _shown(prepared_placement(placement, context, repr(placement)), trace, step)
                deployment = Deployment(cost, max_num_seqs, replicas, ready, pull_s_per_token=1e-6)
                outcomes.append(simulate(workload, by_live([2]), deployment, check=True))
            emitted = int(sum(log["emitted_tokens"].sum() for log in outcomes[0].logs))
            assert emitted == int(workload.output_tokens.sum()), "every token is emitted once"
            first, again = (o.rollouts.tobytes() for o in outcomes)
            assert first == again, "the same run gives the same result: seed what is random, keep no state"
    _, context = _rl_step(trace, trace.steps[-1], cost, 1)
    if not isinstance(prepared_placement(placement, context, repr(placement)), KnowsLengths):
        _check_causal_placement(placement, trace, cost)


def _shown(placement: Placement, trace: Trace, step: int) -> Placement:
    """An oracle, once it has been shown an RL step's lengths; any other as it is."""
    if not isinstance(placement, KnowsLengths):
        return placement
    rows = np.flatnonzero(trace.step == step)
    assert placement.knows, "knows says what it knows"
    return placement.shown(trace.output_tokens[rows].astype(np.int64), rollout_keys(trace, rows, SEED, "placement"))


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


def check_transform(transform: Any, trace: Trace | None = None) -> None:
    """Assert that a transform keeps its contract on a trace with token ids and rewards.

    transform: what `module:attr` would name. Checked: it says what it is; the trace it makes is valid, of the same RL steps, with
    the rollouts that were there before in their order; the trace it was given stays as it was; the same arguments give the same
    trace; and what becomes of a rollout does not depend on where it stands.
    """
    assert transform.name, "it has a name"
    assert isinstance(transform.lossless, bool), "lossless is True or False"
    assert transform.assumes, "assumes says what is not known"
    assert "\n" not in transform.assumes, "assumes is one line"
    if not isinstance(transform, ChangesRollouts):
        return
    trace = with_rewards(trace or example_trace())
    before = from_table(trace.table, trace.source).sha256
    made = transform.rollouts(trace, SEED)
    validate(made.table, "transformed trace")
    assert made.table.schema.names == list(dict.fromkeys(made.table.schema.names)), "each column is there once"
    assert made.steps == trace.steps, "RL steps stay"
    assert from_table(trace.table, trace.source).sha256 == before, "the trace given stays as it was"
    assert made.table.equals(transform.rollouts(trace, SEED).table), "the same arguments give the same trace"
    places = {key: place for place, key in enumerate(_names(trace))}
    kept = [places[key] for key in _names(made) if key in places]
    assert kept == sorted(kept), "rollouts stay in their order"
    backwards = transform.rollouts(trace.select(np.arange(len(trace))[::-1]), SEED)
    one, other = (each.table.sort_by([(name, "ascending") for name in NAMES]) for each in (made, backwards))
    assert one.equals(other), "what becomes of a rollout does not depend on where it stands"


def _names(trace: Trace) -> list[tuple[Any, ...]]:
    return list(zip(*(trace.table.column(name).to_pylist() for name in NAMES), strict=True))


def with_rewards(trace: Trace) -> Trace:
    """Return a trace with rewards: 1 for the samples of even number of all prompts but the first, where all are 0."""
    if "reward" in trace.table.column_names:
        return trace
    rewards = ((trace.sample % 2 == 0) & (trace.prompt > 0)).astype(np.float64)
    return from_table(trace.table.append_column("reward", pa.array(rewards)), trace.source)


def _system_run(loop: Any, trace: Trace, cost: CostModel, max_num_seqs: int, replicas: int) -> SystemRun:
    scenario = Scenario(trace="example", profile="example", policies=["fixed:2"], drafter={"kind": "suffix"})  # type: ignore[arg-type]
    deployment = Deployment(cost, max_num_seqs, replicas)
    stages = [
        resolve_stage(stage, Prices(trace, cast(Profile, cost), None, None, 1, SEED))
        for stage in ("reward:seconds=0.25,servers=2", "update:seconds=0.5", "sync:seconds=0.125")
    ]
    preparing = Preparing(scenario, trace, trace.steps, Suffix(), deployment, None, Shared())
    return SystemRun("loop", preparing, loop, stages, lambda: None)


def _check_causal_placement(placement: Any, trace: Trace, cost: CostModel) -> None:
    """Two runs whose rollouts differ only in how long they go on are placed alike until one of them shows it."""
    step, rows = trace.steps[-1], np.flatnonzero(trace.step == trace.steps[-1])
    short = int(trace.output_tokens[rows].min())
    seen: list[list[tuple[float, str]]] = []
    for extra in (0, 40):
        workload, context = _rl_step(trace, step, cost, rows.size)
        lengths = np.full(rows.size, short + extra)
        nothing = Acceptance(
            np.concatenate([[0], np.cumsum(lengths)]), partial(_no_drafts, int(lengths.sum())), prefix=True
        )
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


def check_drafter(drafter: Drafter, trace: Trace | None = None) -> None:
    """Assert that a drafter keeps its contract.

    Checked: tables are uint8; accepted <= drafted <= budget; what is accepted ends with the rollout; smaller budgets get no more;
    where it says that one table serves all budgets the smaller budget's draft is a prefix; the same seed gives the same tables
    and the order of the rollouts does not matter; what is drafted at a position does not depend on tokens after it, nor on
    where the rollout ends, nor on other rollouts of the same RL step, nor on RL steps outside its window.
    """
    trace = trace or example_trace()
    rows = np.flatnonzero(trace.step == trace.steps[-1])
    past = past_rows(trace, trace.steps[-1], drafter.window)
    assert isinstance(drafter.cost, DraftCost), "cost is a DraftCost"
    assert isinstance(drafter.lossless, bool), "lossless is True or False"
    assert drafter.describe(), "describe() names it"
    acceptance = drafter.accept(trace, rows, past, SEED)
    left = _left(acceptance)
    before = None
    for budget in (0, 1, 3, 8, LARGEST_BUDGET):
        accepted, drafted = _table(acceptance, budget)
        assert (accepted <= drafted).all(), "no more is accepted than drafted"
        assert (drafted <= budget).all(), "a draft keeps to its budget"
        assert (accepted <= left).all(), "what is accepted ends with the rollout"
        if acceptance.prefix and before is not None:
            assert (accepted >= before).all(), "a larger budget accepts no less"
        before = accepted
        repeated = _table(drafter.accept(trace, rows, past, SEED), budget)
        assert (accepted == repeated[0]).all(), "the same seed gives the same drafts"
        assert (drafted == repeated[1]).all(), "the same seed gives the same drafts"
        backwards = drafter.accept(trace, rows[::-1].copy(), past, SEED)
        for table, other in zip((accepted, drafted), _table(backwards, budget), strict=True):
            parts = np.split(other, backwards.offsets[1:-1])[::-1]
            assert (table == np.concatenate(parts)).all(), "the order of the rollouts does not matter"
        if "siblings" not in drafter.learns_from:
            for i in (0, rows.size - 1):
                alone = _table(drafter.accept(trace, rows[i : i + 1], past, SEED), budget)
                span = slice(acceptance.offsets[i], acceptance.offsets[i + 1])
                assert (alone[1] == drafted[span]).all(), "siblings are not known yet"
    if drafter.needs_tokens:
        _check_no_foresight(drafter, trace, rows, past)


def check_cost_model(cost: CostModel) -> None:
    """Assert that a cost model keeps its contract.

    Checked: seconds are finite and positive, in the shape of the work; the compiled evaluator gives the same; a step costs
    no less for more query tokens or longer contexts; `outside` gives a flag for each step.
    """
    live = np.array([1.0, 4.0, 32.0, 256.0])[:, None]
    width = np.array([1.0, 2.0, 5.0, 17.0])[None, :]
    context = 700.0
    work = StepWork(live, live * width, live * context, live * width * context, np.zeros((4, 4)))
    seconds = cost.step_time_s(work)
    assert seconds.shape == (4, 4), "one value for each step"
    assert np.isfinite(seconds).all(), "seconds are finite"
    assert (seconds > 0).all(), "a step takes time"
    assert (np.diff(seconds, axis=1) >= 0).all(), "more query tokens cost no less"
    longer = cost.step_time_s(StepWork(live, live * width, live * 3000.0, live * width * 3000.0, np.zeros((4, 4))))
    assert (longer >= seconds).all(), "a longer context costs no less"
    outside = cost.outside(work)
    assert outside.shape == (4, 4), "one flag for each step"
    assert outside.dtype == np.bool_, "flags are bool"
    compiled = step_times(cost.packed, np.stack([field.ravel() for field in work.fields], axis=1)).reshape(4, 4)
    assert np.allclose(compiled, seconds, rtol=1e-12, atol=0), "the compiled evaluator agrees"


def check_prefixes(keeps: KeepsPrefixes, trace: Trace | None = None) -> None:
    """Assert that a transform that keeps prefixes keeps its contract, on a trace with log-probs under two policies.

    Checked: what is verified is an earlier response of the same slot; a prefix is of it, and no longer than the rollout; the same
    seed keeps the same, whoever is asked beside a rollout and in whatever order; verifying takes finite seconds, once for all.
    """
    trace = with_log_probs(trace or example_trace())
    for step in trace.steps:
        rows = np.flatnonzero(trace.step == step)
        whole = kept_of(keeps, trace, rows, SEED)
        has = whole.previous != NOBODY
        mine, earlier = rows[has], whole.previous[has]
        assert (trace.step[earlier] < step).all(), "what is verified is of an earlier RL step"
        assert (trace.prompt[earlier] == trace.prompt[mine]).all(), "what is verified answers the same prompt"
        assert (trace.sample[earlier] == trace.sample[mine]).all(), "what is verified is of the same slot"
        for part in (np.arange(rows.size), np.arange(rows.size)[::-1], np.arange(1)):
            again = kept_of(keeps, trace, rows[part], SEED)
            for one, other in zip(_columns(whole), _columns(again), strict=True):
                assert (one[part] == other).all(), (
                    "what a rollout keeps does not depend on who is asked, nor in which order"
                )
    stage = keeps.verification(Prices(trace, cast(Profile, example_cost()), None, None, 1, SEED), "seconds=1")
    assert stage.per == "batch", "it is verified once for all"
    rollouts = Rollouts(rows, trace.prompt_tokens[rows].astype(np.int64), trace.output_tokens[rows].astype(np.int64))
    assert np.asarray(asked(stage, rollouts)).shape == (), "verifying takes so many seconds in all"


def _columns(kept: Kept) -> tuple[Int64, ...]:
    return kept.previous, kept.prefix_tokens, kept.total_tokens


def with_log_probs(trace: Trace) -> Trace:
    """Return a trace with made-up log-probs of its tokens, under the policy that sampled them and under the next one."""
    if {"logprobs", "next_logprobs"} <= {*trace.table.column_names}:
        return trace
    rng, table = np.random.default_rng(SEED), trace.table
    then = [-2 - rng.random(length) for length in trace.output_tokens.tolist()]
    now = [mine + rng.normal(0, 0.1, mine.size) for mine in then]
    for name, column in (("logprobs", then), ("next_logprobs", now)):
        if name not in table.column_names:
            table = table.append_column(name, pa.array([one.tolist() for one in column], pa.list_(pa.float32())))
    return from_table(table, trace.source)


def _rl_step(trace: Trace, step: int, cost: CostModel, max_num_seqs: int) -> tuple[Workload, Context]:
    rows, drafter = np.flatnonzero(trace.step == step), Suffix()
    past = past_rows(trace, step, drafter.window)
    prompt, sample, prompt_tokens, lengths = (
        column[rows].astype(np.int64)
        for column in (trace.prompt, trace.sample, trace.prompt_tokens, trace.output_tokens)
    )
    workload = Workload(prompt, sample, prompt_tokens, lengths, drafter.accept(trace, rows, past))
    past_prompt, past_lengths = trace.prompt[past].astype(np.int64), trace.output_tokens[past].astype(np.int64)

    def curve() -> Any:
        return draft_curve(drafter, trace, past, SEED) if past.size else None

    return workload, Context(len(trace.prompt_ids), past_prompt, past_lengths, cost, max_num_seqs, curve)


def _check_causal(policy: Any, trace: Trace, cost: CostModel) -> None:
    """Two runs whose rollouts differ only in how long they go on must get the same budgets while all are live."""
    step, rows = trace.steps[-1], np.flatnonzero(trace.step == trace.steps[-1])
    short = int(trace.output_tokens[rows].min())
    seen: list[list[list[int]]] = []
    for extra in (0, 40):
        workload, context = _rl_step(trace, step, cost, rows.size)
        lengths = np.full(rows.size, short + extra)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        nothing = Acceptance(offsets, partial(_no_drafts, int(lengths.sum())), prefix=True)
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


def _no_drafts(positions: int, budget: int) -> npt.NDArray[np.uint8]:
    return np.zeros((positions, 2), np.uint8)


def _check_no_foresight(drafter: Drafter, trace: Trace, rows: Int64, past: Int64) -> None:
    longest = int(rows[trace.output_tokens[rows].argmax()])
    half = int(trace.output_tokens[longest]) // 2
    changed = from_table(trace.table, trace.source)
    start = trace.offsets[longest]
    tokens = changed.tokens.copy()
    tokens[start + half : start + int(trace.output_tokens[longest])] += 1
    vars(changed)["tokens"] = tokens  # where the trace keeps what it has flattened once
    one, short = np.array([longest]), _cut(trace, longest, half)
    for budget in (1, 8):
        drafted = _table(drafter.accept(trace, one, past, SEED), budget)[1]
        other = _table(drafter.accept(changed, one, past, SEED), budget)[1]
        assert (drafted[: half + 1] == other[: half + 1]).all(), "a draft must not depend on tokens after it"
        ended = _table(drafter.accept(short, one, past, SEED), budget)[1]
        assert (drafted[:half] == ended).all(), "a draft must not depend on where the rollout ends"


def _cut(trace: Trace, row: int, tokens: int) -> Trace:
    """The trace with one rollout shorter, its tokens and lengths alone."""
    table = trace.table.combine_chunks()
    kept: dict[str, Any] = {name: table.column(name) for name in table.column_names if name in PLAIN}
    for name, value in (("output_tokens", tokens), ("token_ids", table.column("token_ids")[row].as_py()[:tokens])):
        column = table.column(name)
        kept[name] = pa.chunked_array(
            [*column.slice(0, row).chunks, pa.array([value], column.type), *column.slice(row + 1).chunks]
        )
    return from_table(pa.table(kept), trace.source)


def _table(acceptance: Acceptance, budget: int) -> tuple[Int64, Int64]:
    acceptance.serve([budget])
    table = acceptance.tables[acceptance.table_of[budget]]
    assert table.dtype == np.uint8, "tables are uint8"
    accepted, drafted = np.minimum(table.astype(np.int64), budget).T
    return accepted, drafted


def _left(acceptance: Acceptance) -> Int64:
    lengths = np.diff(acceptance.offsets)
    return np.repeat(acceptance.offsets[1:], lengths) - np.arange(int(acceptance.offsets[-1]))
