"""The engine under vLLM's limits against the plain reference simulator, which was written from the rules alone: bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from simulator.budgets.policy import TablePolicy, by_live
from simulator.budgets.switch import Switch
from simulator.budgets.view import BatchView
from simulator.cost import Affine, Profile, Table
from simulator.cost.operators import row
from simulator.drafting.acceptance import Acceptance
from simulator.engine.cluster import Outcome, simulate
from simulator.engine.deployment import Deployment
from simulator.engine.serving import Serving
from simulator.engine.workload import Turns, Workload
from tests.engine.workloads import assert_equal
from tests.reference import serving as reference
from tests.reference.test_serving_invariants import scenarios

WORK = (
    "live",
    "query_tokens",
    "kv_tokens",
    "prefill_tokens",
    "prefill_seqs",
    "padded_tokens",
    "longest_context",
    "expert_tokens",
)
TEXTS = {"name": "p", "model": "m", "device": "d", "source": "s", "uncertainty": "u"}
# seconds that add up without rounding, so that both clocks are equal to the last bit
SECONDS = {
    "constant": 0.25,
    "live": 2**-8,
    "query_tokens": 2**-10,
    "kv_tokens": 2**-14,
    "pairs": 2**-16,
    "prefill_tokens": 2**-9,
}
PADDED_S, LONGEST_S, EXPERT_S = 2**-11, 2**-12, 2**-9
FLAT = np.array([0.0, 2.0])
PROFILE = Profile(
    kind="table",
    operators=(
        Affine("a", row(**SECONDS, padded_tokens=PADDED_S)),
        Table("longest", ("live",), (FLAT,), np.full(2, LONGEST_S), per="longest_context"),
        Table("experts", ("live",), (FLAT,), np.full(2, EXPERT_S), per="expert_tokens"),
    ),
    valid_range={"live": (0.0, 1e6), "kv_tokens": (0.0, 8.0)},
    **TEXTS,
)


def cost(work: reference.Work) -> float:
    each = sum(seconds * (1 if name == "constant" else getattr(work, name)) for name, seconds in SECONDS.items())
    own = each + PADDED_S * work.padded_tokens + LONGEST_S * work.longest_context
    return own + EXPERT_S * work.expert_tokens


def workload_of(requests: list[reference.Request], arrivals: bool = True) -> Workload:
    lengths = np.array([r.output_tokens for r in requests])
    tables = [np.array([r.accepted, r.drafted]).T if r.drafted else np.zeros((r.output_tokens, 2)) for r in requests]
    table = np.concatenate(tables).astype(np.uint8)
    names = [r.keys[0][0] if r.keys else ("alone", i) for i, r in enumerate(requests)]
    prompt = np.array([names.index(name) for name in names])
    turns = [list(r.turns) or [(r.output_tokens, 0.0)] for r in requests]
    return Workload(
        prompt, np.arange(len(requests)), np.array([r.prompt_tokens for r in requests]), lengths,
        Acceptance(np.concatenate([[0], np.cumsum(lengths)]), lambda budget: table, prefix=True),
        arrival_s=np.array([r.arrival_s for r in requests]) if arrivals else None,
        turns=Turns(
            np.concatenate([[0], np.cumsum([len(t) for t in turns])]),
            np.array([tokens for t in turns for tokens, _ in t]), np.array([wait_s for t in turns for _, wait_s in t]),
        ) if any(r.turns for r in requests) else None,
    )  # fmt: skip


def serving_of(limits: reference.Settings) -> Serving:
    names = set(Serving.model_fields)
    return Serving(**{name: getattr(limits, name) for name in names})


def policy_of(limits: reference.Settings) -> TablePolicy:
    """The budget for all, from when the switch says."""
    switch = Switch(limits.switch_live, limits.patience, limits.reprefill)
    return replace(by_live([limits.budget]), switch=switch)


def run(requests: list[reference.Request], limits: reference.Settings, policy: object = None) -> Outcome:
    chosen = policy_of(limits) if policy is None else policy
    return simulate(
        workload_of(requests), chosen, Deployment(PROFILE, limits.max_num_seqs, serving=serving_of(limits)), check=True
    )  # type: ignore[arg-type]


def compare(outcome: Outcome, expected: reference.ServingResult) -> None:
    ended, column = outcome.rollouts, outcome.logs[0]
    assert column["start_s"].tolist() == [step.start_s for step in expected.log]
    for name in WORK:
        assert column[name].tolist() == [getattr(step.work, name) for step in expected.log], name
    assert column["duration_s"].tolist() == [step.dt_s for step in expected.log]
    assert column["emitted_tokens"].tolist() == [step.emitted_tokens for step in expected.log]
    assert column["preempted"].tolist() == [step.preempted for step in expected.log]
    if expected.log[0].free_blocks is not None:
        assert column["free_blocks"].tolist() == [step.free_blocks for step in expected.log]
    called = {"preempted": "preemptions", "cached": "hit_tokens"}
    for name in (
        "queued_s",
        "admitted_s",
        "finished_s",
        "first_token_s",
        "preempted",
        "cached",
        "steps",
        "drafted",
        "accepted",
    ):
        assert ended[name].tolist() == getattr(expected, called.get(name, name)), name


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(scenarios())
def test_the_engine_is_the_reference(scenario: tuple[list[reference.Request], reference.Settings]) -> None:
    requests, limits = scenario
    compare(run(requests, limits), reference.simulate(requests, limits, cost))


class Asked:
    """A budget of so many for all, as a policy that is asked."""

    def __init__(self, budget: int, every: int) -> None:
        self.budget, self.every = budget, every

    def __call__(self, view: object) -> int:
        return self.budget


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(scenarios())
def test_a_policy_that_is_asked_meets_the_same_engine(
    scenario: tuple[list[reference.Request], reference.Settings],
) -> None:
    requests, limits = scenario
    asked = run(requests, limits, Asked(limits.budget, 1))
    assert not isinstance(Asked(1, 1), TablePolicy)
    compare(asked, reference.simulate(requests, limits, cost))


def test_every_block_is_free_and_unreferenced_at_the_end() -> None:
    """What `Replica.check` asserts after the last event, said once more of a run with preemptions, sharing and turns."""
    requests = [
        reference.Request(20, 30, keys=[("q", i) for i in range(5)], turns=[(10, 1.0), (20, 0.0)]) for _ in range(8)
    ]
    limits = reference.Settings(8, 32, block_size=4, num_gpu_blocks=40)
    outcome = run(requests, limits)
    assert outcome.rollouts["preempted"].sum() > 0
    assert outcome.rollouts["cached"].sum() > 0
    assert outcome.logs[0]["emitted_tokens"].sum() == 8 * 30


def test_a_rollout_that_cannot_fit_is_refused_by_number() -> None:
    from traces.errors import InputError

    with pytest.raises(InputError, match=r"num_gpu_blocks = 3 .*rollout 1 of the queue, of 13 tokens, needs 4 blocks"):
        run([reference.Request(1, 1), reference.Request(5, 8)], reference.Settings(2, block_size=4, num_gpu_blocks=3))


class ByLive:
    """A budget by live sequences, as a policy that is asked; it also looks at what the view says of each rollout."""

    every = 1

    def __init__(self, budgets: list[int]) -> None:
        self.budgets, self.asked = budgets, 0

    def __call__(self, view: BatchView) -> int:
        self.asked += 1
        assert (view.accepted_tokens <= view.drafted_tokens).all()
        assert (view.decode_steps <= view.emitted_tokens).all()
        return self.budgets[min(view.live, len(self.budgets) - 1)]


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(scenarios())
def test_budgets_follow_the_batch_through_preemptions(
    scenario: tuple[list[reference.Request], reference.Settings],
) -> None:
    """A table by live sequences is the same rule asked before every step, whoever was preempted or admitted meanwhile."""
    requests, limits = scenario
    budgets = [limits.budget, limits.budget, 1, 0, 2]
    told, asked = run(requests, limits, by_live(budgets)), run(requests, limits, ByLive(budgets))
    assert_equal(told, asked)


def test_the_router_sees_who_runs_at_the_moment_of_arrival() -> None:
    """Steps of 10 s: at 5 s the first request runs still on replica 0, so the second goes to replica 1."""
    load = workload_of([reference.Request(1, 1), reference.Request(1, 1, arrival_s=5.0)])
    slow = Profile(kind="affine", operators=(Affine("a", row(constant=10.0)),), **TEXTS)
    for dispatch in ("least_loaded", "shared"):
        outcome = simulate(load, by_live([0]), Deployment(slow, 4, 2, dispatch))  # type: ignore[arg-type]
        assert outcome.rollouts["replica"].tolist() == [0, 1]
        assert outcome.rollouts["first_token_s"].tolist() == [10.0, 15.0]
        assert outcome.busy_s.tolist() == [10.0, 10.0]


def test_a_policy_is_asked_when_its_batch_changes_not_when_others_arrive() -> None:
    requests = [reference.Request(1, 40, arrival_s=float(i)) for i in range(12)]
    policy = ByLive([0, 0])
    policy.every = 0  # type: ignore[misc]
    simulate(workload_of(requests), policy, Deployment(PROFILE, 1, 2, "least_loaded"))  # type: ignore[arg-type]
    assert policy.asked <= 2 * len(requests)


def test_time_before_the_first_arrival_is_no_makespan() -> None:
    late = simulate(workload_of([reference.Request(1, 3, arrival_s=500.0)]), by_live([0]), Deployment(PROFILE, 1))
    soon = simulate(workload_of([reference.Request(1, 3)]), by_live([0]), Deployment(PROFILE, 1))
    assert late.makespan_s == soon.makespan_s
    assert late.busy_s.tolist() == soon.busy_s.tolist()


def test_copies_of_a_resampled_rollout_share_no_prefix() -> None:
    """Four samples of a prompt, each drawn twice: two groups of four, whose first ones hit nothing."""
    group = [reference.Request(40, 2, keys=[("q", i) for i in range(2)]) for _ in range(4)]
    load = workload_of(group, arrivals=False)
    rows = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    lengths = load.output_tokens[rows]
    nothing = Acceptance(
        np.concatenate([[0], np.cumsum(lengths)]), lambda budget: np.zeros((16, 2), np.uint8), prefix=True
    )
    outcome = simulate(
        load.taken(rows, nothing), by_live([0]), Deployment(PROFILE, 8, serving=Serving(enable_prefix_caching=True))
    )
    assert outcome.rollouts["cached"].tolist() == [0, 32, 32, 32] * 2
