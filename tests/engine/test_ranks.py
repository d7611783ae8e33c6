"""Data-parallel ranks that share experts step together, against the plain reference cluster, bit for bit."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.budgets.policy import by_live
from simulator.cost import Affine, Profile
from simulator.cost.draft_cost import DraftCost
from simulator.cost.operators import row
from simulator.engine import replica
from simulator.engine.cluster import Outcome, simulate
from simulator.engine.deployment import Deployment
from simulator.engine.replica import LOG_STEPS, LOOSE_BYTES
from simulator.scheduling.first_come import WAITING_WEIGHT
from simulator.scheduling.placement import Event, Place, View, told_at
from tests.engine.test_cluster import Rule, clusters, compare, is_plain, late_and_stopped, simulated
from tests.engine.test_serving import PROFILE, TEXTS, ByLive, cost, serving_of, workload_of
from tests.engine.workloads import assert_equal
from tests.reference import cluster as reference
from tests.reference.serving import Request, Settings

Drawn = tuple[list[Request], Settings, int, list[int] | None, bool, int]
RANKS = st.sampled_from([2, 2, 3, 4])
GROUPS = st.sampled_from([1, 1, 2, 3])


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(clusters(), RANKS, GROUPS)
def test_ranks_step_as_in_the_reference(drawn: Drawn, ranks: int, groups: int) -> None:
    """Whatever a placement does meanwhile: stays, moves, pulled KV, cancels."""
    requests, limits, _, begun, arrivals, seed = drawn
    turns = any(request.turns for request in requests)
    rules = [Rule(seed, ranks * groups, limits.async_scheduling, turns) for _ in range(2)]
    expected = reference.simulate(
        requests, limits, cost, ranks * groups, rules[1].there, 2**-5, begun, arrivals,
        by_number=not is_plain(limits, requests, arrivals), data_parallel_size=ranks,
    )  # fmt: skip
    _, outcome = simulated(requests, limits, ranks * groups, rules[0], begun, arrivals, ranks)
    assert rules[0].told == rules[1].told
    compare(outcome, expected)


def fixed(where: Sequence[int]) -> reference.Placement:
    """Each rollout to a replica chosen beforehand, -1: whoever has room first."""
    return lambda event, view: [
        reference.Place(i, where[i]) for i in event.rollouts if event.kind in ("start", "arrival")
    ]


def by_load(event: reference.Event, view: reference.View) -> list[reference.Place]:
    """Those that are there at the start in turn, later ones where the load is least."""
    if event.kind not in ("start", "arrival"):
        return []
    if event.kind == "start":
        return [reference.Place(i, n % len(view.running)) for n, i in enumerate(event.rollouts)]
    loads = [WAITING_WEIGHT * waiting + running for waiting, running in zip(view.waiting, view.running, strict=True)]
    placed = []
    for i in event.rollouts:
        least = loads.index(min(loads))
        loads[least] += WAITING_WEIGHT
        placed.append(reference.Place(i, least))
    return placed


def dispatched(dispatch: str, requests: list[Request], replicas: int, arrivals: bool) -> reference.Placement:
    """The rule that each name stands for, said again."""
    order = sorted(range(len(requests)), key=lambda i: requests[i].arrival_s if arrivals else 0.0)
    if dispatch == "least_loaded" or (dispatch == "shared" and arrivals):
        return by_load
    if dispatch == "shared":
        return fixed([-1] * len(requests))
    if dispatch == "round_robin":
        return fixed([order.index(i) % replicas for i in range(len(requests))])
    size, larger = divmod(len(requests), replicas)
    parts = [part for part in range(replicas) for _ in range(size + (part < larger))]
    return fixed([parts[order.index(i)] for i in range(len(requests))])


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    clusters(),
    st.sampled_from([1, 2, 2, 3, 4]),
    GROUPS,
    st.sampled_from(["shared", "static", "round_robin", "least_loaded"]),
)
def test_dispatch_among_ranks_is_that_of_the_reference(drawn: Drawn, ranks: int, groups: int, dispatch: str) -> None:
    requests, limits, _, _, arrivals, _ = drawn
    groups += ranks * groups == 1  # one replica has no common queue
    if (
        dispatch == "shared"
    ):  # nobody is told who leaves for a turn, so the slot is free for the common queue at another time
        requests = [replace(request, turns=()) for request in requests]
    if dispatch in ("shared", "least_loaded") and arrivals:  # loads under async scheduling are a matter of definition
        limits = replace(limits, async_scheduling=False)
    placement = dispatched(dispatch, requests, ranks * groups, arrivals)
    expected = reference.simulate(
        requests, limits, cost, ranks * groups, placement, arrivals=arrivals,
        by_number=not is_plain(limits, requests, arrivals), data_parallel_size=ranks,
    )  # fmt: skip
    compare(decoded(requests, limits, ranks * groups, ranks, dispatch, arrivals), expected)


def decoded(
    requests: list[Request], limits: Settings, replicas: int, ranks: int, dispatch: str = "static", arrivals: bool = False,
    policy: object = None, **others: object,
) -> Outcome:  # fmt: skip
    cluster = Deployment(
        PROFILE, limits.max_num_seqs, replicas, dispatch, serving=serving_of(limits), data_parallel_size=ranks
    )
    return simulate(
        workload_of(requests, arrivals), policy or by_live([limits.budget]), replace(cluster, **others), check=True
    )  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    clusters(),
    st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.75, 4.0]), min_size=1, max_size=3),
    st.sampled_from([0.75, 1.5, 3.0]),
    RANKS,
)
def test_ranks_are_stopped_as_in_the_reference(drawn: Drawn, later_s: list[float], stop_s: float, ranks: int) -> None:
    late_and_stopped(drawn, later_s, stop_s, ranks)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(clusters(), RANKS, st.sampled_from(["shared", "static"]))
def test_a_policy_that_is_asked_meets_the_same_ranks(drawn: Drawn, ranks: int, dispatch: str) -> None:
    """A table by live sequences is the same rule asked before every step, on every rank."""
    requests, limits, _, _, arrivals, _ = drawn
    budgets = [limits.budget, limits.budget, 1, 0, 2]
    told, asked = (
        decoded(requests, limits, ranks, ranks, dispatch, arrivals, policy)
        for policy in (by_live(budgets), ByLive(budgets))
    )
    assert_equal(told, asked)


NO_LIMITS = Settings(8, enable_prefix_caching=False)


def of_cost(**seconds: float) -> Profile:
    return Profile(kind="affine", operators=(Affine("a", row(**seconds)),), **TEXTS)


def test_a_rank_without_work_runs_a_dummy_step() -> None:
    """One sequence of one token, and of the drafts that a drafter reserves slots for; nobody runs one once all are done."""
    requests = [Request(0, 4), Request(0, 1)]
    outcome = decoded(requests, NO_LIMITS, 2, 2, cost=of_cost(query_tokens=1.0))
    assert [log["duration_s"].tolist() for log in outcome.logs] == [[1.0] * 4, [1.0]]
    reserving = decoded(
        requests, replace(NO_LIMITS, lookahead_tokens=4, block_size=1, num_gpu_blocks=40), 2, 2,
        cost=of_cost(query_tokens=1.0, kv_tokens=0.25, live=2.0),
    )  # fmt: skip
    dummy_s = 2.0 + 5.0 + 0.25
    assert reserving.logs[0]["duration_s"].tolist() == [2.0 + 1.0, dummy_s, dummy_s, dummy_s]
    assert reserving.waited_s.tolist() == [3 * dummy_s - (3.25 + 3.5 + 3.75), 3 * dummy_s]
    assert reserving.makespan_s == reserving.logs[0]["duration_s"].sum()
    assert [len(log) for log in reserving.logs] == [4, 1]


@pytest.mark.parametrize(
    ("sizes", "padded", "experts"),
    [
        ((1, 2, 4, 8), [8, 8], 8.0),  # a graph for each: as large as the largest rank's
        ((1, 2, 4), [5, 1], 3.0),  # none for five tokens, so without graphs, each as it is
        ((2, 4), [5, 2], 3.5),
        (None, [5, 1], 3.0),
    ],
)
def test_ranks_are_padded_alike_where_each_fits_a_graph(
    sizes: tuple[int, ...] | None, padded: list[int], experts: float
) -> None:
    requests = [*[Request(0, 2)] * 5, *[Request(0, 2)] * 1]
    cost = of_cost(constant=1.0, padded_tokens=1.0)
    outcome = decoded(
        requests, replace(NO_LIMITS, cudagraph_capture_sizes=sizes), 2, 2, policy=None, cost=cost, placement=first_five
    )
    assert [log["padded_tokens"].tolist() for log in outcome.logs] == [[size] * 2 for size in padded]
    assert all((log["expert_tokens"] == experts).all() for log in outcome.logs)
    assert all((log["duration_s"] == 1.0 + max(padded)).all() for log in outcome.logs)


@told_at("start")
def first_five(event: Event, view: View) -> list[Place]:
    """Five rollouts to replica 0, the rest to replica 1."""
    return [Place(event.rollouts, (event.rollouts >= 5).astype(int))]


def test_groups_of_ranks_do_not_wait_for_each_other() -> None:
    """Two groups beside each other go as each would by itself."""
    requests = [Request(3 * i, 5 + 7 * i) for i in range(4)]
    both = decoded(requests, NO_LIMITS, 4, 2)
    for group in (0, 1):
        alone = decoded(requests[2 * group : 2 * group + 2], NO_LIMITS, 2, 2)
        for log, own in zip(both.logs[2 * group :], alone.logs, strict=False):
            assert log["start_s"].tolist() == own["start_s"].tolist()
            assert log["duration_s"].tolist() == own["duration_s"].tolist()


def test_a_step_is_as_long_as_the_slowest_drafters() -> None:
    """Rank 0 drafts, rank 1 cannot: both wait for the drafting, which stands in the log of who drafted."""
    requests = [Request(0, 9, accepted=[0] * 9, drafted=[2] * 8 + [0]), Request(0, 9)]
    drafting = DraftCost(per_step_s=0.0, per_drafted_token_s=1.0)
    outcome = decoded(
        requests, replace(NO_LIMITS, budget=2), 2, 2, cost=of_cost(constant=1.0), draft_cost=drafting,
    )  # fmt: skip
    assert outcome.logs[0]["duration_s"].tolist() == outcome.logs[1]["duration_s"].tolist() == [1.0, *[3.0] * 7, 1.0]
    assert outcome.logs[0]["draft_s"].tolist() == [0.0, *[2.0] * 7, 0.0]
    assert not outcome.logs[1]["draft_s"].any()
    assert outcome.waited_s.tolist() == [0.0, 14.0]


@pytest.mark.parametrize("loose_bytes", [0, LOOSE_BYTES])
def test_logs_of_ranks_are_longer_than_one_piece(loose_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "LOOSE_BYTES", loose_bytes)
    requests = [Request(0, LOG_STEPS + 3), Request(0, 2 * LOG_STEPS + 5)]
    outcome = decoded(requests, NO_LIMITS, 2, 2, cost=of_cost(constant=1.0))
    assert [len(log) for log in outcome.logs] == [LOG_STEPS + 3, 2 * LOG_STEPS + 5]
    assert outcome.makespan_s == 2 * LOG_STEPS + 5
