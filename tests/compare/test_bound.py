"""The bound: no policy beats it, it is attained, and its parts are what its proof says."""

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.imports.llmservingsim import import_llmservingsim
from simulator.budgets.policy import BudgetPolicy, by_live
from simulator.budgets.resolve import resolve_policy
from simulator.catalogue import load_model
from simulator.compare.bound import lower_bound
from simulator.compare.minorant import Limits, minorants
from simulator.compare.oracle import oracle
from simulator.compare.paths import cheapest, cheapest_drafts, list_starts, reach_of
from simulator.cost import Affine, Profile, Roof, StepWork, Table, load_profile
from simulator.cost.draft_cost import DraftCost, Forward
from simulator.cost.operators import row
from simulator.drafting.drafter import past_rows
from simulator.drafting.suffix import Suffix
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from simulator.limits import Dispatch
from tests.compare.batches import batch, profile
from tests.engine.workloads import (
    BUDGETS,
    Hidden,
    context_of,
    random_cost,
    random_rollout,
    random_table,
    workload_of,
)
from traces.io import read


def random_policy(rng: random.Random, n: int, slots: int) -> tuple[BudgetPolicy, np.ndarray | None]:
    kind = rng.choice(("named", "table", "whim"))
    if kind == "table":
        policy, prompt, _ = random_table(rng, n, slots)
        return policy, prompt
    if kind == "named":
        return by_live([rng.choice(BUDGETS) for _ in range(slots + 1)]), None
    return Hidden(lambda view: [rng.choice(BUDGETS) for _ in range(view.live)], rng.randint(0, 3)), None


def random_draft_cost(rng: random.Random) -> DraftCost:
    return DraftCost(*(rng.choice((0.0, 0.0, 0.125, 0.5)) for _ in range(8)))


def any_cost(rng: random.Random) -> Profile:
    """The engine tests' costs, and tables over means per sequence."""
    if rng.random() < 0.6:
        return random_cost(rng)[0]
    axes = tuple(rng.sample(("live", "context_tokens", "query_per_seq"), rng.randint(1, 3)))
    grid = tuple(np.array([0.0 if axis == "context_tokens" else 1.0, 3.0, 30.0]) for axis in axes)
    values = np.random.default_rng(rng.randrange(2**32)).integers(0, 9, [3] * len(axes)) + 0.5
    for axis in range(len(axes)):
        values = values.cumsum(axis)
    return profile(Affine("a", row(constant=0.5, kv_tokens=1 / 64)), Table("t", axes, grid, values), kind="table")


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    seed=st.integers(0, 2**32),
    output_tokens=st.lists(st.integers(1, 40), min_size=1, max_size=14),
    slots=st.integers(1, 8),
    replicas=st.integers(1, 4),
    dispatch=st.sampled_from(["shared", "static"]),
    by_budget=st.booleans(),
)
def test_no_policy_beats_it(
    seed: int, output_tokens: list[int], slots: int, replicas: int, dispatch: Dispatch, by_budget: bool
) -> None:
    rng = random.Random(seed)
    rollouts = [random_rollout(rng, rng.choice((0, 0, 1, 4, 30)), length, by_budget) for length in output_tokens]
    cost, draft = any_cost(rng), random_draft_cost(rng)
    policy, prompt = random_policy(rng, len(rollouts), slots)
    workload = workload_of(rollouts, prompt)
    bound = lower_bound(workload, Deployment(cost, slots, replicas, dispatch, draft), budgets=BUDGETS)
    took_s = simulate(workload, policy, Deployment(cost, slots, replicas, dispatch, draft), check=True).makespan_s
    assert 0 < bound.makespan_s <= took_s, bound
    clairvoyant = oracle(workload, Deployment(cost, slots, replicas, dispatch, draft))
    assert (
        bound.makespan_s
        <= simulate(workload, clairvoyant, Deployment(cost, slots, replicas, dispatch, draft)).makespan_s
    )


@pytest.mark.parametrize(("replicas", "dispatch"), [(1, "shared"), (1, "static"), (3, "static")])
def test_it_is_the_makespan_where_nothing_can_be_accepted(replicas: int, dispatch: Dispatch) -> None:
    workload, cost = (
        batch(1, 20),
        profile(Affine("a", row(constant=7, live=1, query_tokens=2, kv_tokens=0.5, pairs=0.1))),
    )
    workload.acceptance.tables[:, :, 0] = 0
    took_s = simulate(workload, by_live([0]), Deployment(cost, 8, replicas, dispatch)).makespan_s
    assert lower_bound(workload, Deployment(cost, 8, replicas, dispatch)).makespan_s == pytest.approx(took_s, rel=1e-8)


@pytest.mark.parametrize("slots", [3, 16, 80])
def test_an_oracle_attains_it_under_affine_costs(slots: int) -> None:
    workload, cost = batch(2, 20), profile()
    took_s = simulate(workload, oracle(workload, Deployment(cost, slots)), Deployment(cost, slots)).makespan_s
    assert lower_bound(workload, Deployment(cost, slots)).makespan_s == pytest.approx(took_s, rel=1e-3)


@pytest.mark.parametrize(
    "draft",
    [DraftCost(per_pass_s=1e-3, per_step_s=2e-4), DraftCost(per_pass_kv_token_s=1e-5), DraftCost(per_kv_token_s=1e-5)],
)
def test_one_rollout_alone_attains_it_with_draft_costs(draft: DraftCost) -> None:
    workload, cost = batch(3, 1, samples=1), profile()
    took_s = simulate(
        workload, oracle(workload, Deployment(cost, 1, draft_cost=draft)), Deployment(cost, 1, draft_cost=draft)
    ).makespan_s
    free_s = lower_bound(workload, Deployment(cost, 1)).makespan_s
    bound_s = lower_bound(workload, Deployment(cost, 1, draft_cost=draft)).makespan_s
    assert free_s < bound_s <= took_s <= 1.05 * bound_s


def test_passes_by_operators_raise_it_as_much_as_passes_at_a_rate() -> None:
    workload, cost = batch(3, 1, samples=1), profile()
    passes = profile(Affine("pass", row(constant=1e-3)))
    by_rate, by_operator = (
        lower_bound(workload, Deployment(cost, 1, draft_cost=draft)).makespan_s
        for draft in (DraftCost(per_pass_s=1e-3), DraftCost(forward=Forward(passes)))
    )
    assert by_operator == pytest.approx(by_rate, rel=1e-12)
    assert by_operator > lower_bound(workload, Deployment(cost, 1)).makespan_s


def test_fewer_budgets_raise_it() -> None:
    workload, cost = batch(4, 20), profile()
    bounds = [lower_bound(workload, Deployment(cost, 16), budgets=range(most + 1)).makespan_s for most in (8, 2, 1, 0)]
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[1] < bounds[3]
    assert simulate(workload, by_live([2]), Deployment(cost, 16)).makespan_s >= bounds[1]


def test_no_bound_is_said_to_be_none() -> None:
    falling = Table("t", ("kv_tokens",), (np.array([0.0, 10.0]),), np.array([2.0, 1.0]))
    bound = lower_bound(batch(5, 4), Deployment(profile(falling, kind="table", error=None), 4))
    assert math.isnan(bound.makespan_s)
    assert "no bound" in bound.why
    live = replace(batch(5, 4), siblings=object())
    assert "siblings" in lower_bound(live, Deployment(profile(), 4)).why


# Its parts ------------------------------------------------------------------------------------------------------------


def shortest(t: int, length: int, prompt: int, reach: list[int], weights: list[float]) -> float:
    """The definition, by trying everything."""
    if t == length:
        return 0.0
    found = []
    for d in range(min(reach[t], length - t - 1) + 1):
        kv = prompt + t
        step = (
            weights[0] + weights[1] * kv + (weights[4] + weights[5] * kv + d * (weights[2] + weights[3] * kv)) * (d > 0)
        )
        found.append(step + shortest(t + d + 1, length, prompt, reach, weights))
    return min(found)


def test_cheapest_is_the_minimum_over_all_ways() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        rollouts = [random_rollout(rng, rng.choice((0, 7)), rng.randint(1, 9)) for _ in range(3)]
        workload = workload_of(rollouts)
        weights = [rng.choice((0.0, 1.0, 0.25, 5.0)) for _ in range(6)]
        reach = reach_of(workload)
        expected = [
            shortest(1, r.output_tokens, r.prompt_tokens, list(r.accepted), weights) if r.output_tokens > 1 else 0.0
            for r in rollouts
        ]
        np.testing.assert_allclose(cheapest(workload, reach, np.array(weights)), expected, rtol=1e-12)
        drafts = cheapest_drafts(workload, reach, np.array(weights))
        assert (drafts <= reach).all()
        for r, start, total in zip(rollouts, workload.acceptance.offsets, expected, strict=False):
            t, walked = 1, 0.0
            while t < r.output_tokens:
                d, kv = int(drafts[start + t]), r.prompt_tokens + t
                walked += weights[0] + weights[1] * kv
                walked += (d > 0) * (weights[4] + weights[5] * kv + d * (weights[2] + weights[3] * kv))
                t += d + 1
            assert walked == pytest.approx(total, rel=1e-12)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=12), st.integers(1, 4))
def test_list_scheduling_is_monotone(durations: list[tuple[float, float]], slots: int) -> None:
    short = np.array([a for a, _ in durations])
    starts, later = list_starts(short, slots), list_starts(short + [b for _, b in durations], slots)
    assert (starts <= later + 1e-9).all()
    for i in range(len(short)):  # at no start are all machines taken
        assert ((starts[:i] <= starts[i]) & (starts[:i] + short[:i] > starts[i] + 1e-12)).sum() < slots


@pytest.mark.parametrize("seed", range(12))
def test_minorants_lie_below_and_touch(seed: int) -> None:
    rng = random.Random(seed)
    limits = Limits(live=8, query_per_seq=6, context_tokens=50)
    cost = (
        any_cost(rng)
        if seed
        else profile(Roof("r", row(constant=1, kv_tokens=0.1), row(query_tokens=0.3)), kind="roofline")
    )
    draws = np.random.default_rng(seed)
    live = draws.integers(1, 9, 4000)
    query, kv = live * draws.integers(1, 7, 4000), live * draws.integers(0, 51, 4000)
    prefill = draws.integers(0, 49, 4000)
    pairs = draws.integers(0, 48 * 50, 4000)
    target = np.array([1.0, 4, 8, 100, 200, 0])
    rows = minorants(cost, limits, [target])
    assert rows
    for each in rows:
        assert (each >= 0).all()
        work = np.stack([np.ones(4000), live, query, kv, pairs, prefill], axis=1)
        seconds = cost.step_time_s(StepWork(live, query, kv, pairs, prefill))
        assert (work @ each <= seconds + 1e-9 * seconds.max()).all()
        assert (work @ each).max() > 0


def test_a_minorant_of_a_convex_table_touches_it_at_the_target() -> None:
    knee = Table("t", ("query_tokens",), (np.array([1.0, 11.0, 21.0]),), np.array([2.0, 2.0, 12.0]))
    row_at = minorants(profile(knee, kind="table"), Limits(4, 10, 50), [np.array([1.0, 4, 16, 0, 0, 0])])[0]
    assert row_at @ [1, 4, 16, 0, 0, 0] == pytest.approx(16 * 2 / 11, rel=1e-5), "no constant below 0"
    low = minorants(profile(knee, kind="table"), Limits(4, 10, 50), [np.array([1.0, 4, 4, 0, 0, 0])])[0]
    assert low @ [1, 4, 4, 0, 0, 0] == pytest.approx(2.0, rel=1e-5)


def test_real_rollouts_are_near_their_bound(shared_data: Path) -> None:
    trace = read(str(shared_data / "rollouts" / "qwq32b_long_cot.parquet"))
    rows = np.flatnonzero(trace.step == trace.steps[-1])
    acceptance = Suffix().accept(trace, rows, past_rows(trace, trace.steps[-1], 16))
    columns = (trace.prompt, trace.sample, trace.prompt_tokens, trace.output_tokens)
    workload = Workload(*(column[rows].astype(np.int64) for column in columns), acceptance)
    cost = load_profile("h100-llama-3.1-8b-published")
    bound_s = lower_bound(workload, Deployment(cost, 32)).makespan_s
    oracle_s = simulate(workload, oracle(workload, Deployment(cost, 32)), Deployment(cost, 32)).makespan_s
    built_in = [simulate(workload, resolve_policy(spec, context_of(cost, 32)), Deployment(cost, 32)).makespan_s
                for spec in ("none", "fixed:4", "unlimited", "threshold:8@16")]  # fmt: skip
    assert bound_s <= oracle_s <= min(built_in)
    assert oracle_s < 1.001 * bound_s
    assert bound_s > 0.85 * min(built_in)


@pytest.mark.parametrize("axis", ["query_tokens", "padded_tokens", "sampled_tokens", "live"])
def test_a_minorant_of_layers_counts_each_once(axis: str) -> None:
    """Thirty-two layers of a table cost 32 of it, whether its tokens are padded, sampled or fed; falling parts count least."""
    grid = np.array([1.0, 8.0, 64.0])
    layers = Table("t", (axis,), (grid,), np.array([2.0, 3.0, 9.0]), repeat=32)
    cost, limits = profile(layers, kind="table"), Limits(8, 6, 50)
    live = np.arange(1.0, 9)
    (low,) = minorants(cost, limits, [np.array([1.0, 8, 8, 0, 0, 0])])
    seconds = cost.step_time_s(StepWork(live, live, 0, 0))
    below = low @ np.stack([np.ones(8), live, live, 0 * live, 0 * live, 0 * live])
    assert (below <= seconds * (1 + 1e-9)).all()
    assert below[-1] >= 0.9 * seconds[-1]
    falling = Table("t", (axis,), (grid,), np.array([5.0, 3.0, 3.0]), repeat=32)
    assert minorants(profile(falling, kind="table"), limits, [np.array([1.0, 1, 1, 0, 0, 0])])[0][0] <= 32 * 5.0
    some = Table("s", (axis,), (grid,), np.full(3, 1.0), when="mixed")
    assert minorants(profile(layers, some, kind="table"), limits, [np.array([1.0, 8, 8, 0, 0, 0])])[0] == pytest.approx(
        low
    )


def test_no_policy_beats_the_bound_of_an_imported_profile(shared_data: Path) -> None:
    folder = shared_data / "profiles/llmservingsim/RTXPRO6000/Llama-3.1-8B/bf16"
    cost, load = import_llmservingsim(folder, load_model("llama-3.1-8b")), batch(5, 8)
    bound = lower_bound(load, Deployment(cost, 16)).makespan_s
    makespans = [simulate(load, by_live([k]), Deployment(cost, 16)).makespan_s for k in (0, 2, 8, 255)]
    assert 0.5 * min(makespans) < bound <= min(makespans)
