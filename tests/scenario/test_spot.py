"""A drafter trained on idle replicas, against the rule written again: idle time decides what later RL steps accept."""

import json
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from simulator.deployed import costs_of, prices_of
from simulator.drafting.learning import relaxed
from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from simulator.training.resolve import resolve_stage
from simulator.training.spot import idle_time
from tests.drafting.lengths import trace_of
from traces.errors import InputError
from traces.trace import Trace

H100 = "h100-llama-3.1-8b-published"
PASS = {"per_pass_s": 0.0007, "per_step_s": 0.0003}


def made(seed: int, steps: int = 5, long: int = 400) -> Trace:
    rng = random.Random(seed)
    rollouts = [(step, f"p{i // 2}", i % 2, rng.choice([5, 20, 60, long])) for step in range(steps) for i in range(12)]
    return trace_of(rollouts)


def played(trace: Trace, drafter: dict[str, Any], replicas: int = 3, **system: Any) -> Result:
    base = {"name": "one", "policy": "fixed:3", "drafter": drafter} | system
    engine = {"max_num_seqs": 4, "replicas": replicas}
    return run(build({"trace": "made", "profile": H100, "engine": engine, "systems": [base]}), trace)


def makespans(result: Result) -> list[float]:
    found: list[float] = result.rl_steps["makespan_s"].to_pylist()
    return found


# The rule again -------------------------------------------------------------------------------------------------------


def odds_moved(p: float, by: float) -> float:
    return p if p in (0.0, 1.0) or by == 0 else 1 / (1 + math.exp(-(math.log(p / (1 - p)) + by)))


def idle_again(table: pa.Table, step: int, replicas: int, least: int, until_s: float) -> float:
    """Replica-seconds after the last decode step of each, once `least` of them have had theirs."""
    rows = [row for row in table.to_pylist() if row["step"] == step]
    ends = [
        max((r["start_s"] + r["duration_s"] for r in rows if r["replica"] == i), default=0.0) for i in range(replicas)
    ]
    begins = sorted(ends)[least - 1]
    return sum(max(until_s - max(end, begins), 0.0) for end in ends)


def by_hand(
    trace: Trace, drafters: Any, start: Sequence[float], limit: Sequence[float], drift: float, settings: dict[str, Any]
) -> tuple[list[float], list[float]]:
    """Makespan and idle replica-seconds of each RL step, played one at a time; drafters: from conditional to settings."""
    conditional, drift_from, since, found, idle = list(start), 0, 0.0, [], []
    for step in trace.steps:
        if step and step % settings["every"] == 0:
            now = [odds_moved(p, drift * (step - drift_from)) for p in conditional]
            left = 2.0 ** (-since / settings["half_life"])
            conditional = [b + (a - b) * left for a, b in zip(now, limit, strict=True)]
            drift_from, since = step, 0.0
        alone = played(trace.select(trace.step == step), drafters(conditional, drift, drift_from))
        found += makespans(alone)
        idle.append(idle_again(alone.steps, step, 3, settings["replicas"], found[-1]))
        tokens = int(trace.output_tokens[trace.step == step].sum())
        since += min(settings["tokens_per_s"] * idle[-1], settings["passes"] * tokens)
    return found, idle


@pytest.mark.parametrize("seed", range(12))
def test_what_an_rl_step_leaves_idle_decides_what_later_ones_accept(seed: int) -> None:
    rng, trace = random.Random(seed), made(seed)
    start = sorted((rng.uniform(0.3, 0.9) for _ in range(4)), reverse=True)
    limit = rng.choice([None, [0.95] * 4, sorted((rng.uniform(0.5, 1.0) for _ in range(4)), reverse=True)])
    drift = rng.choice([0.0, -0.3]) if limit else -0.5
    settings = {
        "tokens_per_s": rng.choice([20.0, 500.0]), "half_life": rng.choice([50.0, 1000.0]), "every": rng.choice([1, 2, 3]),
        "replicas": rng.choice([1, 2, 3]), "passes": rng.choice([0.25, 1.0]),
    }  # fmt: skip
    text = ",".join(f"{name}={value}" for name, value in settings.items())
    limits = "" if limit is None else ",limit=" + "/".join(map(str, limit if len(set(limit)) > 1 else limit[:1]))

    def drafter(conditional: Sequence[float], drift: float, drift_from: int) -> dict[str, Any]:
        return {"kind": "eagle", "curve": conditional, "drift_per_step": drift, "drift_from": drift_from, "cost": PASS}

    result = played(trace, drafter(start, drift, 0), stages=[f"spot:{text}{limits}"])
    expected, idle = by_hand(trace, drafter, start, limit or start, drift, settings)
    np.testing.assert_allclose(makespans(result), expected, rtol=1e-12)
    (facts,) = (json.loads(told) for told in result.runs["facts"].to_pylist())
    np.testing.assert_allclose([facts[str(step)]["idle_replica_s"] for step in trace.steps], idle, rtol=1e-9, atol=1e-9)
    assert [facts[str(step)]["drafter_version"] for step in trace.steps] == [j // settings["every"] for j in range(5)]


@pytest.mark.parametrize("seed", range(4))
def test_each_strategy_goes_to_its_own_limit(seed: int) -> None:
    rng, trace = random.Random(seed), made(seed)
    start, limit = [rng.uniform(0.4, 0.6) for _ in range(2)], [rng.uniform(0.7, 0.95) for _ in range(2)]
    settings = {"tokens_per_s": 500.0, "half_life": 800.0, "every": 1, "replicas": 1, "passes": 1.0}
    text = ",".join(f"{name}={value}" for name, value in settings.items())

    def drafter(conditional: Sequence[float]) -> dict[str, Any]:
        rows = [
            {"depth": 3, "topk": 2, "verify": verify, "conditional": [p] * 3}
            for verify, p in zip((4, 9), conditional, strict=True)
        ]
        return {"kind": "eagle", "strategies": rows, "cost": PASS}

    spot = f"spot:{text},limit={'/'.join(map(str, limit))}"
    policy = "threshold:9@2"
    result = played(trace, drafter(start), policy=policy, stages=[spot])
    since, conditional, expected = 0.0, list(start), []
    for step in trace.steps:
        conditional = [b + (a - b) * 2.0 ** (-since / 800.0) for a, b in zip(start, limit, strict=True)]
        found = played(trace.select(trace.step == step), drafter(conditional), policy=policy)
        expected += makespans(found)
        idle_s = idle_again(found.steps, step, 3, 1, expected[-1])
        since += min(500.0 * idle_s, int(trace.output_tokens[trace.step == step].sum()))
    np.testing.assert_allclose(makespans(result), expected, rtol=1e-12)
    assert conditional[0] > start[0]


def test_the_law_of_relaxing() -> None:
    start, limit = np.array([0.9, 0.5, 0.2]), np.array([0.95, 0.5, 0.8])
    assert (relaxed(start, limit, 0.0, 10.0) == start).all(), "to the bit"
    np.testing.assert_allclose(relaxed(start, limit, 10.0, 10.0), (start + limit) / 2)
    np.testing.assert_allclose(relaxed(start, limit, 1e6, 10.0), limit)
    at_once, twice = relaxed(start, limit, 7.0, 3.0), relaxed(relaxed(start, limit, 3.0, 3.0), limit, 4.0, 3.0)
    np.testing.assert_allclose(at_once, twice, rtol=1e-14)


@pytest.mark.parametrize("seed", range(20))
def test_idle_time_is_that_of_whole_groups_of_ranks(seed: int) -> None:
    rng = random.Random(seed)
    ranks, groups = rng.choice([1, 2]), rng.randint(1, 3)
    kind = np.dtype([("start_s", float), ("duration_s", float)])
    logs = [np.array([(float(i), 1.0) for i in range(rng.choice([0, 3, 9]))], kind) for _ in range(ranks * groups)]
    last = [max(len(log) for log in logs[i - i % ranks : i - i % ranks + ranks]) for i in range(len(logs))]
    least = rng.randint(1, len(logs))
    expected = sum(sum(last[i] <= t for i in range(len(logs))) for t in range(9) if sum(n <= t for n in last) >= least)
    assert idle_time(logs, 9.0, least, ranks) == expected


def test_what_is_not_drafted_is_sync_to_the_bit_whoever_trains() -> None:
    trace, eagle = made(1), {"kind": "eagle", "curve": [0.8, 0.6], "cost": PASS}
    plain = played(trace, {"kind": "none"}, policy="none")
    for policy in ("none", "buckets:patience=999999999,reprefill=yes", "bandit:patience=999999999,reprefill=yes"):
        other = played(trace, eagle, policy=policy, stages=["spot:tokens_per_s=9,half_life=5,every=1,limit=0.9"])
        for name in plain.steps.column_names:
            assert other.steps[name].equals(plain.steps[name]), name
        assert other.runs["output_tokens"].to_pylist() == plain.runs["output_tokens"].to_pylist()


def test_every_token_is_emitted_whatever_begins_when() -> None:
    trace, eagle = made(2), {"kind": "eagle", "curve": [0.8, 0.6], "cost": PASS}
    for policy in ("buckets:live=3,patience=4,reprefill=yes", "bandit:live=2,patience=2,reprefill=yes,every=3"):
        result = played(trace, eagle, policy=policy, stages=["spot:tokens_per_s=9,half_life=5,every=2,limit=0.9"])
        assert result.runs["output_tokens"].to_pylist() == [int(trace.output_tokens.sum())]
        assert result.runs["drafted_tokens"].to_pylist()[0] > 0
        assert result.runs["recomputed_tokens"].to_pylist()[0] > 0


EAGLE = {"kind": "eagle", "curve": [0.8, 0.6], "cost": PASS}
BAD = [
    ("spot", EAGLE, "needs half_life="),
    ("spot:half_life=5", EAGLE, "stage spot has no speed: name model and device"),
    ("spot:half_life=0,tokens_per_s=5", EAGLE, "has half_life=0: give a number from 1e-09"),
    ("spot:half_life=5,tokens_per_s=5,mfu=0.5", EAGLE, "sets mfu beside tokens_per_s"),
    (
        "spot:half_life=5,tokens_per_s=5,limit=0.5/0.5/0.5",
        EAGLE,
        "limit has 3 values, and the drafter 2 draft positions",
    ),
    ("spot:half_life=5,tokens_per_s=5,limit=2", EAGLE, "has limit=2: give a number from 0 to 1"),
    ("spot:half_life=5,tokens_per_s=5,replicas=4", EAGLE, "replicas = 4: there are 3, so give no more"),
    ("spot:half_life=5,tokens_per_s=5", {"kind": "none"}, "has no acceptance to train"),
]


@pytest.mark.parametrize(("spec", "drafter", "problem"), BAD)
def test_what_cannot_be_trained_is_refused_in_one_line(spec: str, drafter: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match="spot") as refusal:
        played(made(0), drafter, stages=[spec])
    assert problem in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_two_trainers_in_idle_time_are_refused() -> None:
    spot = "spot:half_life=5,tokens_per_s=5"
    with pytest.raises(InputError, match="one trains the drafter in idle time"):
        played(made(0), EAGLE, stages=[spot, spot])


def test_a_share_is_of_an_rl_steps_tokens_and_the_speed_follows_from_the_head() -> None:
    trace = made(3)
    scenario = build(
        {"trace": "made", "model": "qwen3-8b", "device": "h100", "tensor_parallel_size": 2, "policies": ["none"],
         "drafter": {"kind": "none"}}
    )  # fmt: skip
    (system,) = scenario.compared
    stage: Any = resolve_stage("spot:half_life=0.5", prices_of(scenario, system, trace, costs_of(scenario)[0]))
    assert stage.half_life == 0.5 * trace.output_tokens.sum() / 5
    hidden, vocabulary = 4096, 151936
    layer = (2 * 32 + 2 * 8) * 128 * hidden + 3 * hidden * 12288  # queries, keys, values, output; the feed-forward
    expected = 2 * 0.4 * 989e12 / (6 * (layer + hidden * vocabulary))
    assert stage.tokens_per_s == pytest.approx(expected, rel=1e-3)  # norms
    assert stage.basis.startswith("assumed")


@pytest.mark.parametrize(
    "loop", ["one_step_async", "partial:rollouts=8", "streaming:rollouts=8", "streaming:rollouts=30,lag=2"]
)
def test_it_trains_under_every_loop(loop: str) -> None:
    """What the replicas do is told by their decode steps, wherever a loop ends the RL step."""
    spot = "spot:tokens_per_s=50,half_life=500,every=2,limit=0.99"
    result = played(made(4), EAGLE, loop=loop, stages=[spot, "update:seconds=1"])
    again = played(made(4), EAGLE, loop=loop, stages=[spot, "update:seconds=1"])
    assert result.steps.equals(again.steps)
    facts = json.loads(result.runs["facts"][0].as_py())
    makespan_s = dict(zip(result.rl_steps["step"].to_pylist(), makespans(result), strict=True))
    for step, told in facts.items():
        expected = idle_again(result.steps, int(step), 3, 1, makespan_s[int(step)])
        assert told["idle_replica_s"] == pytest.approx(expected, abs=1e-9)
    assert sum(told["drafter_tokens"] for told in facts.values()) > 0
