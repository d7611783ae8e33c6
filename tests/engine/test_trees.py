"""Trees in the engine against the reference: tokens verified are paid for, passes are those of the deepest tree of a step."""

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.budgets.policy import by_live
from simulator.cost.draft_cost import DraftCost
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.strategy import Strategy, longest_path
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from tests.engine.test_serving import PROFILE, compare, cost, serving_of
from tests.engine.test_serving import workload_of as requests_of
from tests.engine.workloads import (
    BUDGETS,
    Hidden,
    affine_pair,
    assert_same,
    random_cost,
    random_drafting,
    random_table,
    workload_of,
)
from tests.reference import engine as reference
from tests.reference import serving
from tests.reference.engine import Rollout
from tests.reference.test_serving_invariants import scenarios


def strategy(depth: int, topk: int, verify: int) -> Strategy:
    return Strategy(depth, topk, verify, AcceptanceCurve((0.5,) * longest_path(depth, verify)))


def random_strategies(rng: random.Random) -> dict[int, Strategy]:
    """One for each budget above 0, by its tokens to verify; deeper ones verify no fewer."""
    verify = [budget for budget in BUDGETS if budget]
    depths = sorted(rng.randint(1, 6) for _ in verify)
    return {v: strategy(depth, rng.randint(1, 8), v) for depth, v in zip(depths, verify, strict=True)}


def random_rollout(rng: random.Random, output_tokens: int, shapes: dict[int, Strategy]) -> Rollout:
    """At every position and budget the strategy's tree or no draft, and a path of it accepted."""

    def pair(one: Strategy) -> tuple[list[int], list[int]]:
        drafted = [rng.choice((one.verify, one.verify, 0)) for _ in range(output_tokens)]
        longest = [min(d, one.depth, output_tokens - p) for p, d in enumerate(drafted)]
        return [rng.randint(0, most) for most in longest], drafted

    return Rollout(rng.choice((0, 1, 30)), output_tokens, by_budget={v: pair(one) for v, one in shapes.items()})


@pytest.mark.parametrize("asked", [False, True])
@settings(deadline=None, derandomize=True, max_examples=150)
@given(seed=st.integers(0, 2**32), slots=st.integers(1, 6), replicas=st.integers(1, 3))
def test_passes_are_those_of_the_deepest_tree_of_a_step(asked: bool, seed: int, slots: int, replicas: int) -> None:
    rng = random.Random(seed)
    shapes = random_strategies(rng)
    rollouts = [random_rollout(rng, rng.randint(1, 40), shapes) for _ in range(rng.randint(1, 14))]
    costs, cost_reference = random_cost(rng)
    table, prompt, table_reference = random_table(rng, len(rollouts), slots)
    draft_cost, drafting = random_drafting(rng)
    deployment = Deployment(
        costs, slots, replicas, "shared", draft_cost, strategies=tuple(shapes[v] for v in sorted(shapes))
    )
    outcome = simulate(workload_of(rollouts, prompt), Hidden(table) if asked else table, deployment, check=True)
    passes = {0: 0} | {v: one.depth for v, one in shapes.items()}
    assert_same(
        outcome,
        reference.simulate(
            rollouts, cost_reference, table_reference, slots, replicas, "shared", drafting, passes.__getitem__
        ),
    )


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(scenarios())
def test_limits_cut_no_tree(scenario: tuple[list[serving.Request], serving.Settings]) -> None:
    requests, limits = scenario
    limits = replace(limits, trees=True)
    deployment = Deployment(PROFILE, limits.max_num_seqs, serving=serving_of(limits), strategies=(strategy(2, 2, 3),))
    outcome = simulate(requests_of(requests), by_live([limits.budget]), deployment, check=True)
    compare(outcome, serving.simulate(requests, limits, cost))


def test_a_step_by_hand() -> None:
    # Rollouts of 7 tokens, a tree of 5 tokens and 2 passes each: a step of one query token per tree token and sequence costs
    # 1 + 1/8 (1 + 5) s, its passes 2 x 1/4 s; the prefill costs 1 + 1/8 s. Two are accepted: 1 + 3 + 3 tokens.
    pair = ([0, 2, 0, 0, 2, 0, 0], [5] * 7)
    rollouts = [Rollout(1, 7, by_budget={5: pair})]
    plain = affine_pair(1.0, 0.0, 0.125, 0.0, 0.0, 0.0)[0]
    trees = Deployment(plain, 1, draft_cost=DraftCost(per_pass_s=0.25), strategies=(strategy(2, 4, 5),))
    outcome = simulate(workload_of(rollouts), by_live([5]), trees)
    assert outcome.makespan_s == (1 + 1 / 8) + 2 * (1 + 6 / 8 + 2 / 4)
    chain = simulate(workload_of(rollouts), by_live([5]), replace(trees, strategies=()))
    assert chain.makespan_s == (1 + 1 / 8) + 2 * (1 + 6 / 8 + 5 / 4)
