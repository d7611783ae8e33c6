"""Random workloads, costs and policies, each once for the engine and once for the reference."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.budgets.context import Context
from simulator.budgets.policy import TablePolicy
from simulator.budgets.switch import ALWAYS, Switch
from simulator.cost import Affine, Profile, Roof, Table
from simulator.cost.draft_cost import DraftCost, Forward
from simulator.cost.operators import Operator, row
from simulator.drafting.acceptance import Acceptance
from simulator.engine.cluster import Outcome
from simulator.engine.state import STEP
from simulator.engine.workload import Workload
from tests.reference import cost as reference_cost
from tests.reference import policies
from tests.reference.engine import Cost, Drafting, Policy, Rollout, RunResult, View, Work

Int64 = npt.NDArray[np.int64]

BUDGETS = (0, 1, 2, 3, 5, 8, 255)
"""What random policies choose from; where the draft depends on the budget, rollouts have a pair for each but 0."""

STEP_COLUMNS = (
    "start_s", "dt_s", "live", "query_tokens", "kv_tokens", "prefill_tokens",
    "drafted_tokens", "accepted_tokens", "emitted_tokens",
)  # fmt: skip
"""What the reference logs of a step, by its names; it knows neither what is extrapolated nor vLLM's limits."""
LOGGED = ("start_s", "duration_s", *STEP_COLUMNS[2:])
"""The same by the engine's names."""


# Workloads ------------------------------------------------------------------------------------------------------------


def random_rollout(rng: random.Random, prompt_tokens: int, output_tokens: int, by_budget: bool = False) -> Rollout:
    """A rollout with random tables: one pair for all budgets or one for each, often accepting everything or nothing."""

    def pair(longest: int) -> tuple[list[int], list[int]]:
        drafted = [rng.randint(0, longest) for _ in range(output_tokens)]
        luck, most = rng.choice((0.0, 0.5, 1.0)), [min(d, output_tokens - p) for p, d in enumerate(drafted)]
        return [d if rng.random() < luck else rng.randint(0, d) for d in most], drafted

    if not by_budget:
        return Rollout(prompt_tokens, output_tokens, *pair(rng.choice((10, 10, 255))))
    return Rollout(prompt_tokens, output_tokens, by_budget={k: pair(k) for k in BUDGETS if k})


def workload_of(rollouts: Sequence[Rollout], prompt: Int64 | None = None) -> Workload:
    """The engine's form of the same rollouts; `prompt` groups them (default: each its own)."""
    n = len(rollouts)
    lengths = np.array([r.output_tokens for r in rollouts], np.int64)
    by_budget = bool(rollouts[0].by_budget)

    def table(budget: int) -> npt.NDArray[np.uint8]:
        pairs = [r.by_budget[budget] if by_budget else (r.accepted, r.drafted) for r in rollouts]
        return np.concatenate([np.array(pair, np.uint8).T for pair in pairs])

    acceptance = Acceptance(np.concatenate([[0], np.cumsum(lengths)]), table, prefix=not by_budget)
    prompts = np.array([r.prompt_tokens for r in rollouts], np.int64)
    return Workload(np.arange(n) if prompt is None else prompt, np.arange(n), prompts, lengths, acceptance)


# Costs ----------------------------------------------------------------------------------------------------------------


def profile(kind: str, *operators: Operator) -> Profile:
    return Profile("p", kind, operators, model="m", device="d", source="s", uncertainty="u")


def affine_pair(
    constant: float, live: float, query: float, kv: float, pairs: float, prefill: float
) -> tuple[Profile, Cost]:
    costs = row(constant=constant, live=live, query_tokens=query, kv_tokens=kv, pairs=pairs, prefill_tokens=prefill)
    return profile("affine", Affine("a", costs)), reference_cost.affine(constant, live, query, kv, pairs, prefill)


def roofline_pair(weight_bytes: float, kv_bytes: float, flops: float, flops_per_pair: float) -> tuple[Profile, Cost]:
    """256 bytes/s and 64 flops/s, so that times are dyadic."""
    memory = row(constant=weight_bytes / 256, kv_tokens=kv_bytes / 256)
    compute = row(query_tokens=flops / 64, pairs=flops_per_pair / 64)
    reference = reference_cost.roofline(
        weight_bytes=weight_bytes,
        kv_bytes_per_token=kv_bytes,
        flops_per_token=flops,
        flops_per_pair=flops_per_pair,
        bandwidth_bytes_per_s=256.0,
        peak_flops_per_s=64.0,
    )
    return profile("roofline", Roof("r", memory, compute)), reference


def table_pair(
    features: tuple[str, ...], grid: list[list[float]], values: npt.NDArray[np.float64]
) -> tuple[Profile, Cost]:
    """A table whose values ascend along every axis, so that it stays positive beyond its last points."""
    arrays = tuple(np.array(points) for points in grid)
    return profile("table", Table("t", features, arrays, values)), reference_cost.gridded(
        features, grid, values.tolist()
    )


def random_cost(rng: random.Random) -> tuple[Profile, Cost]:
    """Costs of dyadic numbers, which floats add without rounding: replicas tie when the definitions say so."""
    kind = rng.choice(("unit", "affine", "affine", "roofline", "table"))
    if kind == "unit":
        return affine_pair(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    if kind == "affine":
        return affine_pair(rng.choice((1.0, 0.25)), *(rng.choice((0.0, 0.5, 0.125, 1 / 1024)) for _ in range(5)))
    if kind == "roofline":
        return roofline_pair(*(float(rng.choice((1, 16, 256))) for _ in range(4)))
    features = tuple(rng.sample(reference_cost.FEATURES, rng.randint(1, 3)))
    first = [1.0 if name in ("live", "query_tokens") else 0.0 for name in features]
    values = np.random.default_rng(rng.randrange(2**32)).integers(0, 9, [3] * len(features)) + 0.5
    for axis in range(len(features)):
        values = values.cumsum(axis)
    return table_pair(features, [[least, least + 2.0, least + 10.0] for least in first], values)


def random_drafting(rng: random.Random) -> tuple[DraftCost, Drafting]:
    """What drafting costs, in dyadic numbers; two thirds of the time with a draft model's passes, priced by the work of each."""
    step, query, pass_, pass_kv, drafted, emitted, fraction, once_kv = (
        rng.choice((0.0, 0.0, 0.5, 1 / 64)) for _ in range(8)
    )
    rates_alone = (None, False, False)
    passes, at_once, recomputes = rng.choice(
        (rates_alone, rates_alone, (0, False, False), (3, False, False), (1, True, False), (1, True, True))
    )
    width = rng.choice((1, 4))
    pass_cost, pass_s = affine_pair(*(rng.choice((0.25, 1 / 64, 1 / 1024)) for _ in range(6)))

    def drafting(
        asking: int, longest: int, tokens: int, emitting: int, kv: int, step_s: float, decoding: int, work: Work
    ) -> float:
        if asking == 0:
            return 0.0
        each = drafted * tokens + emitted * emitting
        by_step = fraction * step_s if tokens > 0 else 0.0
        rates = step + query * asking + longest * (pass_ + pass_kv * kv) + each + by_step + once_kv * kv
        times = passes or longest
        if passes is None or times == 0:
            return rates
        context, ran = kv * asking / decoding, tokens + asking if at_once else width * asking
        if recomputes:
            context = ran = context + ran
        another_s = pass_s(asking, ran, context, context * ran / asking, 0)  # type: ignore[arg-type]
        return rates + (another_s if at_once else pass_s(*work) + (times - 1) * another_s)

    forward_cost = None if passes is None else Forward(pass_cost, passes, width, at_once, recomputes)
    return DraftCost(step, query, pass_, pass_kv, drafted, emitted, fraction, once_kv, forward_cost), drafting


# Policies -------------------------------------------------------------------------------------------------------------


def context_of(cost: Profile, max_num_seqs: int) -> Context:
    """What is known before the first RL step."""
    none = np.empty(0, np.int64)
    return Context(0, none, none, cost, max_num_seqs, lambda: None)


@dataclass(frozen=True)
class Hidden:
    """A policy behind a plain callable, which the engine has to ask: every `every` decode steps."""

    policy: Callable[..., npt.ArrayLike]
    every: int = 1
    switch: Switch = ALWAYS

    def __call__(self, view: object) -> npt.ArrayLike:
        return self.policy(view)


def random_table(rng: random.Random, n: int, max_num_seqs: int) -> tuple[TablePolicy, Int64, Policy]:
    """(policy, prompt of each of n rollouts, the reference's form): random rows, stages and budgets by live."""
    rows, stages, width = rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, max_num_seqs + 2)
    boundaries = [sorted(rng.choice((0, 1, 2, 5, 9, 30, 1000)) for _ in range(stages - 1)) for _ in range(rows)]
    budgets = [[[rng.choice(BUDGETS) for _ in range(width)] for _ in range(stages)] for _ in range(rows)]
    prompt = np.array([rng.randrange(5) for _ in range(n)])
    row_of_prompt = None if rng.random() < 0.2 else np.array([rng.randrange(rows) for _ in range(5)])
    policy = TablePolicy(
        np.array(boundaries, np.int64).reshape(rows, stages - 1), np.array(budgets, np.int64), row_of_prompt
    )
    row_of = [0] * n if row_of_prompt is None else row_of_prompt[prompt].tolist()
    beyond = [[[*cell, *[cell[-1]] * max_num_seqs] for cell in stage] for stage in budgets]  # the last one holds
    return policy, prompt, policies.class_table(row_of, boundaries, beyond)


def asked_every(policy: Policy, every: int) -> Policy:
    """The reference's form of `every`: the answer holds for `every` steps (0: for ever) while the batch is the same."""
    held: dict[tuple[int, ...], list[list[int]]] = {}

    def holding(view: View) -> list[int]:
        # A replica's batch is its rollouts in order of admission; no two replicas, and no two times, share one.
        answers = held.setdefault(view.rollouts, [])
        answers.append(policy(view) if not answers or (every and len(answers) % every == 0) else answers[-1])
        return answers[-1]

    return holding


# Comparison -----------------------------------------------------------------------------------------------------------


def assert_same(outcome: Outcome, result: RunResult, relative: float = 0.0) -> None:
    """Every count equal; every time within `relative`."""
    rollouts = outcome.rollouts
    assert rollouts["replica"].tolist() == result.replica
    assert rollouts["steps"].tolist() == result.rollout_steps
    assert rollouts["drafted"].tolist() == result.rollout_drafted
    assert rollouts["accepted"].tolist() == result.rollout_accepted
    np.testing.assert_allclose(rollouts["finished_s"], result.finish_s, rtol=relative, atol=0)
    assert abs(outcome.makespan_s - result.makespan_s) <= relative * result.makespan_s
    assert sum(len(log) for log in outcome.logs) == result.decode_steps
    for replica, log in enumerate(outcome.logs):
        steps = [step for step in result.steps if step.replica == replica]
        expected = np.array([[getattr(step, name) for name in STEP_COLUMNS] for step in steps]).reshape(-1, 9)
        logged = np.stack([log[name] for name in LOGGED], axis=1)
        np.testing.assert_allclose(logged[:, 2:], expected[:, 2:], rtol=0, atol=0)
        np.testing.assert_allclose(logged[:, :2], expected[:, :2], rtol=relative, atol=0)
        assert abs(outcome.busy_s[replica] - sum(step.dt_s for step in steps)) <= 1e-12 * outcome.busy_s[replica]
    column = {name: sum(float(log[name].sum()) for log in outcome.logs) for name in STEP.names}
    assert column["live"] == result.sequence_steps
    assert column["drafted_tokens"] == result.drafted_tokens
    assert column["accepted_tokens"] == result.accepted_tokens
    assert column["emitted_tokens"] == result.output_tokens


def assert_equal(one: Outcome, other: Outcome, factor: float = 1.0) -> None:
    """Everything equal, to the bit, but for the rows of the policy's table; times of `other` are `factor` times as long."""
    for name in set(one.rollouts.dtype.names or ()) - {"row"}:
        scale = factor if name.endswith("_s") else 1
        np.testing.assert_array_equal(one.rollouts[name] * scale, other.rollouts[name], name)
    if factor == 1.0:
        for log, other_log in zip(one.logs, other.logs, strict=True):
            assert log[:].tobytes() == other_log[:].tobytes()
