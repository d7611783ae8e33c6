"""Policies that learn while they decode, against the same rules in plain Python."""

import random
from dataclasses import replace

import numpy as np
import pytest

from simulator.budgets.policy import Learner
from simulator.budgets.resolve import resolve_policy
from simulator.budgets.seer import split
from simulator.budgets.view import POSITION, BatchView
from simulator.cost import Affine, Profile
from simulator.cost.draft_cost import DraftCost
from simulator.cost.operators import row
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.scheduling.resolve import resolve_placement
from tests.budgets.scripted import asked, assert_follows, context_with, scripts, seen_of
from tests.engine.workloads import random_rollout, workload_of
from tests.reference import cost as reference_cost
from tests.reference import policies, rules
from tests.reference.rules import Rule, Seen

NUMBERED = pytest.mark.skipif("replica" not in BatchView.__dataclass_fields__, reason="views do not say which replica")

PRICES = [
    ((8e-3, 1e-4, 5e-8), {}),
    ((8e-3, 1e-4, 5e-8), {"per_step_s": 1e-4, "per_pass_s": 3e-4, "per_pass_kv_token_s": 1e-8}),
    ((1e-3, 2e-3, 1e-6), {"per_query_s": 1e-4, "per_drafted_token_s": 2e-5, "per_emitted_token_s": 1e-5}),
    ((4e-3, 5e-4, 0.0), {"step_fraction": 0.05}),
]


DEAR = 2
"""Drafting seldom pays at this price."""


def profile(constant: float, query: float, kv: float) -> Profile:
    operators = (Affine("a", row(constant=constant, query_tokens=query, kv_tokens=kv)),)
    return Profile("p", "affine", operators, model="m", device="d", source="s", uncertainty="u")


def priced(which: int) -> tuple[Profile, DraftCost, rules.Prices]:
    """One cost model as the policy gets it and as plain Python."""
    (constant, query, kv), drafting = PRICES[which]
    plain = rules.prices(reference_cost.affine(constant, query=query, kv=kv), drafting)
    return profile(constant, query, kv), DraftCost(**drafting), plain


PAST = [(p, 40 * p + 10 * n) for n in range(4) for p in range(1, 9)]
"""Past rollouts of prompts 1 to 8: the longer, the higher the number; prompts 0 and 9 are new."""


def longs(high_from: int, past: list[tuple[int, int]]) -> rules.Callable[[Seen], list[bool]]:
    """Which rollouts DAS's predictor takes for Long, from the survivors of each row of its history."""
    lengths = [length for _, length in past]
    low = int(min(np.quantile(lengths, 0.5), high_from)) if lengths else min(256, high_from)
    thresholds = (low, high_from)
    of_prompt = {p: [length for q, length in past if q == p] for p in range(10)}
    row_of = {}
    for p, found in of_prompt.items():
        classes = [policies.final_class(length, thresholds) for length in found]
        row_of[p] = max((2, 1, 0), key=classes.count) if classes else 3
    by_row = [[length for p, length in past if row_of[p] == r] for r in range(3)] + [lengths]
    table = policies.survival_class(by_row, thresholds)

    def high(seen: Seen) -> list[bool]:
        found = []
        for prompt, emitted in zip(seen.prompts, seen.emitted, strict=True):
            r = row_of[prompt]
            known = table[r][min(emitted, len(table[r]) - 1)]
            found.append((known if by_row[r] else policies.final_class(emitted, thresholds)) == policies.LONG)
        return found

    return high


def draws(seeds: tuple[int, int], episode: int = 0) -> rules.Callable[[int, int], tuple[float, float]]:
    """The bandit's random numbers by (replica, decode step), read in any order."""

    def draw(replica: int, step: int) -> tuple[float, float]:
        coin, pick = np.random.default_rng([*seeds, episode, replica, step // 1024]).random((1024, 2))[step % 1024]
        return float(coin), float(pick)

    return draw


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("aimd", lambda: rules.Aimd("add", 2, 32)),
        ("aimd:variant=double", lambda: rules.Aimd("double", 2, 16)),
        ("aimd:variant=add,start=3,cap=8", lambda: rules.Aimd("add", 3, 8)),
        ("aimd:variant=double,start=1,cap=255", lambda: rules.Aimd("double", 1, 255)),
    ],
)
def test_aimd_windows_follow_their_rollouts(spec: str, rule: rules.Callable[[], Rule], seed: int) -> None:
    context = context_with(*priced(0)[:2])
    answers = assert_follows(spec, rule(), context, seed, greedy=0.7)
    assert len({budget for budgets in answers for budget in budgets}) > 2, "windows moved"


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        ("adaptive", (20, 30, 0.5, 10, False)),
        ("adaptive:compare=average", (20, 30, 0.5, 10, True)),
        ("adaptive:low=1,high=16,rho=0.25,delta=3", (1, 16, 0.25, 3, False)),
        ("adaptive:low=0,high=255,rho=1,delta=2", (0, 255, 1, 2, False)),
        ("adaptive:low=2,high=9,rho=0,delta=5,compare=last", (2, 9, 0, 5, False)),
        ("adaptive:low=0,high=12,rho=1,delta=1,compare=average", (0, 12, 1, 1, True)),
    ],
)
def test_adaptive_lengths_follow_what_drafts_come_to(
    spec: str, settings: tuple[int, int, float, int, bool], seed: int
) -> None:
    answers = assert_follows(spec, rules.Adaptive(*settings), context_with(*priced(0)[:2]), seed, greedy=0.6)
    assert len({budget for budgets in answers for budget in budgets}) > 1, "lengths moved"


@pytest.mark.parametrize("which", range(len(PRICES)))
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("interval", "start", "weight", "most"), [(20, 0.7, 0.15, 8), (1, 0.2, 0.5, 3), (7, 1.0, 1.0, 12)]
)
def test_goodput_is_the_draft_length_with_the_most_tokens_per_second(
    which: int, seed: int, interval: int, start: float, weight: float, most: int
) -> None:
    cost, draft_cost, plain = priced(which)
    spec = f"goodput:max={most},interval={interval},start={start},weight={weight}"
    if interval == 20:
        spec = "goodput"
    rule = rules.Goodput(plain, most, interval, start, weight)
    answers = assert_follows(spec, rule, context_with(cost, draft_cost), seed)
    assert which == DEAR or max(max(budgets) for budgets in answers) > 0


@pytest.mark.parametrize("seed", range(15))
def test_bandit_takes_the_best_median_of_its_bucket_or_explores(seed: int) -> None:
    rng = random.Random(seed)
    settings = {
        "strategies": rng.choice(((1, 2, 4), (8, 0), (5,))), "bounds": rng.choice(((1,), (1, 3), (1, 2, 5, 21))),
        "epsilon": rng.choice((0.0, 0.1, 0.6)), "window": rng.choice((1, 4, 5, 300)),
    }  # fmt: skip
    text = ",".join(f"{key}={'/'.join(map(str, v)) if isinstance(v, tuple) else v}" for key, v in settings.items())
    rule = rules.Bandit(**settings, draw=draws((seed, 3)))  # type: ignore[arg-type]
    answers = assert_follows(f"bandit:{text},seed=3", rule, context_with(*priced(0)[:2], seed=seed), seed)
    assert {budget for budgets in answers for budget in budgets} <= {0, *settings["strategies"]}  # type: ignore[misc]


def test_bandit_settles_on_the_strategy_that_pays() -> None:
    script = scripts(1, replicas=1, rollouts=1)[0]
    script.left = [10**6]
    policy = resolve_policy("bandit:strategies=1/4/2,patience=0,bounds=1", context_with(*priced(0)[:2]))
    chosen = []
    for _ in range(400):
        k = int(np.asarray(policy(script.view())))
        chosen.append(k)
        script.batch[0][POSITION] += 1 + k  # everything is accepted, and 4 cost as much as 1
        script.steps += 1
        script.time_s += 0.01
    assert chosen.count(4) > 0.85 * len(chosen)
    assert {1, 2} < set(chosen), "others are still tried"


@pytest.mark.parametrize("which", range(len(PRICES)))
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("high", ["long", "probe"])
@pytest.mark.parametrize(("past", "long"), [([], 60), (PAST, 150)])
def test_seer_splits_the_best_total_by_marginal_benefit(
    which: int, seed: int, high: str, past: list[tuple[int, int]], long: int
) -> None:
    cost, draft_cost, plain = priced(which)
    priority = longs(long, past) if high == "long" else lambda seen: [sample == 0 for sample in seen.samples]
    spec = f"seer:max=6,factor=1.5,high={high},long={long},interval=5,start=0.9,weight=0.3"
    rule = rules.Seer(plain, priority, 6, 1.5, 5, 0.9, 0.3)
    answers = assert_follows(spec, rule, context_with(cost, draft_cost, past), seed, greedy=0.6)
    assert which == DEAR or any(len(set(budgets)) == 2 for budgets in answers), "both shares occur"


@pytest.mark.parametrize("seed", range(300))
def test_split_is_algorithm_1(seed: int) -> None:
    rng = random.Random(seed)
    high, low, most = rng.randint(0, 30), rng.randint(0, 30), rng.randint(0, 9)
    best, a, factor = rng.randint(0, most), rng.random(), rng.choice((1.0, 2.0, 1.3))
    shares = split(high, low, best, a, most, factor)
    assert shares == rules.marginal_split(high, low, best, a, most, factor)
    if high:
        assert high * shares[0] + low * shares[1] <= best * (high + low), "no more than the batch's best total"
        assert max(shares) <= max(most, 1)


def test_split_by_hand() -> None:
    assert split(4, 12, 0, 0.7, 8, 2.0) == (0, 0), "where the batch should not draft, nobody does"
    assert split(4, 0, 3, 0.7, 8, 2.0) == (3, 0)
    assert split(0, 12, 3, 0.7, 8, 2.0) == (1, 3)
    # 8 tokens, 4 spent: 4 x (a - a^2) = 0.84 is not over 2 x 4 x (1 - a) = 2.4, so the others come first
    assert split(4, 4, 1, 0.7, 8, 2.0) == (1, 1)
    # 20 tokens, 10 spent: 10 x 0.21 = 2.1 > 2 x 2 x 0.3 = 1.2: those of high priority get a second one
    assert split(10, 2, 2, 0.7, 8, 2.0) == (2, 2)


# In the engine --------------------------------------------------------------------------------------------------------


def rule_of(spec: str) -> tuple[str, Rule]:
    """(spec, its plain rule) under PRICES[1], for workloads of up to 6 live sequences."""
    plain = priced(1)[2]
    return spec, {
        "aimd": lambda: rules.Aimd("add", 2, 32),
        "aimd:variant=double": lambda: rules.Aimd("double", 2, 16),
        "adaptive:low=1,high=9,delta=4": lambda: rules.Adaptive(1, 9, 0.5, 4, average=False),
        "goodput": lambda: rules.Goodput(plain, 8, 20, 0.7, 0.15),
        "bandit:strategies=1/3/9,bounds=1/3": lambda: rules.Bandit(
            (1, 3, 9), (1, 3), 0.1, 300, draws((5, 0))
        ),
        "seer:high=probe,interval=4": lambda: rules.Seer(
            plain, lambda seen: [sample == 0 for sample in seen.samples], 8, 2.0, 4, 0.7, 0.15
        ),
    }[spec]()  # fmt: skip


SPECS = (
    "aimd", "aimd:variant=double", "adaptive:low=1,high=9,delta=4", "goodput", "bandit:strategies=1/3/9,bounds=1/3",
    "seer:high=probe,interval=4",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_adaptive_lengths_go_with_rollouts_that_move(seed: int) -> None:
    """Each may be on another replica after every 7 tokens; the plain rule knows them by rollout alone."""
    rng = random.Random(seed)
    rollouts = [random_rollout(rng, rng.randint(0, 30), rng.randint(20, 150)) for _ in range(12)]
    cost, draft_cost, _ = priced(1)
    policy = resolve_policy("adaptive:low=1,high=9,delta=4", context_with(cost, draft_cost))
    rule, replicas_of = rules.Adaptive(1, 9, 0.5, 4, average=False), dict[int, set[int]]()

    def recorded(view: BatchView) -> object:
        answer = policy(view)
        assert np.asarray(answer).tolist() == rule(seen_of(view))
        for number in view.rollout.tolist():
            replicas_of.setdefault(number, set()).add(view.replica)
        return answer

    placement = resolve_placement("divided:stay=7", context_with(cost, draft_cost))
    simulate(
        workload_of(rollouts, np.arange(12) // 4), recorded, Deployment(cost, 3, 3, placement, draft_cost), check=True
    )
    assert max(map(len, replicas_of.values())) > 1, "some moved"


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("replicas", [1, pytest.param(3, marks=NUMBERED)])
@pytest.mark.parametrize("seed", range(3))
def test_in_the_engine_every_answer_is_the_rules(spec: str, replicas: int, seed: int) -> None:
    rng = random.Random(seed)
    rollouts = [random_rollout(rng, rng.randint(0, 90), rng.randint(1, 150)) for _ in range(24)]
    workload = workload_of(rollouts, np.arange(24) // 4)
    workload = replace(workload, sample=np.arange(24) % 4)
    cost, draft_cost, _ = priced(1)
    context = replace(context_with(cost, draft_cost, n_prompts=6), seed=5)
    policy, (_, rule) = resolve_policy(spec, context), rule_of(spec)
    asked_at, budgets_given = [], []

    class Recorded:
        every = policy.every  # type: ignore[attr-defined]

        def __call__(self, view: BatchView) -> object:
            answer = policy(view)
            expected = rule(seen_of(view))
            assert np.broadcast_to(np.asarray(answer), view.live).tolist() == expected
            asked_at.append(view.steps)
            budgets_given.extend(expected)
            return answer

    outcome = simulate(workload, Recorded(), Deployment(cost, 6, replicas, draft_cost=draft_cost), check=True)
    assert len(asked_at) == sum(len(log) for log in outcome.logs), "asked before every decode step"
    assert len(set(budgets_given)) > 1


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("reprefill", ["no", "yes"])
def test_in_the_engine_a_bandit_is_asked_from_its_switch_on(every: int, reprefill: str) -> None:
    rng = random.Random(every)
    workload = workload_of([random_rollout(rng, rng.randint(0, 90), rng.randint(1, 150)) for _ in range(24)])
    cost, draft_cost, _ = priced(1)
    context = replace(context_with(cost, draft_cost, n_prompts=24), seed=5)
    spec = f"bandit:strategies=1/3/9,bounds=1/3,live=4,patience=6,every={every},reprefill={reprefill}"
    policy, rule = resolve_policy(spec, context), rules.Bandit((1, 3, 9), (1, 3), 0.1, 300, draws((5, 0)))
    asked_at = []

    class Recorded:
        every, switch = policy.every, policy.switch  # type: ignore[attr-defined]

        def __call__(self, view: BatchView) -> object:
            answer = policy(view)
            assert np.broadcast_to(np.asarray(answer), view.live).tolist() == rule(seen_of(view))
            asked_at.append(view.steps)
            return answer

    outcome = simulate(workload, Recorded(), Deployment(cost, 12, draft_cost=draft_cost), check=True)
    (log,) = outcome.logs
    calm = np.convolve(log["live"] <= 4, np.ones(6))[: len(log)]
    begins = int(np.flatnonzero(calm == 6)[0])  # no step admits anybody here once so few run
    assert asked_at[0] == begins
    assert not log["drafted_tokens"][:begins].any()
    left = np.flatnonzero(np.diff(log["live"][begins:])) + begins + 1
    assert set(left.tolist()) <= set(asked_at), "where the batch changes"
    assert max(np.diff(asked_at)) == every
    assert len(asked_at) == len(log) - begins or every > 1


@pytest.mark.parametrize("spec", ["goodput", "seer", "bandit:patience=0,strategies=0/2/5"])
def test_the_next_rl_step_goes_on_from_what_this_one_taught(spec: str) -> None:
    context = context_with(*priced(0)[:2])
    first = resolve_policy(spec, context)
    assert isinstance(first, Learner)
    for script, view in asked(scripts(3, greedy=0.05), 3):
        script.step(np.broadcast_to(np.asarray(first(view)), view.live).tolist())
    fresh, taught = resolve_policy(spec, context), resolve_policy(spec, context, first)
    assert taught is not first
    again = resolve_policy(spec, context, first)
    answers: dict[str, list[list[int]]] = {}
    for name, policy in (("fresh", fresh), ("taught", taught), ("again", again)):
        answers[name] = []
        for script, view in asked(scripts(4, greedy=0.05), 4):
            answers[name].append(np.broadcast_to(np.asarray(policy(view)), view.live).tolist())
            script.step(answers[name][-1])
    assert answers["taught"] != answers["fresh"], "what was learnt shows"
    assert answers["taught"] == answers["again"], "and is not changed by using it"
    resolve_policy("fixed:3", context, first)  # a policy that does not learn takes no notice


def test_random_numbers_go_by_seed_and_step_alone() -> None:
    spec = "bandit:strategies=1/2/3/4,patience=0,epsilon=1"
    by_seed = {}
    for seed in (0, 1):
        for variant in ("", ",seed=1"):
            policy = resolve_policy(spec + variant, context_with(*priced(0)[:2], seed=seed))
            views = [script.view() for script in scripts(2)]
            late = replace(views[0], steps=2500)
            by_seed[seed, variant] = [policy(view) for view in (*views, late)]
    assert len({tuple(drawn) for drawn in by_seed.values()}) == 4
    policy = resolve_policy(spec, context_with(*priced(0)[:2]))
    assert policy(late) == by_seed[0, ""][2], "whatever was drawn before"
