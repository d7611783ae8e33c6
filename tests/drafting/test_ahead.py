"""Drafts made for several RL steps at once are those made for each alone, whatever their histories share."""

import random

import numpy as np
import pytest

from simulator import prepared
from simulator.drafting.acceptance import Acceptance, no_drafts
from simulator.drafting.ahead import Past, drafted_alone, trunks
from simulator.drafting.drafter import Asked, past_rows
from simulator.drafting.measure import DraftProfile, asked_for_curve
from simulator.drafting.suffix import Suffix
from simulator.replay import run
from simulator.scenario import Scenario
from tests.drafting.rollouts import random_case, random_drafter
from traces.io import from_table
from traces.synthesis import synth
from traces.trace import Trace


def past(*rows: int, weight: int = 1) -> Past:
    return Past(np.array(rows, np.int64), np.full(len(rows), weight))


def made(seed: int) -> Trace:
    return from_table(
        synth(prompts=4, samples=3, steps=6, median_tokens=40, max_tokens=90, vocabulary=9, seed=seed), "made"
    )


def test_histories_that_begin_alike_grow_on_one_trunk() -> None:
    asked = {0: past(), 1: past(1, 2), 2: past(1, 3), 3: past(1, 2, 3, 4), 4: past(2, 3, 4, 5), 5: past(2, 3, 5)}
    grown = [(trunk.past.rows.tolist(), trunk.leaves) for trunk in trunks(asked)]
    assert grown == [([1, 2, 3, 4], [(0, 0), (1, 2), (2, 1), (4, 3)]), ([2, 3, 4, 5], [(2, 5), (4, 4)])]


def test_an_occurrence_that_counts_more_is_another_history() -> None:
    assert len(list(trunks({0: past(1, 2), 1: past(1, 2, 3, weight=2)}))) == 2


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("newest", [0, 1])
@pytest.mark.parametrize("window", [1, 3, 16])
def test_tables_are_those_of_forests(window: int, newest: int, own: bool) -> None:
    for seed in range(4):
        trace = made(seed)
        drafter = Suffix(window=window, depth=7, own=own, newest=newest, newest_weight=3)
        asked = list[Asked]()
        for step in trace.steps:
            asked.append(Asked(np.flatnonzero(trace.step == step), past_rows(trace, step, window)))
            if step:
                asked.append(asked_for_curve(trace, past_rows(trace, step, window)))
        together = drafter.accept_each(trace, asked, 0)
        assert together is not None
        drafted = 0
        for one, found in zip(asked, together, strict=True):
            expected = drafter.accept_from(trace, one.rows, drafter.learn(trace, one.past))
            np.testing.assert_array_equal(found.tables, expected.tables)
            np.testing.assert_array_equal(found.offsets, expected.offsets)
            drafted += int(found.tables[0, :, 1].sum())
        assert drafted > 0


@pytest.mark.parametrize("seed", range(20))
def test_what_is_accepted_on_the_way_is_that_of_a_forest(seed: int) -> None:
    """Prompts without a past, empty prompts, rollouts of a token."""
    rng = random.Random(seed)
    trace = random_case(rng, prompts=6, samples=3, longest=30).trace()
    drafter = random_drafter(rng, "problem", rng.random() < 0.5, rng.random() < 0.5, "longest")
    rows, known = np.flatnonzero(trace.step == 1), np.flatnonzero(trace.step == 0)
    expected = drafter.accept_from(trace, rows, drafter.learn(trace, known))
    np.testing.assert_array_equal(drafter.accept(trace, rows, known).tables, expected.tables)


def test_own_output_alone_drafts_what_it_does_without_a_history() -> None:
    trace, drafter = made(9), Suffix(scope="request", depth=7, factor=2.0)
    rows = np.flatnonzero(trace.step == 2)
    found, table = drafted_alone(drafter, trace, rows), drafter.accept(trace, rows, rows[:0]).tables[0]
    np.testing.assert_array_equal(found & 255, table[:, 0])
    np.testing.assert_array_equal(found >> 8 & 255, table[:, 1])
    assert ((found >> 16 == 0) <= (table[:, 1] == 0)).all()
    assert 1 < (found >> 16).max() < drafter.depth


def test_a_run_that_looks_ahead_is_one_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario.model_validate(
        {
            "trace": "made",
            "model": "qwen3-8b",
            "device": "h100",
            "policies": ["das"],
            "engine": {"max_num_seqs": 4},
            "drafter": {"kind": "suffix", "window": 3},
        }
    )
    asked = list[int]()
    each = prepared.accepted_each

    def counted(*args: object) -> list[Acceptance] | None:
        asked.append(len(args[2]))  # type: ignore[arg-type]
        return each(*args)  # type: ignore[arg-type]

    singly, one = list[object](), prepared.accepted

    def counted_one(*args: object) -> Acceptance:
        singly.append(args[1])
        return one(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(prepared, "accepted_each", counted)
    monkeypatch.setattr(prepared, "accepted", counted_one)
    ahead, first = run(scenario, made(1)).steps, len(singly)
    assert asked == [6], "RL steps 2 to 5, and what das measures before each of them: twice what was asked for already"
    monkeypatch.setattr(prepared, "accepted_each", lambda *args: None)
    alone = run(scenario, made(1)).steps
    assert ahead.equals(alone)
    assert len(singly) - first == first + 8, "what was made together is not made again"


def test_no_drafts_count_like_zeros() -> None:
    offsets = np.cumsum([0, 1, 2, 3, 17, 64, 65, 1000])
    blank, zeros = DraftProfile(), DraftProfile()
    blank.add(no_drafts(offsets))
    zeros.add(Acceptance(offsets, lambda budget: np.zeros((int(offsets[-1]), 2), np.uint8), prefix=True))
    assert list(blank.blocks()) == list(zeros.blocks())


def test_policies_that_draft_alike_share_what_is_made_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario(
        trace="made", profile="h100-llama-3.1-8b-published", policies=["fixed:1", "fixed:4", "das", "unlimited"],
        engine={"max_num_seqs": 4}, drafter={"kind": "suffix", "window": 3},
    )  # type: ignore[arg-type]  # fmt: skip
    made_for, each = list[tuple[bytes, bytes]](), prepared.accepted_each

    def counted(*args: object) -> list[Acceptance] | None:
        made_for.extend((one.rows.tobytes(), one.past.tobytes()) for one in args[2])  # type: ignore[attr-defined]
        return each(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(prepared, "accepted_each", counted)
    run(scenario, made(1))
    assert len(made_for) > 3
    assert len(made_for) == len(set(made_for))
