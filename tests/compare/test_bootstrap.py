"""Resampling: what is drawn, that it is the same for every policy, and that intervals cover."""

import math
from dataclasses import replace

import numpy as np
import pytest

from simulator.budgets.policy import by_live
from simulator.compare.bootstrap import Interval, interval, makespans, prompts_in, resampled
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from tests.compare.batches import batch, profile, rl_step, setup
from tests.engine.workloads import Hidden
from traces.errors import InputError

TWO = {"none": lambda: by_live([0]), "fixed:4": lambda: by_live([4])}


def test_no_change_of_prompts_is_the_recorded_step() -> None:
    one = rl_step(batch(0, 12))
    everyone = np.arange(12)
    rows = one.rows_of(everyone, everyone)
    assert rows.tolist() == list(range(48))
    same, cost = one.with_rows(rows), profile()
    for policy in (by_live([3]), Hidden(lambda view: 2)):
        assert (
            simulate(same, policy, Deployment(cost, 8)).makespan_s
            == simulate(one.workload, policy, Deployment(cost, 8)).makespan_s
        )


def test_a_drawn_prompt_brings_all_its_rollouts_to_the_place_of_another() -> None:
    workload = batch(0, 3, samples=2)
    one = rl_step(workload)
    assert one.rows_of(np.array([2, 2, 0]), np.arange(3)).tolist() == [4, 5, 4, 5, 0, 1]
    mixed = replace(workload, prompt=np.array([0, 1, 2, 0, 1, 2]))  # samples apart in the queue
    assert rl_step(mixed).rows_of(np.array([2, 2, 0]), np.arange(3)).tolist() == [2, 2, 0, 5, 5, 3]
    absent = replace(workload, prompt=np.array([0, 0, 1, 1, 4, 4]))  # prompts 2, 3 and 9 are in other RL steps
    assert rl_step(absent).rows_of(np.array([2, 4, 9]), np.array([0, 1, 4])).tolist() == [4, 5]
    repeated = one.with_rows(np.array([4, 4, 0]))
    assert repeated.prompt.tolist() == [2, 2, 0]
    tables, begin = workload.acceptance.tables, workload.acceptance.offsets
    fifth = tables[:, begin[4] : begin[5]]
    expected = np.concatenate([fifth, fifth, tables[:, : begin[1]]], axis=1)
    np.testing.assert_array_equal(repeated.acceptance.tables, expected)


def test_budgets_with_tables_of_their_own_come_along() -> None:
    whole = batch(0, 6)
    table = whole.acceptance.tables[0]
    by_budget = replace(whole.acceptance, compute=lambda k: np.minimum(table, k).astype(np.uint8), prefix=False)
    rows = np.array([3, 0, 3, 9])
    cost = profile()
    prefix_s = simulate(rl_step(whole).with_rows(rows), by_live([2, 3, 5]), Deployment(cost, 4)).makespan_s
    other = rl_step(replace(whole, acceptance=by_budget)).with_rows(rows)
    assert simulate(other, by_live([2, 3, 5]), Deployment(cost, 4)).makespan_s == prefix_s


def test_draws_are_common_to_policies_and_do_not_depend_on_who_is_compared() -> None:
    steps = [rl_step(batch([7, s], 20), step=s, **TWO) for s in range(2)]
    both = resampled(steps, setup(), ["none", "fixed:4"], 12, seed=3)
    other_way = resampled(steps, setup(), ["fixed:4", "none"], 12, seed=3)
    np.testing.assert_array_equal(both, other_way[:, ::-1])
    np.testing.assert_array_equal(both[:6], resampled(steps, setup(), ["none", "fixed:4"], 6, seed=3))
    assert (both != resampled(steps, setup(), ["none", "fixed:4"], 12, seed=4)).all()
    assert np.ptp(both[:, 0]) > 0


def test_rl_steps_with_other_prompts_keep_their_sizes() -> None:
    first, second = batch(1, 10, samples=1), batch(2, 10, samples=1)
    second = replace(second, prompt=second.prompt + 10)
    makers = {"count": lambda: Hidden(lambda view: seen.add(len(view.requests.prompt)) or 0)}
    seen: set[int] = set()
    resampled([rl_step(first, 0, **makers), rl_step(second, 1, **makers)], setup(), ["count"], 5)
    assert seen == {10}


def test_seeds_are_drawn_too() -> None:
    workload = batch(1, 10)
    longer = replace(workload, prompt_tokens=workload.prompt_tokens + 20_000)
    one = resampled([rl_step(workload, seed=0)], setup(), ["none"], 20)
    two = resampled([rl_step(workload, seed=0), rl_step(longer, seed=1)], setup(), ["none"], 20)
    assert np.log(two).std() > 2 * np.log(one).std()
    twice = resampled([rl_step(workload, seed=0), rl_step(workload, seed=1)], setup(), ["none"], 20)
    np.testing.assert_allclose(twice, 2 * one)


def test_stateful_policies_start_afresh() -> None:
    def counting():
        asked: list[int] = []
        return Hidden(lambda view: asked.append(1) or min(len(asked), 200))

    step = rl_step(batch(1, 10), fresh=counting)
    assert len({makespans([step], setup(), ["fresh"])[0] for _ in range(3)}) == 1


def test_verdicts() -> None:
    assert [Interval(*ends).verdict for ends in ((1.1, 1.3), (0.7, 0.9), (0.9, 1.1), (1.0, 1.0))] == [
        "faster", "slower", "no detectable difference", "no detectable difference"]  # fmt: skip
    assert interval(1.5, np.ones(9), prompts=1) == Interval(0.0, math.inf)
    narrow, wide = (interval(2.0, np.exp([0.1, -0.1, 0.3, -0.3]), prompts) for prompts in (1000, 4))
    assert wide.low < narrow.low < 2.0 < narrow.high < wide.high
    assert narrow.low * narrow.high == pytest.approx(4.0)


def test_equal_policies_show_no_difference_and_unequal_ones_do() -> None:
    makers = {"none": lambda: by_live([0]), "again": lambda: by_live([0, 0]), "unlimited": lambda: by_live([255])}
    steps = [rl_step(batch(3, 40, a=40.0), **makers)]
    draws = resampled(steps, setup(8), list(makers), 120)
    assert len(draws) == 100, "stops early"
    observed = makespans(steps, setup(8), list(makers))
    verdicts = [interval(observed[0] / observed[i], draws[:, 0] / draws[:, i], 40).verdict for i in (1, 2)]
    assert verdicts == ["no detectable difference", "faster"]


def test_live_siblings_cannot_be_resampled() -> None:
    step = rl_step(replace(batch(1, 10), siblings=object()))
    with pytest.raises(InputError, match="siblings"):
        resampled([step], setup(), ["none"], 2)


def test_intervals_cover_the_truth_and_the_ordinary_bootstrap_does_not() -> None:
    # All rollouts are live at once, so that the longest decides: the hardest case. The truth is the ratio of mean
    # makespans over fresh batches from the same law.
    names, engine, datasets = ["none", "fixed:4"], setup(256), 80

    def recorded(seed: object):
        return [rl_step(batch(seed, 32, prompt_share=0.85, own_share=0.3), **TWO)]

    means = np.mean([makespans(recorded([1, i]), engine, names) for i in range(1500)], axis=0)
    truth = means[0] / means[1]
    covered = {0.25: 0, 1.0: 0}
    for i in range(datasets):
        steps = recorded([2, i])
        seconds = makespans(steps, engine, names)
        for distinct in covered:
            draws = resampled(steps, engine, names, 40, i, distinct)
            found = interval(seconds[0] / seconds[1], draws[:, 0] / draws[:, 1], prompts_in(steps))
            covered[distinct] += found.low <= truth <= found.high
    z = {d: (count - 0.95 * datasets) / math.sqrt(0.95 * 0.05 * datasets) for d, count in covered.items()}
    assert z[0.25] > -3, covered
    assert z[1.0] < -4, "else a quarter of the prompts need not be drawn"
