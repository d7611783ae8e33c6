"""Policies that decide every few decode steps and are compiled between, against their rules, which the engine has to ask."""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.budgets.context import Context
from simulator.budgets.policy import BY_PRIORITY, BudgetPolicy, Chooses, Supplies
from simulator.budgets.resolve import resolve_policy
from simulator.budgets.sharing import Shares
from simulator.drafting.trees import ModelTrees
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.serving import ANYTHING, Serving
from simulator.engine.workload import Workload
from simulator.records import Pointing
from tests.drafting.lengths import accepted_by, equal_rollouts
from tests.drafting.test_trees import SHAPES
from tests.engine.test_cluster import Rule, clusters, is_plain, simulated
from tests.engine.test_following import Asked
from tests.engine.test_ranks import decoded
from tests.engine.test_serving import PROFILE, cost
from tests.engine.test_serving import workload_of as requests_of
from tests.engine.workloads import Hidden, assert_equal, context_of, random_rollout, workload_of
from tests.reference import rules
from tests.reference.serving import Request, Work

FEW = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
LONG = 3
"""Tokens from which a rollout is long, of short ones."""


def context(max_num_seqs: int, prompts: int = 100) -> Context:
    return replace(context_of(PROFILE, max_num_seqs), n_prompts=prompts)


def price(live: int, k: int, context_tokens: int, emitted: float) -> float:
    """Seconds of a decode step under `PROFILE`."""
    tokens = live * (k + 1)
    mean = context_tokens / live
    return cost(Work(live, tokens, context_tokens, context_tokens * (k + 1), 0, 0, 0, 0, mean, tokens))  # type: ignore[arg-type]


def probes(prompt: npt.NDArray[np.int64]) -> Callable[[rules.Seen], list[bool]]:
    """Whether each rollout is the first of its group."""
    first = set(np.unique(prompt, return_index=True)[1].tolist())
    return lambda seen: [rollout in first for rollout in seen.rollouts]


def long(seen: rules.Seen) -> list[bool]:
    return [emitted >= LONG for emitted in seen.emitted]


def pair(
    kind: str, interval: int, prompt: npt.NDArray[np.int64], slots: int, most: int = 9
) -> tuple[BudgetPolicy, Asked]:
    """A policy, and its rule for the engine to ask."""
    known = context(slots)
    if kind == "goodput":
        rule: object = rules.Goodput(price, most, interval, 0.7, 0.3)
        return resolve_policy(f"goodput:max={most},interval={interval},weight=0.3", known), Asked(rule)  # type: ignore[arg-type]
    high = long if kind == "long" else probes(prompt)
    policy = resolve_policy(f"seer:max={most},factor=1,high={kind},long={LONG},interval={interval},weight=0.3", known)
    return policy, Asked(rules.Seer(price, high, most, 1.0, interval, 0.7, 0.3))  # type: ignore[arg-type]


def prompts_of(requests: list[Request]) -> npt.NDArray[np.int64]:
    names = [r.keys[0][0] if r.keys else ("alone", i) for i, r in enumerate(requests)]
    return np.array([names.index(name) for name in names])


KINDS = st.sampled_from(["goodput", "long", "probe"])


@settings(max_examples=400, **FEW)
@given(clusters(), KINDS, st.sampled_from([1, 2, 5, 20]), st.sampled_from([1, 1, 2]))
def test_budgets_are_those_of_the_rule_whatever_a_placement_does(
    drawn: object, kind: str, interval: int, ranks: int
) -> None:
    """Stays, moves, pulled KV, cancels; preemptions, turns and arrivals included."""
    requests, limits, replicas, begun, arrivals, seed = drawn  # type: ignore[misc]
    alike = limits.async_scheduling or is_plain(limits, requests, arrivals)
    outcomes = []
    for policy in pair(kind, interval, prompts_of(requests), limits.max_num_seqs):
        rule = Rule(seed, replicas * ranks, alike, any(request.turns for request in requests))
        outcomes.append(simulated(requests, limits, replicas * ranks, rule, begun, arrivals, ranks, policy)[1])
    assert_equal(*outcomes)


@settings(max_examples=300, **FEW)
@given(
    clusters(), KINDS, st.sampled_from([1, 2, 5, 20]), st.sampled_from([1, 1, 2]),
    st.sampled_from(["shared", "static", "least_loaded"]),
)  # fmt: skip
def test_budgets_are_those_of_the_rule_under_every_dispatch(
    drawn: object, kind: str, interval: int, ranks: int, dispatch: str
) -> None:
    requests, limits, replicas, _, arrivals, _ = drawn  # type: ignore[misc]
    policies = pair(kind, interval, prompts_of(requests), limits.max_num_seqs)
    assert_equal(
        *(decoded(requests, limits, replicas * ranks, ranks, dispatch, arrivals, policy) for policy in policies)
    )


@pytest.mark.parametrize("kind", ["goodput", "long", "probe"])
@pytest.mark.parametrize("seed", range(20))
def test_long_rollouts_that_move_and_are_preempted(kind: str, seed: int) -> None:
    """Hundreds of steps each; after every few tokens a rollout may be on another replica."""
    rng = random.Random(seed)
    rollouts, prompt = (
        [random_rollout(rng, rng.randint(0, 30), rng.randint(1, 400)) for _ in range(24)],
        np.arange(24) // 4,
    )
    limited = Serving(
        num_gpu_blocks=160, block_size=4, enable_prefix_caching=bool(seed % 2), async_scheduling=seed % 3 == 0
    )
    where = Deployment(
        PROFILE, 5, 3, rng.choice(["divided:stay=7", "divided:stay=40"]), serving=rng.choice([ANYTHING, limited])
    )
    chosen, asked = pair(kind, rng.choice([1, 4, 20]), prompt, 5)
    assert_equal(*(simulate(workload_of(rollouts, prompt), policy, where, check=True) for policy in (chosen, asked)))
    assert len(asked.given) > 1, "budgets changed"
    assert max(map(len, asked.replicas.values())) > 1, "some rollouts moved"


@pytest.mark.parametrize("kind", ["goodput", "probe"])
@pytest.mark.parametrize("seed", range(10))
def test_drafts_that_depend_on_their_budget_are_made_when_it_is_given(kind: str, seed: int) -> None:
    rng = random.Random(seed)
    rollouts = [random_rollout(rng, rng.randint(0, 9), rng.randint(1, 90), by_budget=True) for _ in range(12)]
    where = Deployment(PROFILE, 4, 2, rng.choice(["divided:stay=9", "static"]), data_parallel_size=1 + seed % 2)
    loads = [workload_of(rollouts, np.arange(12) // 4) for _ in range(2)]
    chosen, asked = pair(kind, rng.choice([1, 4]), np.arange(12) // 4, 4, 3)
    assert_equal(
        *(simulate(load, policy, where, check=True) for load, policy in zip(loads, (chosen, asked), strict=True))
    )
    assert [set(np.flatnonzero(load.acceptance.table_of >= 0).tolist()) for load in loads] == [asked.given | {0}] * 2


@pytest.mark.parametrize("interval", [1, 3, 20])
def test_trees_are_chosen_as_the_policy_answers(interval: int) -> None:
    drafter, trace = ModelTrees("eagle", SHAPES), equal_rollouts(40, 300)
    outcomes = []
    for wrapped in (False, True):
        policy = resolve_policy(f"goodput:interval={interval}", replace(context(8), strategies=SHAPES))
        load = Workload(
            trace.prompt.astype(np.int64), trace.sample.astype(np.int64), trace.prompt_tokens.astype(np.int64),
            trace.output_tokens.astype(np.int64), accepted_by(drafter, trace, seed=1),
        )  # fmt: skip
        where = Deployment(PROFILE, 8, 2, strategies=SHAPES)
        outcomes.append(simulate(load, Hidden(policy) if wrapped else policy, where, check=True))
    assert_equal(*outcomes)


@pytest.mark.parametrize("spec", ["seer:interval=20", "seer:high=probe,interval=7", "goodput:interval=20"])
def test_python_decides_and_is_asked_for_nothing_else(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    load = workload_of([random_rollout(rng, 9, rng.randint(1, 900)) for _ in range(24)], np.arange(24) // 4)
    policy, supplied = resolve_policy(spec, context(6)), list[tuple[int, int]]()
    assert isinstance(policy, Shares)
    assert isinstance(policy, Chooses)
    assert isinstance(policy, Supplies)
    assert policy.way == BY_PRIORITY
    supply = policy.supply

    def asked(*_: object) -> None:
        raise AssertionError

    def noted(replica: int, steps: int) -> None:
        supplied.append((replica, steps))
        supply(replica, steps)

    monkeypatch.setattr(policy, "supply", noted)
    monkeypatch.setattr(Shares, "__call__", asked)
    logs = simulate(load, policy, Deployment(PROFILE, 6, 2)).logs
    interval = int(spec.rpartition("=")[2])
    assert min(map(len, logs)) > 200
    for replica, log in enumerate(logs):
        assert [steps for number, steps in supplied if number == replica] == [*range(0, len(log), interval)]


class Three(Shares):
    """3 drafts for all."""

    def _decide(self, sharer: Pointing, acceptance: float) -> tuple[int, int]:
        return 3, 3


def test_who_is_not_scheduled_is_not_taken_for_a_rejected_draft() -> None:
    """Every draft is accepted whole, and a step of 9 tokens holds a few of 12 rollouts and chunks of their prompts."""
    drafts = [min(3, 20 - p) for p in range(20)]
    load = requests_of([Request(30, 20, accepted=drafts, drafted=drafts) for _ in range(12)])
    policy = Three(10**9, 0.7, 0.15)
    where = Deployment(PROFILE, 12, serving=Serving(max_num_batched_tokens=9))
    log, sharer = simulate(load, policy, where).logs[0], policy.chooser(0, load.requests, 12)
    assert len(log) > 50
    assert sharer["accepted"] > 0
    # a draft that the token limit cut was accepted as far as it went, but shorter than what was drafted: none here is rejected
    sequences = log["emitted_tokens"].sum() - log["accepted_tokens"].sum()
    assert sharer["tested"] - sharer["accepted"] <= 0.2 * sequences
