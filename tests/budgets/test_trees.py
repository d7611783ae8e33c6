"""Policies where trees are drafted: budgets are tokens to verify, and name a strategy."""

from dataclasses import replace

import numpy as np
import pytest

from simulator.budgets.context import Context
from simulator.budgets.policy import TablePolicy
from simulator.budgets.resolve import resolve_policy
from simulator.drafting.trees import ModelTrees
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from tests.budgets.scripted import assert_follows, context_with, seen_of
from tests.budgets.test_learning import PRICES, draws, priced
from tests.drafting.lengths import accepted_by, equal_rollouts
from tests.drafting.test_trees import SHAPES, shape
from tests.reference import cost as reference_cost
from tests.reference import rules
from traces.errors import InputError

TREES = [(one.verify, one.curve.positions, one.depth, one.curve.mean_accepted(one.depth)) for one in SHAPES]


def context(which: int = 0, seed: int = 0) -> Context:
    return replace(context_with(*priced(which)[:2], seed=seed), strategies=SHAPES)


def tree_goodput(which: int, interval: int = 20, weight: float = 0.15) -> rules.TreeGoodput:
    (constant, query, kv), drafting = PRICES[which]
    return rules.TreeGoodput(
        rules.tree_prices(reference_cost.affine(constant, query=query, kv=kv), drafting), TREES, interval, weight
    )


def by_live(policy: object) -> list[int]:
    assert isinstance(policy, TablePolicy)
    return policy.budgets[0, 0].tolist()


def test_buckets_map_batch_sizes_to_strategies() -> None:
    four = replace(context(), strategies=(shape(2, 8, 8, 2.5), *SHAPES))
    assert by_live(resolve_policy("buckets:bounds=1/2/4/5,live=5", four)) == [48, 48, 32, 32, 16, 8, 0]
    assert by_live(resolve_policy("buckets:bounds=1/3,budgets=48/0,live=4", context())) == [48, 48, 48, 0, 0, 0]
    with pytest.raises(InputError, match="has 4 bounds and 3 budgets: give one budget for each bound"):
        resolve_policy("buckets", context())


@pytest.mark.parametrize("spec", ["buckets:bounds=1/2,budgets=48/8", "bandit:strategies=48/8"])
def test_budgets_that_are_no_strategy_are_refused(spec: str) -> None:
    with pytest.raises(
        InputError, match="has 8, which no strategy of the drafter verifies: choose from 0 and 16/32/48"
    ):
        resolve_policy(spec, context())
    resolve_policy(spec, replace(context(), strategies=()))  # of a chain it is a length


def test_chains_are_no_longer_than_a_tree_of_tlt_is_deep() -> None:
    chains = replace(context(), strategies=())
    assert by_live(resolve_policy("buckets:live=21", chains))[1:13] == [8] + 3 * [6] + 8 * [4], "12 slots"
    answers = assert_follows("bandit", rules.Bandit((8, 6, 4, 2), (1, 2, 5, 21), 0.1, 300, draws((0, 0))), chains, 0)
    assert {budget for budgets in answers for budget in budgets} == {8, 6, 4, 2}


@pytest.mark.parametrize("spec", ["adaptive", "aimd", "das", "seer"])
def test_policies_that_reckon_with_paths_refuse_trees(spec: str) -> None:
    with pytest.raises(
        InputError, match=f"policy '{spec}' reads budgets as lengths of paths, and the drafter drafts trees"
    ):
        resolve_policy(spec, context())


@pytest.mark.parametrize("seed", range(6))
def test_bandit_chooses_among_all_strategies(seed: int) -> None:
    rule = rules.Bandit((48, 32, 16), (1, 2, 5, 21), 0.1, 300, draws((seed, 0)))
    answers = assert_follows("bandit:patience=0", rule, context(seed=seed), seed)
    assert {budget for budgets in answers for budget in budgets} == {16, 32, 48}


@pytest.mark.parametrize("which", range(len(PRICES)))
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("interval", "weight"), [(20, 0.15), (1, 0.5), (7, 1.0)])
def test_goodput_weighs_strategies_by_their_measured_means(which: int, seed: int, interval: int, weight: float) -> None:
    spec = f"goodput:interval={interval},weight={weight}"
    assert_follows(spec, tree_goodput(which, interval, weight), context(which), seed)


@pytest.mark.parametrize(("setting", "value"), [("max", 3), ("start", 0.5)])
def test_goodput_of_trees_has_no_path_to_limit(setting: str, value: float) -> None:
    with pytest.raises(InputError, match=f"sets {setting}, and the drafter drafts trees, .*: leave it out"):
        resolve_policy(f"goodput:{setting}={value}", context())


def run(spec: str, seed: int = 0, per_pass_s: float = 3e-4) -> tuple[list[int], float]:
    """Budgets given, and seconds, of forty rollouts on 8 slots where a pass and a query token cost something."""
    cost, draft_cost, _ = priced(1)
    draft_cost = replace(draft_cost, per_pass_s=per_pass_s)
    drafter, trace = ModelTrees("eagle", SHAPES), equal_rollouts(40, 300)
    load = Workload(
        trace.prompt.astype(np.int64), trace.sample.astype(np.int64), trace.prompt_tokens.astype(np.int64),
        trace.output_tokens.astype(np.int64), accepted_by(drafter, trace, seed=seed),
    )  # fmt: skip
    known = replace(context(1), draft_cost=draft_cost, max_num_seqs=8)
    policy = resolve_policy(spec, known)
    given: list[int] = []
    rule = tree_goodput(1) if spec == "goodput" else None

    class Noted:
        every = 1

        def __call__(self, view: object) -> object:
            answer = policy(view)  # type: ignore[arg-type]
            given.extend(np.unique(answer).tolist())
            if rule is not None and per_pass_s == 3e-4:
                assert np.asarray(answer).tolist() == rule(seen_of(view))  # type: ignore[arg-type]
            return answer

    outcome = simulate(load, Noted(), Deployment(cost, 8, draft_cost=draft_cost, strategies=SHAPES), check=True)
    return given, outcome.makespan_s


def test_in_the_engine_goodput_takes_what_is_fastest_and_nothing_where_passes_are_dear() -> None:
    given, seconds = run("goodput")
    fixed = {budget: run(f"fixed:{budget}")[1] for budget in (0, 16, 32, 48)}
    assert seconds < 1.03 * min(fixed.values()), "one decision in twenty steps, of the batch as it is then"
    assert set(given) <= {0, 16, 32, 48}
    assert set(run("goodput", per_pass_s=1.0)[0]) == {0}


def test_a_budget_below_every_tree_is_refused_and_not_drafted_as_nothing() -> None:
    with pytest.raises(InputError, match="budget 4: no tree is so small"):
        run("fixed:4")
