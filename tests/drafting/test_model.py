"""Draft models by acceptance curve: what is drawn, what the draws are keyed by, and what drafting costs."""

import math
from pathlib import Path

import numpy as np
import pytest

from simulator.budgets.resolve import resolve_policy
from simulator.cost.draft_cost import DraftCost
from simulator.cost.profiles import load_profile
from simulator.drafting.cost import load_draft_cost
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.drafter import Target
from simulator.drafting.draws import levels, rollout_keys, uniform
from simulator.drafting.model import Modelled
from simulator.drafting.nothing import Nothing
from simulator.drafting.pricing import priced
from simulator.engine.cluster import simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from simulator.scenario import build
from tests.drafting.lengths import accepted_by, equal_rollouts, trace_of
from tests.engine.workloads import context_of
from tests.theory.queues import UNIT
from traces.errors import InputError
from traces.trace import Trace

CURVE = AcceptanceCurve((0.8, 0.7, 0.9))
EAGLE = Modelled("eagle", CURVE)
PROFILE = "h100-llama-3.1-8b-published"


def workload(drafter: Modelled, trace: Trace) -> Workload:
    prompts = trace.prompt_tokens.astype(np.int64)
    lengths = trace.output_tokens.astype(np.int64)
    return Workload(
        trace.prompt.astype(np.int64), trace.sample.astype(np.int64), prompts, lengths, accepted_by(drafter, trace)
    )


def pieces(drafter: Modelled, trace: Trace, seed: int = 0) -> dict[tuple[int, str, int], list[list[int]]]:
    """The table of each rollout, by its identity."""
    tables = accepted_by(drafter, trace, seed=seed)
    offsets = tables.offsets
    return {
        (int(trace.step[i]), trace.prompt_ids[trace.prompt[i]], int(trace.sample[i])): tables.tables[0][
            offsets[i] : offsets[i + 1]
        ].tolist()
        for i in range(len(trace))
    }


# Draws ----------------------------------------------------------------------------------------------------------------


def test_draws_are_those_of_splitmix64() -> None:
    published = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)  # seed 1234567
    drawn = [uniform(np.uint64(1234567), counter) for counter in range(4)]
    assert drawn == [((bits >> 11) + 0.5) / 2**53 for bits in published]


def test_every_rollout_has_streams_of_its_own() -> None:
    trace = trace_of([(step, f"p{p}", sample, 1) for step in range(8) for p in range(32) for sample in range(16)])
    rows = np.arange(len(trace))
    keys = np.concatenate([rollout_keys(trace, rows, seed, stream) for seed in (0, 1) for stream in ("a", "b")])
    assert np.unique(keys).size == 4 * len(trace)
    drawn = levels(keys)
    z = (drawn.mean() - 0.5) * math.sqrt(12 * drawn.size)
    assert abs(z) < 4
    neighbours = np.corrcoef(drawn[:-1], drawn[1:])[0, 1] * math.sqrt(drawn.size)
    assert abs(neighbours) < 4


# Tables ---------------------------------------------------------------------------------------------------------------


def test_accepted_tokens_follow_the_curve_at_every_position() -> None:
    table = accepted_by(EAGLE, equal_rollouts(50, 8000)).tables[0]
    whole = table[table[:, 1] == 3, 0]
    for j, probability in enumerate(CURVE.survival(), 1):
        z = ((whole >= j).mean() - probability) / math.sqrt(probability * (1 - probability) / whole.size)
        assert abs(z) < 4


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7])
def test_positions_are_independent(lag: int) -> None:
    accepted = accepted_by(EAGLE, equal_rollouts(1, 200_000)).tables[0][:-3, 0].astype(float)
    z = np.corrcoef(accepted[:-lag], accepted[lag:])[0, 1] * math.sqrt(accepted.size - lag)
    assert abs(z) < 4


def test_rollouts_are_independent_also_those_of_a_group_and_of_successive_steps() -> None:
    trace = trace_of([(step, "p", sample, 50_000) for step in (0, 1) for sample in (0, 1)])
    each = accepted_by(EAGLE, trace).tables[0][:, 0].reshape(4, -1)[:, :-3].astype(float)
    z = np.corrcoef(each)[np.triu_indices(4, 1)] * math.sqrt(each.shape[1])
    assert (np.abs(z) < 4).all()


def test_drafts_have_the_length_of_the_curve_and_are_accepted_up_to_the_end() -> None:
    table = accepted_by(EAGLE, trace_of([(0, "a", 0, 5), (0, "b", 0, 2)])).tables[0]
    assert table[:, 1].tolist() == [3] * 7
    certain = accepted_by(Modelled("mtp", AcceptanceCurve((1.0, 1.0))), trace_of([(0, "a", 0, 3)])).tables[0]
    assert certain.tolist() == [[2, 2], [2, 2], [1, 2]]


def test_a_draw_depends_on_seed_and_identity_and_not_on_who_else_is_asked_for() -> None:
    rollouts = [(step, prompt, sample, 40 + 7 * sample) for step in (3, 4) for prompt in "abc" for sample in range(3)]
    all_of_them = pieces(EAGLE, trace_of(rollouts))
    backwards = pieces(EAGLE, trace_of(rollouts[::-1]))
    assert backwards == all_of_them
    some = trace_of([(4, "c", 1, 47), (9, "z", 0, 5), (3, "a", 2, 54)])
    assert {k: v for k, v in pieces(EAGLE, some).items() if k in all_of_them} == {
        k: all_of_them[k] for k in ((4, "c", 1), (3, "a", 2))
    }
    longer = pieces(EAGLE, trace_of([(3, "a", 0, 60)]))[3, "a", 0]
    assert longer[:37] == all_of_them[3, "a", 0][:37], "but for the end, where drafts are cut"
    assert pieces(EAGLE, trace_of(rollouts), seed=1) != all_of_them
    assert len({str(piece[:30]) for piece in all_of_them.values()}) == len(rollouts)


def test_policies_batches_and_dispatch_meet_the_same_draws() -> None:
    trace = equal_rollouts(24, 300)
    load = workload(Modelled("eagle", AcceptanceCurve((0.8, 0.7, 0.9), spread=0.2)), trace)

    def counts(policy: str, slots: int, replicas: int) -> list[list[int]]:
        outcome = simulate(load, resolve_policy(policy, context_of(UNIT, slots)), Deployment(UNIT, slots, replicas))
        return outcome.rollouts[["steps", "drafted", "accepted"]].tolist()

    alone = counts("fixed:3", 1, 1)
    assert counts("fixed:3", 24, 1) == counts("fixed:3", 5, 3) == counts("unlimited", 7, 2) == alone
    assert counts("threshold:3@24", 24, 1) == alone
    assert counts("fixed:2", 1, 1) != alone


def test_a_better_curve_accepts_at_least_as_much_everywhere() -> None:
    trace = equal_rollouts(20, 500)
    better = AcceptanceCurve((0.85, 0.7, 0.95), spread=0.1)
    worse = AcceptanceCurve((0.8, 0.7, 0.9), spread=0.1)
    high, low = (accepted_by(Modelled("eagle", curve), trace).tables[0][:, 0] for curve in (better, worse))
    assert (high >= low).all()
    assert high.sum() > low.sum()


def test_spread_and_drift_reach_the_table() -> None:
    curve = AcceptanceCurve((0.7, 0.6), spread=0.1, drift_per_step=-0.5)
    for step in (0, 2):
        accepted = (
            accepted_by(Modelled("mtp", curve), equal_rollouts(3000, 201, step)).tables[0][:, 0].reshape(3000, -1)
        )
        level = (accepted[:, :-2] >= 1).mean(axis=1)
        mean = curve.survival(step)[0]
        between = 0.1 * mean * (1 - mean)
        within = mean * (1 - mean) * 0.9 / 199
        assert abs(level.mean() - mean) / math.sqrt((between + within) / 3000) < 4
        # the variance of 3000 sample levels: its own relative deviation is about sqrt(2 / 3000)
        assert abs(level.var() / (between + within) - 1) < 4 * math.sqrt(2 / 3000)


# Cost -----------------------------------------------------------------------------------------------------------------


def test_serial_models_pay_by_pass_and_parallel_ones_once() -> None:
    costs = {"per_pass_s": 1e-3, "per_pass_kv_token_s": 3e-9, "per_drafted_token_s": 1e-6, "per_step_s": 5e-4}
    expected = DraftCost(
        per_step_s=5e-4, per_pass_s=1e-3, per_pass_kv_token_s=3e-9, per_drafted_token_s=1e-6
    )  # fmt: skip
    for kind in ("eagle", "draft_model", "mtp"):
        assert Modelled(kind, CURVE, costs).cost == expected  # type: ignore[arg-type]
    once = Modelled("parallel", CURVE, costs).cost
    assert once == DraftCost(per_step_s=1.5e-3, per_kv_token_s=3e-9, per_drafted_token_s=1e-6)


def test_published_costs_of_a_proposal_are_charged_once_per_step() -> None:
    profile = load_profile(PROFILE)
    named = Modelled("eagle", CURVE, "eagle")
    with pytest.raises(InputError, match="'eagle' is to be looked up where the target is known"):
        _ = named.cost
    found = priced(named, Target(profile))
    assert found.cost == DraftCost(per_step_s=2.135e-3, per_kv_token_s=2.378e-9, per_pass_s=8.41e-7)
    ngram = priced(Modelled("eagle", CURVE, "ngram"), Target(profile))
    assert ngram.cost == DraftCost(step_fraction=0.005875)
    with pytest.raises(
        InputError, match=r"'medusa' is no entry .* \(it has: eagle, ngram\), and .*'medusa' is unknown"
    ):
        priced(Modelled("eagle", CURVE, "medusa"), Target(profile))
    assert priced(Nothing(), Target(profile)) == Nothing()
    assert priced(Modelled("eagle", CURVE, "none"), Target(profile)).cost == DraftCost()
    measured = load_draft_cost("suffix-epyc")
    assert priced(Modelled("eagle", CURVE, "suffix-epyc"), Target(profile)).cost == measured != DraftCost()


def test_the_engine_charges_a_proposal_as_published_while_drafts_are_whole() -> None:
    profile = load_profile(PROFILE)
    drafter = priced(Modelled("eagle", CURVE, "eagle"), Target(profile))
    load = workload(drafter, equal_rollouts(4, 50))  # type: ignore[arg-type]
    outcome = simulate(
        load, resolve_policy("fixed:3", context_of(profile, 4)), Deployment(profile, 4, draft_cost=drafter.cost)
    )
    kv, drafted, draft_s = (outcome.logs[0][c] for c in ("kv_tokens", "drafted_tokens", "draft_s"))
    whole = np.flatnonzero(drafted == 12)
    assert whole.size > 5
    np.testing.assert_allclose(draft_s[whole], 2.135e-3 + 2.378e-9 * kv[whole] + 8.41e-7 * 3, rtol=1e-12)
    assert draft_s[0] == 0, "the prefill drafts nothing"


@pytest.mark.parametrize(
    ("costs", "message"),
    [({"per_pas_s": 1.0}, "cost.per_pas_s is not a cost of drafting"), ({"per_pass_s": -1.0}, "per_pass_s = -1")],
)
def test_costs_that_make_no_sense_are_refused(costs: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Modelled("eagle", CURVE, costs)


# Settings -------------------------------------------------------------------------------------------------------------


def drafter_of(**settings: object) -> Modelled:
    drafter = build({"trace": "t", "profile": PROFILE, "policies": ["none"], "drafter": settings}).drafter.drafter()
    assert isinstance(drafter, Modelled)
    return drafter


def test_settings_make_the_drafter_they_describe(tmp_path: Path) -> None:
    path = tmp_path / "curve.yaml"
    path.write_text("format: rolloutsim.acceptance/1\nname: c\nsource: s\nconditional: [0.5, 0.4]\nspread: 0.1\n")
    from_file = drafter_of(kind="mtp", curve=str(path), cost="mtp", spread=0.2, drift_per_step="1e-2")
    assert from_file == Modelled("mtp", AcceptanceCurve((0.5, 0.4), 0.2, 0.01, name="c", source="s"), "mtp")
    assert drafter_of(kind="eagle", curve=[0.8, 0.7], draft_tokens=1, cost={}) == Modelled(
        "eagle", AcceptanceCurve((0.8,))
    )
    assert drafter_of(kind="draft_model", curve=[0.8], cost={"per_pass_s": "2e-3"}).cost.per_pass_s == 2e-3
    assert drafter_of(kind="parallel", curve=[0.8], cost={"per_pass_s": 2e-3}).cost.per_step_s == 2e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "eagle", "curve": [0.8], "cost": {}, "layers": 2}, "layers has no effect beside cost"),
        ({"kind": "mtp", "curve": [0.8], "model": "qwen3-0.6b"}, "mtp is a head of the target"),
        ({"kind": "draft_model", "curve": [0.8], "layers": 2}, "name the draft model with model"),
        ({"kind": "draft_model", "curve": [0.8], "model": "qwen9"}, "model 'qwen9' is unknown"),
        ({"kind": "eagle", "cost": {}}, "drafter.curve: missing"),
        ({"kind": "eagle", "curve": [0.8], "cost": {}, "draft_tokens": 2}, "knows 1 draft positions, 2 are asked for"),
        ({"kind": "eagle", "curve": [0.8], "cost": {}, "sprad": 1}, "drafter.sprad: unknown key: did you mean 'spread'"),
        ({"kind": "eagle", "curve": [1.8], "cost": {}}, "less than or equal to 1"),
        ({"kind": "eagle", "curve": [0.8], "cost": {}, "mode": "on"}, "mode 'on' chooses within a file"),
        ({"kind": "eagle", "curve": "nowhere.yaml", "cost": {}}, "nowhere.yaml: no such file"),
    ],
)  # fmt: skip
def test_settings_that_describe_no_drafter_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        drafter_of(**settings)


def test_the_name_says_what_the_result_depends_on() -> None:
    curve = AcceptanceCurve((0.8, 0.75), spread=0.05, drift_per_step=-0.1, name="head.yaml")
    assert Modelled("eagle", curve, "eagle").describe() == (
        "eagle(head.yaml [0.8 0.75], spread=0.05, drift=-0.1/step from step 0, draft=2, cost=eagle)"
    )
    assert EAGLE.describe() == "eagle(curve [0.8 0.7 0.9], draft=3, cost=free)"
