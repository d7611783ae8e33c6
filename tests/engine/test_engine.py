"""The compiled engine against the reference: every count, every decode step, every completion."""

import random
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.budgets.policy import BudgetPolicy
from simulator.budgets.resolve import resolve_policy
from simulator.budgets.switch import ALWAYS, Switch
from simulator.budgets.view import BatchView
from simulator.engine import replica
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.limits import Dispatch
from tests.engine.workloads import (
    BUDGETS,
    Hidden,
    affine_pair,
    asked_every,
    assert_same,
    context_of,
    profile,
    random_cost,
    random_drafting,
    random_rollout,
    random_table,
    roofline_pair,
    table_pair,
    workload_of,
)
from tests.reference import engine as reference
from tests.reference import policies
from tests.reference.engine import Policy, Rollout, View

Kind = Literal["named", "table", "hidden", "every step", "every n", "on change"]
KINDS: tuple[Kind, ...] = ("named", "table", "hidden", "every step", "every n", "on change")

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=14)
fixed_examples = settings(deadline=None, derandomize=True)


def rollouts_of(rng: random.Random, output_tokens: list[int], by_budget: bool) -> list[Rollout]:
    return [random_rollout(rng, rng.choice((0, 0, 1, 4, 30)), length, by_budget) for length in output_tokens]


def named_pair(rng: random.Random, max_num_seqs: int) -> tuple[str, Policy]:
    k, live = rng.choice(BUDGETS), rng.randint(1, max_num_seqs + 1)
    return rng.choice(
        [
            ("none", policies.none),
            ("unlimited", policies.unlimited),
            (f"fixed:{k}", policies.fixed(k)),
            (f"threshold:{k}@{live}", policies.threshold(k, live)),
        ]
    )


def scattered(prompt_tokens: int, emitted: int, live: int) -> int:
    """A budget that jumps about with whatever both engines know of a rollout."""
    return BUDGETS[(prompt_tokens + 5 * emitted + 3 * live) % len(BUDGETS)]


def scatter(view: BatchView) -> list[int]:
    pairs = zip(view.prompt_tokens, view.emitted_tokens, strict=True)
    return [scattered(int(prompt), int(emitted), view.live) for prompt, emitted in pairs]


def scatter_reference(view: View) -> list[int]:
    return [scattered(*pair, view.live) for pair in zip(view.prompt_tokens, view.emitted_tokens, strict=True)]


def assert_engine_is_the_reference(
    seed: int,
    kind: Kind,
    output_tokens: list[int],
    max_num_seqs: int,
    replicas: int,
    dispatch: Dispatch,
    by_budget: bool,
    switch: Switch = ALWAYS,
) -> None:
    rng = random.Random(seed)
    rollouts = rollouts_of(rng, output_tokens, by_budget)
    cost, cost_reference = random_cost(rng)
    table, prompt, table_reference = random_table(rng, len(rollouts), max_num_seqs)
    policy: BudgetPolicy
    if kind == "named":
        name, policy_reference = named_pair(rng, max_num_seqs)
        policy = resolve_policy(name, context_of(cost, max_num_seqs))
    elif kind == "table":
        policy, policy_reference = table, table_reference
    elif kind == "hidden":
        policy, policy_reference = Hidden(table), table_reference
    else:
        every = {"every step": 1, "every n": rng.randint(2, 6), "on change": 0}[kind]
        policy, policy_reference = Hidden(scatter, every), asked_every(scatter_reference, every)
    policy = replace(policy, switch=switch)  # type: ignore[type-var]
    draft_cost, drafting = random_drafting(rng)
    outcome = simulate(
        workload_of(rollouts, prompt),
        policy,
        Deployment(cost, max_num_seqs, replicas, dispatch, draft_cost),
        check=True,
    )
    result = reference.simulate(
        rollouts, cost_reference, policy_reference, max_num_seqs, replicas, dispatch, drafting,
        switch=(switch.live, switch.patience, switch.reprefill),
    )  # fmt: skip
    assert_same(outcome, result)


@pytest.mark.parametrize("kind", KINDS)
@settings(fixed_examples, max_examples=120)
@given(
    seed=st.integers(0, 2**32),
    output_tokens=lengths,
    max_num_seqs=st.integers(1, 8),
    replicas=st.integers(1, 4),
    dispatch=st.sampled_from(["shared", "static"]),
    by_budget=st.booleans(),
)
def test_engine_is_the_reference(kind: Kind, **scenario) -> None:
    assert_engine_is_the_reference(kind=kind, **scenario)


@pytest.mark.parametrize("kind", KINDS)
@settings(fixed_examples, max_examples=120)
@given(
    seed=st.integers(0, 2**32),
    output_tokens=lengths,
    max_num_seqs=st.integers(1, 8),
    replicas=st.integers(1, 4),
    dispatch=st.sampled_from(["shared", "static"]),
    by_budget=st.booleans(),
    switch=st.builds(Switch, st.integers(1, 5), st.integers(1, 8), st.booleans()),
)
def test_engine_is_the_reference_where_drafting_begins_late(kind: Kind, **scenario) -> None:
    assert_engine_is_the_reference(kind=kind, **scenario)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("log_rows", [1, 2, 5])
def test_a_full_log_changes_nothing(kind: Kind, log_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "LOG_STEPS", log_rows)
    for seed in range(4):
        rng = random.Random(seed)
        output_tokens = [rng.randint(1, 40) for _ in range(12)]
        dispatch: Dispatch = "static" if seed % 2 else "shared"
        assert_engine_is_the_reference(seed, kind, output_tokens, 3, 1 + seed % 3, dispatch, seed > 1)


@pytest.mark.parametrize("dispatch", ["shared", "static"])
@pytest.mark.parametrize("kind", ["table", "every n"])
def test_three_hundred_rollouts(dispatch: Dispatch, kind: Kind) -> None:
    rng = random.Random(f"{dispatch}{kind}")
    output_tokens = [min(1500, 1 + int(rng.expovariate(1 / 150))) for _ in range(300)]
    assert_engine_is_the_reference(17, kind, output_tokens, 24, 3, dispatch, by_budget=False)


@settings(fixed_examples, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    output_tokens=lengths,
    costs=st.lists(st.floats(1e-6, 1e-2), min_size=6, max_size=6),
    max_num_seqs=st.integers(1, 8),
    dispatch=st.sampled_from(["shared", "static"]),
)
def test_costs_of_any_digits_agree_to_rounding(
    seed: int, output_tokens: list[int], costs: list[float], max_num_seqs: int, dispatch: Dispatch
) -> None:
    # Rounding may break a tie between replicas one way here and another there, so only a static cut has several.
    rng = random.Random(seed)
    rollouts = rollouts_of(rng, output_tokens, by_budget=False)
    replicas = rng.randint(1, 4) if dispatch == "static" else 1
    workload, slots = workload_of(rollouts), max_num_seqs
    grid = [[1.0, 3.0, 17.0], [0.0, 100.0, 900.0]]
    values = np.array(costs).reshape(3, 2).cumsum(0)[:, [0, 1, 1]].cumsum(1)
    for cost, cost_reference in (
        affine_pair(*costs),
        roofline_pair(*(cost * 1e5 for cost in costs[:4])),
        table_pair(("query_tokens", "kv_tokens"), grid, values),
    ):
        name, policy_reference = named_pair(rng, slots)
        policy = resolve_policy(name, context_of(cost, slots))
        outcome = simulate(workload, policy, Deployment(cost, slots, replicas, dispatch), check=True)
        result = reference.simulate(rollouts, cost_reference, policy_reference, slots, replicas, dispatch)
        assert_same(outcome, result, relative=1e-9)


def test_a_shared_queue_hands_out_in_order_of_time_then_of_replica() -> None:
    # One slot each and a step of 1 s per query token: replica 1's first step, of 3, ends with replica 0's third, at 3.
    cost, cost_reference = affine_pair(0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    rollouts = [Rollout(0, 3, [0] * 3, [0] * 3), Rollout(3, 1, [0], [0]), *[Rollout(0, 1, [0], [0])] * 3]
    outcome = simulate(workload_of(rollouts), Hidden(lambda view: 0), Deployment(cost, 1, 2), check=True)
    assert outcome.rollouts["replica"].tolist() == [0, 1, 0, 1, 0]
    assert_same(outcome, reference.simulate(rollouts, cost_reference, policies.none, 1, 2))


def test_more_replicas_than_rollouts_leaves_the_rest_idle() -> None:
    cost, cost_reference = affine_pair(1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    rollouts = [Rollout(2, 5, [0] * 5, [0] * 5)] * 2
    for dispatch in ("shared", "static"):
        outcome = simulate(workload_of(rollouts), Hidden(lambda view: 0), Deployment(cost, 4, 5, dispatch), check=True)
        assert_same(outcome, reference.simulate(rollouts, cost_reference, policies.none, 4, 5, dispatch))
        assert outcome.busy_s[2:].tolist() == [0.0] * 3


def test_seconds_outside_the_valid_range_are_added_up_per_replica() -> None:
    inside = profile("affine", *affine_pair(1.0, 0.0, 0.25, 0.0, 0.0, 0.0)[0].operators)
    cost = type(inside)(**{**vars(inside), "valid_range": {"live": (2.0, 9.0)}})
    rollouts = [Rollout(0, n, [0] * n, [0] * n) for n in (3, 5, 4)]
    outcome = simulate(
        workload_of(rollouts), resolve_policy("none", context_of(cost, 2)), Deployment(cost, 2, 2, "static")
    )
    # Replica 0 has one live rollout from its fourth step to its fifth; replica 1 has but one, four steps.
    assert outcome.extrapolated_s.tolist() == [2 * 1.25, 4 * 1.25]
    assert [log["extrapolated"].tolist() for log in outcome.logs] == [
        [0, 0, 0, 1, 1],
        [1, 1, 1, 1],
    ]
