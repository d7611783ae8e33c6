"""A policy that begins to draft late: the engine against the plain references, bit for bit, and what follows from the rule."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from simulator.budgets.answers import every_of
from simulator.budgets.policy import BudgetPolicy, by_live
from simulator.budgets.resolve import resolve_policy
from simulator.budgets.switch import Switch, Switched, switch_of
from simulator.budgets.view import BatchView
from simulator.engine.cluster import Outcome, simulate
from simulator.engine.deployment import Deployment
from simulator.engine.serving import ANYTHING, Serving
from tests.engine.test_cluster import Rule, clusters, compare, is_plain, late_and_stopped, simulated
from tests.engine.test_ranks import decoded
from tests.engine.test_serving import PROFILE, cost, policy_of, run, workload_of
from tests.engine.test_serving import compare as compare_one
from tests.engine.test_system_run import assert_is_the_reference, runs
from tests.engine.workloads import assert_equal, context_of
from tests.reference import cluster as reference
from tests.reference import serving
from tests.reference.serving import Request, Settings
from tests.reference.test_serving_invariants import scenarios
from traces.errors import InputError

FEW = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@st.composite
def switches(draw: st.DrawFn) -> dict[str, int | bool]:
    """A switch by the reference's names, which short rollouts reach."""
    return {
        "switch_live": draw(st.integers(1, 3)),
        "patience": draw(st.integers(1, 6)),
        "reprefill": draw(st.booleans()),
    }


@settings(max_examples=400, **FEW)
@given(scenarios(), switches())
def test_one_engine_is_the_reference(scenario: tuple[list[Request], Settings], switch: dict[str, int | bool]) -> None:
    requests, limits = scenario
    limits = replace(limits, **switch)
    compare_one(run(requests, limits), serving.simulate(requests, limits, cost))


@settings(max_examples=400, **FEW)
@given(clusters(), switches(), st.sampled_from([1, 1, 1, 2, 3]))
def test_replicas_and_ranks_are_the_reference(drawn: object, switch: dict[str, int | bool], ranks: int) -> None:
    """Whatever a placement does meanwhile: stays, moves, pulled KV, cancels."""
    requests, limits, replicas, begun, arrivals, seed = drawn  # type: ignore[misc]
    limits = replace(limits, **switch)
    turns = any(request.turns for request in requests)
    rules = [Rule(seed, replicas * ranks, limits.async_scheduling, turns) for _ in range(2)]
    expected = reference.simulate(
        requests, limits, cost, replicas * ranks, rules[1].there, 2**-5, begun, arrivals,
        by_number=not is_plain(limits, requests, arrivals), data_parallel_size=ranks,
    )  # fmt: skip
    _, outcome = simulated(requests, limits, replicas * ranks, rules[0], begun, arrivals, ranks)
    assert rules[0].told == rules[1].told
    compare(outcome, expected)


@settings(max_examples=150, **FEW)
@given(clusters(), switches(), st.lists(st.sampled_from([0.25, 1.0, 4.0]), min_size=1, max_size=3))
def test_what_is_submitted_late_and_stopped_is_as_in_the_reference(
    drawn: object, switch: dict[str, int | bool], later_s: list[float]
) -> None:
    requests, limits, *rest = drawn  # type: ignore[misc]
    late_and_stopped((requests, replace(limits, **switch), *rest), later_s, 3.0)  # type: ignore[arg-type]


@settings(max_examples=150, **FEW)
@given(runs(), switches())
def test_whole_runs_are_those_of_the_reference(drawn: object, switch: dict[str, int | bool]) -> None:
    """Over RL steps, whatever loop there is: a switch lasts no longer than the RL step."""
    requests, groups, step_of, limits, *rest = drawn  # type: ignore[misc]
    assert_is_the_reference((requests, groups, step_of, replace(limits, **switch), *rest))


class Asked:
    """A budget for all, as a policy that is asked once it drafts."""

    def __init__(self, budget: int, switch: Switch, every: int = 1) -> None:
        self.budget, self.switch, self.every, self.asked = budget, switch, every, 0

    def __call__(self, view: BatchView) -> int:
        self.asked += 1
        return self.budget


SHORT = [Request(0, tokens) for tokens in (1, 1, 1, 2, 2, 5, 1, 1, 1, 2, 1, 5)]


@settings(max_examples=200, **FEW)
@given(clusters(), switches(), st.sampled_from([1, 1, 2]), st.sampled_from([0, 1, 3]))
@example(
    (SHORT, Settings(2, enable_prefix_caching=False), 2, None, False, 0),
    {"switch_live": 1, "patience": 1, "reprefill": False},
    1,
    0,
)  # who waits was admitted before the placement was told
def test_a_policy_that_is_asked_begins_with_the_same_step(
    drawn: object, switch: dict[str, int | bool], ranks: int, every: int
) -> None:
    requests, limits, replicas, begun, arrivals, seed = drawn  # type: ignore[misc]
    limits = replace(limits, **switch)
    policies = [policy_of(limits), Asked(limits.budget, policy_of(limits).switch, every)]
    outcomes = []
    for policy in policies:
        rule = Rule(seed, replicas * ranks, limits.async_scheduling, any(request.turns for request in requests))
        outcomes.append(simulated(requests, limits, replicas * ranks, rule, begun, arrivals, ranks, policy)[1])
    assert_equal(*outcomes)


class InPython:
    """A bandit that the engine has to ask."""

    def __init__(self, bandit: BudgetPolicy) -> None:
        self.bandit, self.every, self.switch = bandit, every_of(bandit), switch_of(bandit)

    def __call__(self, view: BatchView) -> object:
        return self.bandit(view)


@settings(max_examples=300, **FEW)
@given(
    clusters(),
    switches(),
    st.sampled_from([1, 1, 2]),
    st.sampled_from([1, 1, 2, 5]),
    st.sampled_from([1, 3, 300]),
    st.sampled_from(["shared", "static", "least_loaded"]),
)
def test_a_bandit_chooses_in_compiled_code_as_it_answers(
    drawn: object, switch: dict[str, int | bool], ranks: int, every: int, window: int, dispatch: str
) -> None:
    """Preemptions, turns and arrivals included; of moves the two keep different notes."""
    requests, limits, replicas, _, arrivals, seed = drawn  # type: ignore[misc]
    patience = switch["patience"] if seed % 2 else 0
    spec = f"bandit:strategies=0/1/3,bounds=1/2,epsilon=0.3,every={every},window={window},patience={patience}"
    spec += f",live={switch['switch_live']},reprefill={'yes' if switch['reprefill'] and patience else 'no'}"
    outcomes = []
    for wrapped in (False, True):
        policy = resolve_policy(spec, replace(context_of(PROFILE, 4), seed=seed % 5))
        policy = InPython(policy) if wrapped else policy
        outcomes.append(decoded(requests, limits, replicas * ranks, ranks, dispatch, arrivals, policy))
    outcomes[0].rollouts["noted"] = outcomes[1].rollouts["noted"]
    assert_equal(*outcomes)


@settings(max_examples=100, **FEW)
@given(clusters(), switches(), st.sampled_from([1, 2]))
def test_a_bandit_meets_moves_and_cancels(drawn: object, switch: dict[str, int | bool], ranks: int) -> None:
    """Every invariant is asserted at every event, and the same run gives the same result."""
    requests, limits, replicas, begun, arrivals, seed = drawn  # type: ignore[misc]
    spec = f"bandit:strategies=0/1/3,bounds=1/2,epsilon=0.3,patience={switch['patience']},live={switch['switch_live']}"
    outcomes = []
    for _ in range(2):
        policy = resolve_policy(f"{spec},reprefill=yes", context_of(PROFILE, 4))
        rule = Rule(seed, replicas * ranks, limits.async_scheduling, any(request.turns for request in requests))
        outcomes.append(simulated(requests, limits, replicas * ranks, rule, begun, arrivals, ranks, policy)[1])
    assert_equal(*outcomes)


def rollouts(seed: int, count: int = 60) -> list[Request]:
    """Rollouts of which few are long; drafts of two tokens, of which some are accepted."""
    rng = random.Random(seed)
    lengths = [rng.choice([5, 20, 60, 200]) for _ in range(count)]
    requests = []
    for length in lengths:
        drafted = [2] * length
        accepted = [rng.randint(0, min(2, length - p)) for p in range(length)]
        requests.append(Request(rng.randint(0, 30), length, accepted=accepted, drafted=drafted))
    return requests


def outcome_of(switch: Switch, where: Serving = ANYTHING, replicas: int = 2) -> Outcome:
    policy = replace(by_live([2]), switch=switch)
    return simulate(
        workload_of(rollouts(3), arrivals=False), policy, Deployment(PROFILE, 16, replicas, "static", serving=where),
        check=True,
    )  # fmt: skip


def test_patience_without_end_drafts_nothing_and_is_plain_decoding_to_the_bit() -> None:
    never = outcome_of(Switch(16, 10**9 - 1, True))
    plain = simulate(
        workload_of(rollouts(3), arrivals=False), by_live([0]), Deployment(PROFILE, 16, 2, "static"), check=True
    )
    assert_equal(never, plain)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_drafter_that_never_drafts_reserves_nothing(ranks: int) -> None:
    """Blocks for a few rollouts, each of which would have eight tokens reserved ahead."""
    never, where = Switch(16, 10**9 - 1, True), Serving(num_gpu_blocks=80, block_size=4)
    outcomes = [
        simulate(
            workload_of(rollouts(3), arrivals=False), replace(by_live([2]), switch=never),
            Deployment(PROFILE, 16, 2, "static", serving=where.model_copy(update={"lookahead_tokens": lookahead}),
                       data_parallel_size=ranks), check=True,
        )
        for lookahead in (8, 0)
    ]  # fmt: skip
    assert outcomes[0].rollouts["preempted"].sum() > 0
    for one, other in zip(*(outcome.logs for outcome in outcomes), strict=True):
        assert one[:].tobytes() == other[:].tobytes()


@pytest.mark.parametrize(
    "where", [Serving(), Serving(num_gpu_blocks=4000, enable_prefix_caching=True, async_scheduling=True)]
)
def test_a_replica_computes_all_that_runs_again_once_and_drafts_from_then_on(where: Serving) -> None:
    outcome, kept = outcome_of(Switch(8, 5, True), where), outcome_of(Switch(8, 5), where)
    assert kept.rollouts["recomputed"].sum() == 0
    recomputed = 0
    for log, log_kept in zip(outcome.logs, kept.logs, strict=True):
        first = int(np.flatnonzero(log_kept["drafted_tokens"])[0])
        again = np.flatnonzero(log["prefill_tokens"])
        assert again[-1] == first == np.flatnonzero(log["drafted_tokens"])[0] - 1, (
            "in place of the step that would draft first"
        )
        assert log["live"][first] == log["prefill_seqs"][first] == log_kept["live"][first] <= 8, "everything that runs"
        assert log["prefill_tokens"][first] == log["prefill_kv_tokens"][first], "of whole contexts, nothing found"
        recomputed += log["prefill_tokens"][first]
    assert outcome.rollouts["recomputed"].sum() == recomputed
    assert outcome.rollouts["preempted"].sum() == 0


def test_it_ends_where_nothing_is_left() -> None:
    """Two rollouts that do not meet: each waits for the switch, three steps each."""
    requests = [
        replace(one, accepted=[0] * 9, drafted=[1] * 9) for one in (Request(2, 9), Request(2, 9, arrival_s=500.0))
    ]
    limits = Settings(2, budget=1, switch_live=2, patience=3)
    outcome = run(requests, limits)
    drafted = outcome.logs[0]["drafted_tokens"].tolist()
    assert drafted == [0, 0, 0, 1, 1, 1, 1, 1, 1] * 2


@pytest.mark.parametrize("patience", [0, 1, 4])
def test_a_switch_without_an_engine_counts_alike(patience: int) -> None:
    rng, switched, calm = random.Random(patience), Switched(Switch(3, patience)), 0
    on = patience == 0
    for _ in range(50):
        running = rng.choice([0, 1, 3, 4])
        switched.before_step(running)
        if running and not on:
            calm = calm + 1 if running <= 3 else 0
            on = calm == patience
        assert switched.on == on


def test_a_switch_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="switch: patience = -1: give a whole number from 0"):
        Switch(3, -1)
    policy = Asked(1, Switch(1, 1))
    policy.switch = True  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"policy Asked: switch = True: give a budgets\.switch\.Switch"):
        simulate(workload_of(rollouts(0)), policy, Deployment(PROFILE, 4))
