"""Lookahead Reasoning in the engine against the reference, on small random cases."""

import random
from dataclasses import replace

import numpy as np
import pytest

from simulator.budgets.policy import by_live
from simulator.cost import Affine
from simulator.cost.operators import row
from simulator.drafting.acceptance import Acceptance
from simulator.drafting.reasoning import DrawnSteps
from simulator.engine.deployment import Deployment
from simulator.engine.lookahead_run import Ahead, Lookahead, look_ahead
from simulator.engine.replica import NO_TABLE
from simulator.engine.serving import ANYTHING, Serving
from simulator.engine.workload import Workload
from simulator.scheduling.resolve import placement_of
from simulator.scheduling.start import at_start
from tests.engine.workloads import profile
from tests.reference import lookahead as reference
from tests.reference.lookahead import Steps

CASES = 600


def random_steps(rng: random.Random) -> Steps:
    count, luck = rng.randint(1, 7), rng.choice((0.0, 0.5, 0.5, 0.8, 1.0))
    lengths = [[rng.randint(1, rng.choice((1, 4, 9))) for _ in range(count)] for _ in range(3)]
    guessed = [rng.randint(0, 4) for _ in range(sum(lengths[0]))]
    right = [rng.randint(0, most) for most in guessed]
    return Steps(
        rng.randint(1, 6), lengths[0], [rng.random() < luck for _ in range(count)], *lengths[1:], right, guessed
    )


def drawn(rollouts: list[Steps]) -> DrawnSteps:
    counts = np.array([len(one.tokens) for one in rollouts])
    firsts = np.concatenate([[0], np.cumsum(counts + 1)])
    bounds = np.concatenate([np.concatenate([[0], np.cumsum(one.tokens)]) for one in rollouts])
    accepted, drafts, targets = (
        np.concatenate([[*getattr(one, name), 0] for one in rollouts])
        for name in ("accepted", "draft_tokens", "target_tokens")
    )
    return DrawnSteps(
        firsts[:-1], counts, bounds, accepted.astype(np.uint8), drafts.astype(np.int32), targets.astype(np.int32)
    )


def workload(rollouts: list[Steps]) -> Workload:
    lengths = np.array([sum(one.tokens) for one in rollouts])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    drafts = np.concatenate([np.array([one.right, one.guessed], np.uint8).T for one in rollouts])
    acceptance = Acceptance(offsets, lambda _: drafts.copy(), prefix=True)
    n = len(rollouts)
    return Workload(
        np.arange(n), np.zeros(n, np.int64), np.array([one.prompt_tokens for one in rollouts]), lengths, acceptance
    )


def cost_pair(rng: random.Random) -> tuple[object, reference.Cost]:
    """The same costs for the engine and the reference; in sixteenths, so that some moments coincide."""
    constant = rng.choice((1, 2, 4, 8, 16)) / 16
    rates = [rng.choice((0, 0, 1, 3)) / 64 for _ in range(4)]
    live, query, kv, prefill = rates
    costs = row(constant=constant, live=live, query_tokens=query, kv_tokens=kv, prefill_tokens=prefill)

    def seconds(sequences: int, queries: int, context: int, new: int) -> float:
        return constant + live * sequences + query * queries + kv * context + prefill * new

    return profile("affine", Affine("a", costs)), seconds


@pytest.mark.parametrize("seed", range(CASES))
def test_engine_and_reference_agree(seed: int) -> None:
    """All costs are multiples of 1/64, so that sums are exact and times are equal to the bit."""
    rng = random.Random(seed)
    rollouts = [random_steps(rng) for _ in range(rng.randint(1, 6))]
    replicas, share, slots, depth = rng.randint(1, 3), rng.randint(1, 2), rng.randint(1, 6), rng.randint(1, 4)
    waits, judged, placement = rng.random() < 0.5, rng.random() < 0.7, rng.choice(("shared", "static", "round_robin"))
    (target, slow), (draft, quick), (judge, verdict) = (cost_pair(rng) for _ in range(3))
    budget = rng.choice((0, 0, 1, 3))
    asked = workload(rollouts)
    found = look_ahead(
        asked, by_live(np.array([budget])), Deployment(target, slots, replicas, placement), drawn(rollouts),
        Lookahead(depth, waits, draft, judge if judged else None, share), check=True,
    )  # fmt: skip
    order = np.arange(len(rollouts))
    parts, rest = at_start(placement_of(placement, replicas), asked.requests, order, 0 * order, replicas, slots)
    expected = reference.Lookahead(
        rollouts,
        [part.tolist() for part in parts],
        rest.tolist(),
        slots,
        depth,
        waits,
        slow,
        quick,
        verdict if judged else None,
        share,
        budget,
    )
    expected.run()
    same(found, expected)


def same(found: Ahead, expected: reference.Lookahead) -> None:
    ended = found.outcome.rollouts
    for name in ("admitted_s", "finished_s", "replica"):
        assert ended[name].tolist() == [getattr(chain, name) for chain in expected.chains], name
    assert (ended["recomputed"] == 0).all(), "nothing is computed twice"
    names = {
        "drafted_steps": "drafted", "accepted_steps": "accepted", "target_steps": "launched", "cancelled_steps": "cancelled",
        "verdicts": "verdicts", "own_tokens": "own_tokens",
    }  # fmt: skip
    assert {name: found.facts[name] for name in names} == {name: expected.counts[one] for name, one in names.items()}
    assert found.outcome.busy_s.tolist() == [engine.busy_s for engine in expected.targets]
    assert [log["emitted_tokens"].sum() for log in found.outcome.logs] == [
        engine.emitted for engine in expected.targets
    ]
    assert found.facts["draft_tokens"] == sum(engine.emitted for engine in expected.drafts)
    assert found.facts["draft_busy_s"] == sum(engine.busy_s for engine in expected.drafts)
    assert found.facts["judge_busy_s"] == sum(engine.busy_s for engine in expected.judges)


@pytest.mark.parametrize("seed", range(100))
def test_counted_blocks_find_all_that_was_computed(seed: int) -> None:
    """Where each step has its draft in time; a step of the target's own, kept for want of one, is computed again."""
    rng = random.Random(seed)
    rollouts = [random_steps(rng) for _ in range(rng.randint(1, 6))]
    (target, _), draft = cost_pair(rng), profile("affine", Affine("a", row(constant=1 / 1024)))
    waits, depth, block_size = rng.random() < 0.5, rng.randint(1, 4), rng.randint(1, 5)
    free, counted = (
        look_ahead(
            workload(rollouts), NO_TABLE, Deployment(target, 64, serving=serving), drawn(rollouts),
            Lookahead(depth, waits, draft, None), check=True,
        )
        for serving in (ANYTHING, Serving(enable_prefix_caching=True, block_size=block_size))
    )  # fmt: skip
    assert (free.outcome.rollouts["finished_s"] == counted.outcome.rollouts["finished_s"]).all()
    assert (counted.outcome.rollouts["recomputed"] == 0).all()
    assert free.facts == counted.facts


def test_what_lies_outside_the_range_of_a_draft_is_told() -> None:
    rng = random.Random(0)
    rollouts = [random_steps(rng) for _ in range(4)]
    target, draft = (profile("affine", Affine("a", row(constant=1 / 8))) for _ in range(2))
    beyond = replace(draft, valid_range={"live": (1.0, 1.0)})
    inside, outside = (
        look_ahead(
            workload(rollouts), NO_TABLE, Deployment(target, 8), drawn(rollouts), Lookahead(2, False, one, None)
        ).facts
        for one in (draft, beyond)
    )
    assert inside["extrapolated_beside_s"] == 0
    assert 0 < outside["extrapolated_beside_s"] < outside["draft_busy_s"]


@pytest.mark.parametrize("seed", range(100))
def test_few_blocks_preempt_and_lose_nothing(seed: int) -> None:
    """Blocks for one rollout and a few more: what is preempted, or needed elsewhere, is computed again."""
    rng = random.Random(seed)
    rollouts = [random_steps(rng) for _ in range(rng.randint(2, 6))]
    block_size, scheduling = rng.randint(1, 4), rng.random() < 0.5
    longest = max(-(-(one.prompt_tokens + sum(one.tokens)) // block_size) for one in rollouts)
    limits = rng.choice(({}, {"max_num_batched_tokens": rng.randint(6, 9)}))
    few, plenty = (
        Serving(num_gpu_blocks=blocks, block_size=block_size, async_scheduling=scheduling, **limits)
        for blocks in (longest + 1 + rng.randint(0, 3), 10_000)
    )
    (target, _), (draft, _) = cost_pair(rng), cost_pair(rng)
    waits, depth = rng.random() < 0.5, rng.randint(1, 4)
    one, other = (
        look_ahead(
            workload(rollouts), NO_TABLE, Deployment(target, 6, serving=serving), drawn(rollouts),
            Lookahead(depth, waits, draft, None), check=True,
        )
        for serving in (few, plenty)
    )  # fmt: skip
    for found in (one, other):
        ended = found.outcome.rollouts
        assert (ended["recomputed"] >= 0).all()
        assert not np.isnan(ended["finished_s"]).any()
        emitted = sum(int(log["emitted_tokens"].sum()) for log in found.outcome.logs)
        assert found.facts["wasted_target_tokens"] == emitted - found.facts["own_tokens"] >= 0
    if waits:
        assert one.facts["accepted_steps"] == other.facts["accepted_steps"], "the draws decide, not the clock"
