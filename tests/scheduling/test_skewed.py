"""Two pools of replicas by a ranker of lengths: the split and the order by brute force, the ranker's errors by their law."""

import itertools
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from simulator.cost import Profile
from simulator.drafting.draws import levels, rollout_keys
from simulator.replay import run
from simulator.results import Result
from simulator.scenario import build
from simulator.scheduling.resolve import resolve_placement
from simulator.scheduling.skewed import SkewedOracle, longest, longest_first, split, with_errors
from simulator.testing import example_trace
from tests.theory.queues import affine
from traces.errors import InputError
from traces.trace import Trace

COST = affine(constant=7e-3, live=1e-4, query_tokens=2e-5, kv_tokens=4e-8)


def pool_by_hand(rollouts: int, tokens: float, replicas: int, prompt: float, slots: int, cost: Profile) -> float:
    """Seconds per token of the fullest replica's batch, for the tokens of a rollout, once for each filling of the slots."""
    fullest = max(len(range(first, rollouts, replicas)) for first in range(replicas))
    batch = min(fullest, slots)
    step_s = 7e-3 + 1e-4 * batch + 2e-5 * batch + 4e-8 * batch * (prompt + tokens / 2)
    return step_s * tokens * fullest / batch


@pytest.mark.parametrize("seed", range(300))
def test_the_split_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    replicas, slots = int(rng.integers(2, 12)), int(rng.choice([1, 4, 32]))
    tail, rest = (int(count) for count in rng.integers(1, 200, 2))
    tokens, prompt = sorted(rng.exponential(2000, 2), reverse=True), float(rng.integers(0, 500))
    chosen = split([(tail, tokens[0]), (rest, tokens[1])], prompt, replicas, slots, COST)

    def slower_s(first: int) -> float:
        return max(
            pool_by_hand(tail, tokens[0], first, prompt, slots, COST),
            pool_by_hand(rest, tokens[1], replicas - first, prompt, slots, COST),
        )

    assert 1 <= chosen < replicas
    assert slower_s(chosen) == pytest.approx(min(map(slower_s, range(1, replicas))), rel=1e-12)


def test_nobody_needs_no_pool() -> None:
    assert split([(0, 9.0), (5, 3.0)], 1, 4, 8, COST) == 0
    assert split([(5, 9.0), (0, 3.0)], 1, 4, 8, COST) == 0
    assert split([(5, 9.0), (5, 3.0)], 1, 1, 8, COST) == 0


def shortest_makespan(lengths: list[int], machines: int) -> int:
    """Of all ways to share lengths out."""

    @lru_cache(None)
    def least(place: int, loads: tuple[int, ...]) -> int:
        if place == len(lengths):
            return max(loads)
        found = {tuple(sorted((*loads[:m], loads[m] + lengths[place], *loads[m + 1 :]))) for m in range(machines)}
        return min(least(place + 1, one) for one in found)

    return least(0, (0,) * machines)


@pytest.mark.parametrize("seed", range(200))
def test_longest_first_keeps_to_grahams_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    machines, lengths = int(rng.integers(1, 5)), rng.integers(1, 60, int(rng.integers(1, 11)))
    order, where = longest_first(lengths.astype(np.float64), machines)
    assert sorted(order.tolist()) == list(range(lengths.size))
    assert (np.diff(lengths[order]) <= 0).all()
    loads, by_hand = np.bincount(where, lengths[order], machines), [0] * machines
    for place, replica in zip(order.tolist(), where.tolist(), strict=True):
        assert by_hand[replica] == min(by_hand)
        by_hand[replica] += int(lengths[place])
    assert loads.max() <= (4 / 3 - 1 / (3 * machines)) * shortest_makespan(lengths.tolist(), machines) + 1e-9


def test_equal_lengths_go_in_turn() -> None:
    _, where = longest_first(np.zeros(7), 3)
    assert where.tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("recall", [0.0, 0.3, 0.87, 1.0])
def test_the_ranker_finds_as_much_as_is_said(recall: float) -> None:
    """Rollouts of many seeds: what is found of a tail is binomial, and as much besides is wrong as was missed."""
    rng, found, tails = np.random.default_rng(1), 0, 0
    for _ in range(300):
        lengths = rng.permutation(100).astype(np.float64)
        tail = longest(lengths, 0.2)
        marked = with_errors(tail, recall, rng.random(100))
        assert tail.sum() == marked.sum() == 20
        assert (lengths[tail] >= 80).all()
        found, tails = found + int((tail & marked).sum()), tails + 20
    if recall in (0.0, 1.0):
        assert found == recall * tails
    else:
        assert abs(found - recall * tails) / np.sqrt(tails * recall * (1 - recall)) < 4


def test_whether_a_rollout_is_found_is_its_own() -> None:
    """It depends on which rollout it is, not on the order, nor on how many others there are."""
    trace = example_trace()
    rows = np.arange(len(trace))
    draws = levels(rollout_keys(trace, rows, 3, "placement"))
    tail = longest(trace.output_tokens.astype(np.float64), 0.4)
    marked = with_errors(tail, 0.5, draws)
    order = np.random.default_rng(0).permutation(rows)
    assert (with_errors(tail[order], 0.5, draws[order]) == marked[order]).all()
    assert (with_errors(tail[tail], 0.5, draws[tail]) == marked[tail]).all()
    assert 0 < (marked & tail).sum() < tail.sum()


def played(trace: Trace, *placements: str, **document: Any) -> Result:
    systems = [{"name": placement, "placement": placement} for placement in placements]
    given = {"trace": "t", "profile": "h100-llama-3.1-8b-published", "drafter": {"kind": "none"}, "systems": systems}
    return run(build({**given, "engine": {"max_num_seqs": 8, "replicas": 4}, **document}), trace)


def test_pools_are_apart_and_a_whole_ranker_is_obeyed() -> None:
    trace = example_trace()
    result = played(trace, "skewed:recall=1")
    for _, mine in result.to_pandas("rollouts").groupby("step"):
        tail = mine["output_tokens"].rank(method="first", ascending=False) <= round(0.2 * len(mine))
        lengths = mine["output_tokens"].to_numpy()
        assert lengths[tail].min() >= lengths[~tail].max()
        pools = [set(mine["replica"][tail]), set(mine["replica"][~tail])]
        assert pools[0]
        assert not pools[0] & pools[1] or len(set(lengths)) < len(lengths)


def test_an_oracle_is_named_as_one() -> None:
    result = played(example_trace(), "skewed:recall=0.87", "skewed", "skewed:tail=0.1,ranker=recall")
    oracle, history, default = ([row["assumes"]] for row in result.runs.to_pylist())
    assert "an oracle ranks rollouts by their true lengths, and finds 87% of the longest 20%" in oracle[0]
    assert "finds 87% of the longest 10%" in default[0]
    assert "oracle" not in history[0]
    told = [note for note in result.about["warnings"] if "oracle" in note]
    assert [note.split(":")[0] for note in told] == ["skewed", "skewed"]


def test_one_replica_is_one_pool() -> None:
    result = played(
        example_trace(), "skewed:recall=1", "skewed", "longest_first", engine={"max_num_seqs": 64, "replicas": 1}
    )
    assert result.to_pandas()["makespan_s"].nunique() == 1


def test_arrivals_go_to_their_pool() -> None:
    """Under a loop that submits one by one, whom the ranker marks stays on the tail's replicas."""
    trace = example_trace()
    systems = [{"name": "s", "loop": "partial:rollouts=12", "placement": "skewed:recall=1,tail=0.3"}]
    result = played(trace, systems=systems, engine={"max_num_seqs": 8, "replicas": 4})
    rollouts = result.to_pandas("rollouts")
    assert len(rollouts) == len(trace)
    assert rollouts["replica"].nunique() == 4


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("skewed:tail=1.5", "give a number from 0 to 1"),
        ("skewed:recall=-1", "give a number from 0 to 1"),
        ("skewed:recall=nan", "give a number from 0 to 1"),
        ("skewed:ranker=mean", "use history or recall"),
        ("skewed:ranker=history,recall=0.9", "drop ranker or recall"),
        ("skewed:share=0.1", "use tail=, recall=, ranker="),
    ],
)
def test_settings_that_say_nothing_are_refused(spec: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        resolve_placement(spec)


def test_shares_of_none_and_all_are_one_pool() -> None:
    trace = example_trace()
    for tail, recall in itertools.product((0.0, 1.0), (0.0, 1.0)):
        found = resolve_placement(f"skewed:tail={tail},recall={recall}")
        assert isinstance(found, SkewedOracle)
        result = played(trace, f"skewed:tail={tail},recall={recall}")
        assert result.to_pandas("rollouts")["replica"].nunique() == 4
