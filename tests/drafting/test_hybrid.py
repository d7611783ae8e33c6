"""The hybrid takes at each position what its rule says, of the drafts that its two drafters make."""

import random

import numpy as np
import pytest

from simulator.cost.draft_cost import DraftCost
from simulator.cost.profiles import load_profile
from simulator.drafting.cost import load_draft_cost
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.drafter import Target, past_rows
from simulator.drafting.hybrid import Hybrid
from simulator.drafting.model import Modelled
from simulator.drafting.pricing import priced
from simulator.drafting.suffix import Suffix
from simulator.scenario import build
from tests.drafting.rollouts import random_case, random_drafter, replay_rows
from tests.reference.suffix import Counts, draft_scored
from traces.errors import InputError
from traces.trace import Trace

CURVE = AcceptanceCurve((0.6, 0.5, 0.4), drift_per_step=0.3)
MODEL = Modelled("eagle", CURVE)


def shared_prefix(draft: tuple[int, ...], actual: list[int]) -> int:
    pairs = zip(draft, actual, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(draft), len(actual)))


def model_pairs(trace: Trace, budget: int) -> list[list[int]]:
    rows = replay_rows(trace)
    table = MODEL.accept(trace, rows, past_rows(trace, 1, 16), 0).tables[0]
    return np.minimum(table, budget).tolist()


@pytest.mark.parametrize("scope", ["problem", "global", "request"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.777, 1e9])
def test_scored_drafts_are_taken_exactly_where_their_score_exceeds_the_threshold(
    scope: str, own: bool, threshold: float | None
) -> None:
    from_suffix = from_model = 0
    for seed in range(12):
        rng = random.Random(f"{seed}{scope}{own}")
        case = random_case(rng, prompts=4, samples=3, longest=20)
        suffix = random_drafter(rng, scope, own, True, "scored")
        budget = rng.choice((1, 2, 3, 5, 255))
        trace = case.trace()
        rows = replay_rows(trace)
        tables = Hybrid(suffix, MODEL, threshold).accept(trace, rows, past_rows(trace, 1, suffix.window), 0)
        tables.serve([budget])
        found = tables.tables[tables.table_of[budget]].tolist()
        modelled = model_pairs(trace, budget)
        least = CURVE.mean_accepted(min(budget, 3), step=1) if threshold is None else threshold
        position = 0
        for history, prompt, output in case.replayed(scope, suffix.depth, True):
            known = Counts(suffix.depth)
            for token in prompt:
                known.append(token)
            for p in range(len(output)):
                context = [*prompt, *output[:p]][-suffix.depth :]
                drafts = draft_scored(
                    history, known if own else None, context, budget, factor=suffix.factor, min_prob=suffix.min_prob
                )
                admitted = []
                for draft, score in drafts:
                    assert abs(score - least) > 1e-9 or score == 0, "a tie would test rounding"
                    if score > least:
                        admitted.append([shared_prefix(draft, output[p:]), len(draft)])
                        from_suffix += 1
                    else:
                        admitted.append(modelled[position])
                        from_model += 1
                assert found[position] in admitted
                known.append(output[p])
                position += 1
    assert (from_suffix > 0) == (threshold != 1e9 and (own or scope != "request"))
    assert from_model > 0


def test_longest_drafts_are_taken_where_they_are_longer_than_the_threshold() -> None:
    rng = random.Random(5)
    for threshold in (None, 0.0, 1.0, 4.0):
        trace = random_case(rng, prompts=6, samples=3, longest=40).trace()
        rows, past = replay_rows(trace), past_rows(trace, 1, 16)
        suffix = Suffix(factor=2.0)
        hybrid = Hybrid(suffix, MODEL, threshold).accept(trace, rows, past, 0)
        alone = suffix.accept(trace, rows, past, 0).tables[0]
        taken = alone[:, 1] > (3 if threshold is None else threshold)
        assert 0 < taken.sum() < taken.size
        np.testing.assert_array_equal(hybrid.tables[0][taken], alone[taken])
        np.testing.assert_array_equal(hybrid.tables[0][~taken], np.array(model_pairs(trace, 255))[~taken])
        assert hybrid.prefix, "one table serves every budget"


def test_a_step_is_charged_all_passes_of_the_model() -> None:
    hybrid = Hybrid(Suffix(), Modelled("eagle", CURVE, {"per_pass_s": 1e-3, "per_drafted_token_s": 1e-6}))
    assert hybrid.cost == DraftCost(per_step_s=3e-3, per_drafted_token_s=1e-6)
    named = priced(
        Hybrid(Suffix(), Modelled("eagle", CURVE, "eagle")), Target(load_profile("h100-llama-3.1-8b-published"))
    )
    assert named.cost.per_step_s == pytest.approx(2.135e-3 + 3 * 8.41e-7)


def test_settings_and_name() -> None:
    settings = {"kind": "hybrid", "model": {"kind": "mtp", "curve": [0.7], "cost": {"per_pass_s": 1e-3}}}
    scenario = build({"trace": "t", "profile": "p", "policies": ["none"], "drafter": settings})
    hybrid = scenario.drafter.drafter()
    model = Modelled("mtp", AcceptanceCurve((0.7,)), {"per_pass_s": 1e-3})
    assert hybrid == Hybrid(Suffix(match="scored", cost=load_draft_cost("suffix-epyc")), model)
    assert hybrid.needs_tokens
    assert hybrid.learns_from == {"prompt", "own", "history", "model"}
    assert hybrid.window == 16
    name = hybrid.describe()
    assert name.startswith("hybrid(suffix(problem+own, scored")
    assert name.endswith("if score > that of the model, else mtp(curve [0.7], draft=1, cost=per_pass_s=0.001))")
    with pytest.raises(InputError, match="tree is not supported here"):
        Hybrid(Suffix(match="scored", shape="tree"), model)
