"""Draft models through the whole engine, against closed forms, and the published signs of speculation against batch size.

Leviathan et al., arXiv 2211.17192; the H100 fit of arXiv 2601.11580; longer contexts, MagicDec, arXiv 2408.11049.
"""

import math

import numpy as np
import pytest

from simulator.budgets.resolve import resolve_policy
from simulator.cost import Profile
from simulator.cost.profiles import load_profile
from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.drafter import Target
from simulator.drafting.draws import levels, rollout_keys
from simulator.drafting.model import Kind, Modelled
from simulator.drafting.pricing import priced
from simulator.engine.cluster import Outcome, simulate
from simulator.engine.deployment import Deployment
from simulator.engine.workload import Workload
from tests.drafting.lengths import accepted_by, equal_rollouts
from tests.engine.workloads import context_of
from tests.theory.queues import UNIT
from tests.theory.test_leviathan import TOKENS, emitted, relative_error_of_steps

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
ROLLOUTS, OUTPUT_TOKENS = 128, 150


def run(
    drafter: Modelled, cost: Profile, policy: str, n: int, output_tokens: int, slots: int, prompt_tokens: int = 0
) -> Outcome:
    trace = equal_rollouts(n, output_tokens)
    load = Workload(
        trace.prompt.astype(np.int64), trace.sample.astype(np.int64), np.full(n, prompt_tokens, np.int64),
        trace.output_tokens.astype(np.int64), accepted_by(drafter, trace),
    )  # fmt: skip
    return simulate(
        load, resolve_policy(policy, context_of(cost, slots)), Deployment(cost, slots, draft_cost=drafter.cost)
    )


# Closed forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [0.0, 0.3, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("g", [1, 3, 10])
@pytest.mark.parametrize(("kind", "c"), [("draft_model", 0.0), ("draft_model", 1 / 8), ("parallel", 1 / 8)])
def test_speed_up_is_leviathans_for_a_serial_draft_model(a: float, g: int, kind: Kind, c: float) -> None:
    # A target pass lasts 1, a draft pass c; the end of the rollout and its prefill are worth less than g + 1 steps.
    drafter = Modelled(kind, AcceptanceCurve((a,) * g), {"per_pass_s": c})
    outcome = run(drafter, UNIT, f"fixed:{g}", 1, TOKENS, 1)
    mean, _ = emitted(a, g)
    tolerance = 4 * relative_error_of_steps(a, g) + (g + 1) * mean / TOKENS
    passes = g if kind == "draft_model" else 1
    assert TOKENS / outcome.makespan_s == pytest.approx(mean / (1 + passes * c), rel=tolerance)
    assert TOKENS / outcome.rollouts["steps"].sum() == pytest.approx(mean, rel=tolerance)


def test_a_measured_curve_gives_its_mean_acceptance_length_at_every_budget() -> None:
    curve = AcceptanceCurve((0.83, 0.72, 0.75, 0.8))
    for budget in (1, 2, 3, 4):
        outcome = run(Modelled("eagle", curve), UNIT, f"fixed:{budget}", 1, TOKENS, 1)
        mean = 1 + curve.mean_accepted(budget)
        survival = curve.survival()[:budget]
        deviation = math.sqrt((survival * (2 * np.arange(1, budget + 1) - 1)).sum() - survival.sum() ** 2)
        z = (TOKENS / outcome.makespan_s / mean - 1) / (deviation / mean / math.sqrt(TOKENS / mean))
        assert abs(z) < 4


def test_unequal_rollouts_take_the_harmonic_mean_of_their_acceptance_lengths() -> None:
    # A rollout that accepts E tokens a step takes 1/E steps a token: why a counter by draft reads below the curve.
    curve, n, tokens = AcceptanceCurve((0.7, 0.7, 0.7), spread=0.2), 400, 2000
    trace = equal_rollouts(n, tokens)
    level = levels(rollout_keys(trace, np.arange(n), 0, "acceptance level"))
    lengths = 1 + curve.survival_of(np.zeros(n, np.int64), level).sum(axis=1)
    steps = run(Modelled("eagle", curve), UNIT, "fixed:3", n, tokens, n).rollouts["steps"].sum()
    # A step emits 1 to 4 tokens, so deviates by at most 1.5: of n * tokens / E steps, relative to E >= 1.
    tolerance = 4 * 1.5 / math.sqrt(n * tokens / lengths.max()) + 4 / tokens
    assert n * tokens / steps == pytest.approx(n / (1 / lengths).sum(), rel=tolerance)
    assert n / (1 / lengths).sum() < 0.95 * (1 + curve.mean_accepted(3))


# Signs ----------------------------------------------------------------------------------------------------------------


def decoding_speed_ups(drafter: Modelled, cost: Profile, prompt_tokens: int) -> list[float]:
    """Tokens per second with three drafts over tokens per second with none, by batch size, in steps without prefill.

    The rollouts are the same under every batch size, and so are their draws: nothing but the batch changes.
    """

    def speed(policy: str, batch: int) -> float:
        log = run(drafter, cost, policy, ROLLOUTS, OUTPUT_TOKENS, batch, prompt_tokens).logs[0][:]
        decoding = log[log["prefill_tokens"] == 0]
        return float(decoding["emitted_tokens"].sum() / decoding["duration_s"].sum())

    return [speed("fixed:3", batch) / speed("none", batch) for batch in BATCHES]


def h100(conditional: tuple[float, ...], entry: str) -> tuple[Modelled, Profile]:
    cost = load_profile("h100-llama-3.1-8b-published")
    drafter = priced(Modelled("eagle", AcceptanceCurve(conditional), entry), Target(cost))
    assert isinstance(drafter, Modelled)
    return drafter, cost


def test_the_gain_of_an_eagle_head_falls_as_the_batch_grows() -> None:
    gains = decoding_speed_ups(*h100((0.75, 0.70, 0.65), "eagle"), prompt_tokens=100)
    assert (np.diff(gains) < 0).all()
    assert gains[0] > 1.8
    assert gains[-1] < 0.75 * gains[0]


def test_with_long_contexts_the_gain_of_an_eagle_head_rises_with_the_batch() -> None:
    # Reading the KV cache, which verification shares among its tokens, takes over. Outside the range of the fit.
    gains = decoding_speed_ups(*h100((0.75, 0.70, 0.65), "eagle"), prompt_tokens=32_768)
    assert (np.diff(gains) > 0).all()
    assert gains[-1] > 1.1 * gains[0]


def test_n_gram_drafts_that_are_seldom_accepted_are_slower_than_none_in_a_batch() -> None:
    # At batch 1 this fit verifies three drafts for 1.5 % of a step: there even they pay.
    drafter, cost = h100((0.15, 0.40, 0.50), "ngram")
    gains = decoding_speed_ups(drafter, cost, prompt_tokens=100)
    assert 1 + drafter.curve.mean_accepted(3) < 1.25
    assert (np.diff(gains) < 0).all()
    assert all(gain < 1 for gain, batch in zip(gains, BATCHES, strict=True) if batch >= 32)
    assert gains[0] > 1
    hopeless = decoding_speed_ups(*h100((0.01, 0.4, 0.5), "ngram"), prompt_tokens=100)
    assert max(hopeless) < 1.01
    assert hopeless[-1] < 0.65
