"""Errors of costs: parts scaled apart, steps priced anew as a simulation at other costs would, and what is common cancels."""

from dataclasses import replace

import numpy as np
import pytest

from simulator.budgets.policy import by_live
from simulator.compare.sensitivity import SAMPLE, Steps, bar, corners, effects, scaled, span, steps_of
from simulator.cost import Affine, Profile, Roof, StepWork, Table
from simulator.cost.draft_cost import FREE, DraftCost
from simulator.cost.errors import DERIVED, DEVICE, HOST_CODE, HOST_S, LINK, Source, sources_of
from simulator.cost.operators import row
from simulator.cost.work import WORK_FIELDS
from simulator.engine.cluster import Outcome, simulate
from simulator.engine.log import Log
from simulator.engine.serving import Serving
from tests.compare.batches import AFFINE, batch, profile, setup

WORK = StepWork(4, 10, 100, 300, 6)
ATTENTION = Table(
    "attention", ("decode_seqs", "decode_context"), (np.array([0.0, 64.0]), np.array([0.0, 4000.0])),
    np.array([[1e-4, 2e-4], [1e-3, 2e-2]]),
)  # fmt: skip
COSTS = {"affine": (AFFINE,), "table": (AFFINE, ATTENTION)}


def seconds(one: Affine | Table, factors: tuple[float, float, float]) -> float:
    kind = "table" if isinstance(one, Table) else "affine"
    return float(profile(scaled(one, factors), kind=kind).step_time_s(WORK))


def outcome(
    cost: Profile, most: int = 4, slots: int = 16, replicas: int = 1, draft: DraftCost = FREE, **more
) -> Outcome:
    return simulate(batch(3, 24), by_live([most]), setup(slots, cost, replicas=replicas, draft_cost=draft, **more))


def source(cost: Profile, low: float, high: float, of: str = "parts", **more) -> Source:
    return Source("some", of, low, high, "made up", tuple(one.name for one in cost.operators), **more)  # type: ignore[arg-type]


def effect(one: Source, cost: Profile, of: Outcome) -> np.ndarray:
    return effects(one, cost, steps_of([of.logs]))


def test_parts_are_scaled_apart() -> None:
    affine = Affine("a", row(constant=1, live=1, query_tokens=2, kv_tokens=0.5, pairs=0.1, prefill_tokens=3))
    fixed, tokens, context = 1.0, 4 + 20 + 18, 50 + 30
    for factors in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (0.5, 2, 3)):
        expected = factors[0] * fixed + factors[1] * tokens + factors[2] * context
        assert seconds(affine, factors) == pytest.approx(expected)
    dense = Table("d", ("query_tokens",), (np.array([0.0, 20.0]),), np.array([2.0, 6.0]))
    attention = Table(
        "k", ("live", "context_tokens"), (np.array([0.0, 8.0]), np.array([0.0, 50.0])), np.array([[1, 1], [1, 9.0]])
    )
    assert [seconds(dense, f) for f in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2))] == [4, 6, 6, 4]
    assert [seconds(attention, f) for f in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2))] == [3, 4, 3, 5]


def test_corners_are_of_the_parts_that_there_are() -> None:
    no_context = Affine("a", row(constant=1, query_tokens=1))
    found = [(0.8, 0.8, 1), (0.8, 1.25, 1), (1.25, 0.8, 1), (1.25, 1.25, 1)]
    assert list(corners([no_context], 0.8, 1.25)) == found
    assert len(list(corners([AFFINE], 0.9, 1.1))) == 8
    assert list(corners([Affine("a", row(constant=1))], 0.9, 1.1)) == [(0.9, 1, 1), (1.1, 1, 1)]


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("most", [0, 4])
def test_pricing_steps_anew_is_simulating_at_other_costs(kind: str, most: int) -> None:
    cost = profile(*COSTS[kind], kind=kind)
    before = outcome(cost, most)
    found = effect(source(cost, 0.5, 1.7), cost, before)
    others = (
        replace(cost, operators=tuple(scaled(one, factors) for one in COSTS[kind]))
        for factors in corners(COSTS[kind], 0.5, 1.7)
    )
    expected = [np.log(outcome(other, most).makespan_s / before.makespan_s) for other in others]
    assert found == pytest.approx(expected, abs=1e-9)
    assert len(set(np.round(found, 6))) == 8


def test_where_order_hangs_on_the_clock_it_is_right_to_first_order() -> None:
    cost = profile()
    before = outcome(cost, replicas=3, slots=4)
    for factors, found in zip(corners([AFFINE], 0.9, 1.1), effect(source(cost, 0.9, 1.1), cost, before), strict=True):
        other = replace(cost, operators=(scaled(AFFINE, factors),))
        expected = np.log(outcome(other, replicas=3, slots=4).makespan_s / before.makespan_s)
        assert found == pytest.approx(expected, abs=0.02), "a tenth of the change, and a fifth of a rollout"


def test_a_sample_stands_for_all_steps() -> None:
    cost = profile()
    log = outcome(cost, 0, 2).logs[0][:]
    many = np.tile(log, -(-4 * SAMPLE // len(log)))
    many["start_s"] = np.cumsum(many["duration_s"]) - many["duration_s"]
    found = effects(source(cost, 0.8, 1.3), cost, steps_of([[Log([many])]]))
    whole = Steps(
        many, np.zeros(len(many), np.int64), np.ones(len(many)), many["duration_s"].sum(keepdims=True), np.array([0])
    )
    assert found == pytest.approx(effects(source(cost, 0.8, 1.3), cost, whole), abs=2e-3)
    assert found.max() == pytest.approx(np.log(1.3))
    assert found.min() == pytest.approx(np.log(0.8))


def test_replicas_that_end_early_do_not_count_and_rl_steps_add_up() -> None:
    cost = profile()
    one, other = outcome(cost, 0, 4), outcome(cost, 0, 64)
    longest, shortest = one.logs[0], Log([other.logs[0][:3]])
    level = source(cost, 0.9, 2.0, "level")
    assert effects(level, cost, steps_of([[shortest, longest], [Log(), longest]])) == pytest.approx(np.log([0.9, 2]))
    together = steps_of([one.logs, other.logs])
    assert together.makespan_s(np.zeros(len(together.log))) == pytest.approx(one.makespan_s + other.makespan_s)


def test_a_rank_that_waits_is_off_as_the_slower_one_is() -> None:
    dear = Affine("a", row(constant=1e-4, live=1e-3, query_tokens=2e-4, kv_tokens=1e-6))
    cost = profile(dear)

    def ranks(one: Affine, size: int = 2) -> Outcome:
        return outcome(profile(one), 4, 64, 2, placement="static", data_parallel_size=size)

    together = ranks(dear)
    waited = [float(log["waited_s"].sum() / log["duration_s"].sum()) for log in together.logs]
    assert max(waited) > 0.1
    for factors, found in zip(corners([dear], 0.9, 1.1), effect(source(cost, 0.9, 1.1), cost, together), strict=True):
        expected = np.log(ranks(scaled(dear, factors)).makespan_s / together.makespan_s)
        assert found == pytest.approx(expected, abs=0.01), "a tenth of the change"


def test_a_roofs_rows_need_not_overlap_but_no_step_leaves_its_range() -> None:
    roof = Roof("r", row(constant=5e-3), row(query_tokens=9e-5))
    cost = profile(roof, kind="roofline")
    found = effect(source(cost, 1.0, 1.9), cost, outcome(cost, 4))
    assert found.min() == pytest.approx(0.0, abs=1e-12)
    assert found.max() == pytest.approx(np.log(1.9))
    tokens_dear = found[
        [f == (1.0, 1.9, 1.0) for f in corners([Affine("a", row(constant=1, query_tokens=1))], 1.0, 1.9)].index(True)
    ]
    assert 0.1 < tokens_dear < np.log(1.9), "compute that a roof hides counts"


def test_steps_that_draft_and_steps_that_do_not_are_off_apart() -> None:
    cost = profile()
    never, always = outcome(cost, 0), outcome(cost, 4)
    drafting, plain = (source(cost, 0.5, 2.0, drafting=of) for of in (True, False))
    assert effect(drafting, cost, never) == pytest.approx(np.zeros(8), abs=1e-12)
    assert effect(plain, cost, never).max() == pytest.approx(np.log(2))
    assert effect(drafting, cost, always).max() > 0.98 * np.log(2)
    assert 0 < effect(plain, cost, always).max() < 0.02, "its prefill"
    stated = source(cost, 1.0, 3.0, "steps")
    ratio = span([effect(stated, cost, never) - effect(stated, cost, always)])
    assert ratio[0] == pytest.approx(1 / 3, rel=0.1), "decoding right, verifying three times as dear"
    assert ratio[1] == pytest.approx(3, rel=0.1)


def test_what_policies_share_cancels() -> None:
    cost = profile()
    none, some = outcome(cost, 0), outcome(cost, 4)
    level = source(cost, 0.8, 1.25, "level")
    assert span([effect(level, cost, none) - effect(level, cost, some)]) == pytest.approx((1, 1))
    dear = outcome(cost, 4, draft=DraftCost(per_step_s=5e-3))
    low, high = span([effect(level, cost, none) - effect(level, cost, dear)])
    assert 0.85 < low < 0.99
    assert 1.01 < high < 1.2


def test_each_source_moves_what_it_concerns() -> None:
    cost, draft = profile(), DraftCost(per_step_s=2e-3)
    run = outcome(cost, 4, draft=draft, serving=Serving(step_overhead_s=1e-3))
    log, total_s = run.logs[0], run.makespan_s
    drafted = log["drafted_tokens"] > 0

    def high(one: Source) -> float:
        return float(np.exp(effect(one, cost, run).max())) - 1

    assert high(source(cost, 0.5, 2.0, "drafting")) == pytest.approx(log["draft_s"].sum() / total_s)
    assert high(source(cost, 0.5, 2.0, "overhead")) == pytest.approx(1e-3 * len(log) / total_s)
    assert high(Source("host", "host", 0.0, 1e-4, "")) == pytest.approx(1e-4 * (len(log) + drafted.sum()) / total_s)
    ranged = replace(cost, valid_range={"live": (1.0, 12.0)})
    beyond = float(np.exp(effects(source(cost, 0.5, 2.0, "beyond"), ranged, steps_of([run.logs])).max())) - 1
    many = log["live"] > 12
    assert 0 < many.sum() < len(log)
    assert beyond == pytest.approx((log["duration_s"] - log["draft_s"] - 1e-3)[many].sum() / total_s)
    table = profile(AFFINE, ATTENTION, kind="table")
    derived = replace(table, derived={"decode_seqs": 8.0}, derivation="made up")
    steps = steps_of([outcome(table).logs])
    moved = effects(source(table, 1.0, 2.0, "derived"), derived, steps)
    attention_s = table.operator_times(StepWork(**{name: steps.log[name] for name in WORK_FIELDS}))["attention"]
    over = steps.log["live"] - steps.log["prefill_seqs"] > 8
    assert np.exp(moved.max()) - 1 == pytest.approx(attention_s[over].sum() / steps.log["duration_s"].sum())


def test_independent_sources_add_in_quadrature() -> None:
    assert span([np.array([-0.3, 0.1]), np.array([0.4, -0.4])]) == pytest.approx(
        (np.exp(-0.5), np.exp(np.hypot(0.1, 0.4)))
    )
    assert span([np.array([0.2, 0.3])])[0] == 1.0, "what can only be longer has no lower end but itself"


def test_a_bar_holds_the_makespan_and_grows_with_the_error() -> None:
    run = outcome(profile())
    bars = [bar(profile(error=e), sources_of(profile(error=e)), [run.logs]) for e in (0.0, 0.05, 0.2)]
    assert bars[0] == pytest.approx((1 / DEVICE, DEVICE), rel=0.02)
    assert bars[2][0] < bars[1][0] < bars[0][0] < 1 < bars[0][1] < bars[1][1] < bars[2][1]
    assert min(DERIVED, HOST_CODE, LINK) > 1 > HOST_S
