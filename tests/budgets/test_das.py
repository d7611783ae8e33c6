"""The DAS policy: what it makes of settings, of a history, and of a drafter that follows Eq. 3 exactly."""

from dataclasses import replace

import numpy as np
import pytest

from simulator.budgets.closed_form import accepted, optimum
from simulator.budgets.das import Settings, das, marginal_costs, parse
from simulator.budgets.policy import UNLIMITED
from tests.budgets.histories import affine, context, curve_of, long_tail
from traces.errors import InputError


def test_settings_are_read_in_any_order_and_default_where_absent() -> None:
    assert parse("") == Settings()
    assert parse("cap=7,short=10,form=printed,budgets=1/2/255,long=20") == Settings(10, 20, (1, 2, 255), "printed", 7)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("shorty=3", "has setting 'shorty=3': did you mean short=? use short="),
        ("short", "has setting 'short'"),
        ("=3", "has setting '=3'"),
        ("short=-1", "short=-1: give a whole number"),
        ("short=1.5", "short=1.5"),
        ("long=", "long=: give a whole number"),
        ("short=9,long=8", "short=9 above long=8"),
        ("budgets=1/2", "has budgets=1/2: that is 2, give 3, such as 0/8/24"),
        ("budgets=1/2/3/4", "that is 4, give 3"),
        ("budgets=1/x/3", "has budgets=1/x/3: give a whole number from 0 to 255, with slashes between"),
        ("budgets=0/0/256", "give a whole number from 0 to 255"),
        ("budgets=", "has budgets=: give a whole number"),
        ("cap=-3", "has cap=-3: give a whole number from 0 to 255"),
        ("form=best", "form=best: use corrected or printed"),
        ("short = 3", "has setting 'short = 3'"),
    ],
)
def test_bad_settings_are_refused_in_one_line_that_names_them(argument: str, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        das(argument, context())
    assert message in str(refusal.value)
    assert str(refusal.value).startswith(f"policy 'das:{argument}'")
    assert "\n" not in str(refusal.value)


def test_without_history_the_class_follows_the_tokens_and_the_budgets_an_independent_implementation() -> None:
    policy = das("", context())
    assert policy.boundaries[3].tolist() == [256, 1024]
    assert policy.budgets[3, :, 0].tolist() == [0, 8, 24]
    assert policy.row_of_prompt is not None
    assert policy.row_of_prompt.tolist() == [3, 3, 3]
    assert das("short=5,long=6,budgets=1/2/3,cap=2", context()).budgets[3, :, 0].tolist() == [1, 2, 2]


def test_history_sets_the_thresholds_and_the_class_of_every_prompt() -> None:
    lengths = [*range(1, 101), *[500] * 3]
    policy = das("budgets=0/4/9", context([0] * 100 + [1] * 3, lengths))
    median, tail = np.quantile(lengths, [0.5, 0.9]).astype(int)
    assert (policy.facts["short_below_tokens"], policy.facts["long_from_tokens"]) == (median, tail)
    assert policy.row_of_prompt is not None
    assert policy.row_of_prompt.tolist() == [0, 2, 3]
    assert policy.boundaries[2].tolist() == [0, 0], "prompt 1 was always Long"
    assert policy.boundaries[0][0] > 0, "prompt 0 starts Short"
    assert (policy.budgets == np.array([0, 4, 9])[None, :, None]).all()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("k", "alpha"), [(0.8, 1.0), (0.5, 0.4), (0.9, 3.0)])
def test_budgets_draft_what_the_optimum_asks_for(seed: int, k: float, alpha: float) -> None:
    prompt, lengths = long_tail(seed)
    known = context(prompt, lengths, 20, curve_of(lengths[:64], k, alpha))
    policy = das("cap=255", known)
    short, medium, long = policy.budgets[0, :, 0].tolist()
    assert short == 0
    assert medium <= long
    assert (policy.budgets == policy.budgets[:1]).all(), "budgets go by class alone"
    assert policy.facts["fit_k"] == pytest.approx(k, rel=2e-3)
    assert policy.facts["fit_alpha"] == pytest.approx(alpha, rel=2e-3)
    # The optimum once more, with the true curve, for a batch at the quantiles of the history.
    batch = np.quantile(lengths, (np.arange(32) + 0.5) / 32)
    ones = np.ones(32)
    c_base, c_tok = marginal_costs(known, float(batch.mean()))
    n_fwd, p = optimum(batch, k * ones, alpha * ones, c_base, c_tok)
    assert policy.facts["target_forward_passes"] == pytest.approx(n_fwd, rel=2e-3)
    in_long = batch >= policy.facts["long_from_tokens"]
    passes = batch - accepted(p, batch, k * ones, alpha * ones)
    wanted = p[in_long].sum() / passes[in_long].sum()
    # A constant budget drafts just itself here; the next measured one up is taken, and beyond 64 there is none.
    measured = np.array([1, 2, 4, 8, 16, 32, 64, UNLIMITED])
    near = {int(measured[np.searchsorted(measured, wanted * slack)]) for slack in (0.99, 1.01)}
    assert long in near


def test_marginal_costs_of_an_affine_model_are_its_coefficients() -> None:
    assert marginal_costs(context(), 1000.0) == (pytest.approx(8e-3), pytest.approx(3e-5))


def test_cap_and_form_change_what_they_name() -> None:
    prompt, lengths = long_tail(1)
    known = context(prompt, lengths, 20, curve_of(lengths[:64], 0.8, 1.0))
    free, capped, printed = (das(setting, known) for setting in ("cap=255", "cap=3", "cap=255,form=printed"))
    assert capped.budgets.max() == 3
    np.testing.assert_array_equal(capped.budgets, np.minimum(free.budgets, 3))
    assert printed.facts["form"] == "printed"
    assert printed.budgets.max() < free.budgets.max(), "the printed form drafts too little for its own target"
    assert das("", known).budgets.max() <= 24


def test_long_rollouts_without_a_precedent_get_what_medium_ones_do() -> None:
    prompt, lengths = long_tail(1)
    policy = das("short=5,long=1000000,cap=255", context(prompt, lengths, 20, curve_of(lengths[:64], 0.8, 1.0)))
    short, medium, long = policy.budgets[0, :, 0].tolist()
    assert (short, long) == (0, medium)
    assert medium > 1


def test_a_drafter_that_cannot_be_measured_leaves_the_cold_budgets() -> None:
    prompt, lengths = long_tail(2)
    assert das("", context(prompt, lengths, 20)).budgets[0, :, 0].tolist() == [0, 8, 24]


def test_where_a_draft_costs_more_than_it_saves_nothing_is_drafted() -> None:
    prompt, lengths = long_tail(1)
    known = replace(context(prompt, lengths, 20, curve_of(lengths[:64], 0.8, 1.0)), cost=affine(1e-6, 1.0))
    policy = das("", known)
    assert policy.facts["target_forward_passes"] == pytest.approx(np.quantile(lengths, 31.5 / 32))
    assert policy.budgets.max() == 0
