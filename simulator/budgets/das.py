"""DAS's length-aware policy (arXiv 2511.13841 §4.2): budgets by predicted class, the class following the tokens emitted."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.budgets.classes import CLASSES, Thresholds
from simulator.budgets.closed_form import Efficiency, Form, accepted, fit, optimum
from simulator.budgets.context import Context, DraftCurve
from simulator.budgets.policy import UNLIMITED, TablePolicy
from simulator.budgets.predictor import Predictor, predict
from simulator.budgets.trees import chains_only
from simulator.cost.work import StepWork
from simulator.spec import BUDGET, one_of, read, refuse, several, whole

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

COLD_BUDGETS = (0, 8, 24)


@dataclass(frozen=True)
class Settings:
    """`das:short=TOKENS,long=TOKENS,budgets=SHORT/MEDIUM/LONG,...`, each with a default.

    short, long: class thresholds in tokens (default: the median and the 90th percentile of the history; 256 and 1024
    without one and for predictor=ema). budgets: drafts per decode step by class (default: the closed form's, Short always
    0; 0/8/24 without a history, after an independent implementation, since the paper publishes none). form: of the closed
    form. cap: most drafts per decode step. predictor, refresh: see `predictor.predict`.
    """

    short: int | None = None
    long: int | None = None
    budgets: tuple[int, int, int] | None = None
    form: Form = "corrected"
    cap: int = 24
    predictor: Predictor = "history"
    refresh: int = 1


READERS = {
    "short": whole(0),
    "long": whole(0),
    "budgets": several(BUDGET, "0/8/24", count=3),
    "form": one_of("corrected", "printed"),
    "cap": BUDGET,
    "predictor": one_of("history", "ema"),
    "refresh": whole(1),
}


def parse(argument: str) -> Settings:
    """Read the settings out of a policy's name, or raise InputError."""
    settings = Settings(**read("das", argument, READERS))
    if settings.short is not None and settings.long is not None and settings.short > settings.long:
        problem = f"has short={settings.short} above long={settings.long}: give short <= long"
        refuse("das", argument, problem)
    return settings


def das(argument: str, context: Context) -> TablePolicy:
    """Drafts by predicted length: by the closed-form optimum for Long and Medium rollouts, none for Short ones."""
    chains_only("das", argument, context)
    settings = parse(argument)
    prediction = predict(context, settings.short, settings.long, settings.predictor, settings.refresh)
    thresholds = prediction.thresholds
    facts: dict[str, object] = {
        "short_below_tokens": thresholds.short, "long_from_tokens": thresholds.long,
        "predictor": settings.predictor, "refresh_tokens": settings.refresh,
    }  # fmt: skip
    budgets: tuple[int, ...] = COLD_BUDGETS
    if settings.budgets is not None:
        budgets = settings.budgets
    elif context.output_tokens.size and (curve := context.draft_curve()) is not None:
        budgets, more = closed_form_budgets(settings, thresholds, context, curve)
        facts |= more
    capped = np.minimum(budgets, settings.cap)
    facts |= {f"budget_{name}": int(budget) for name, budget in zip(CLASSES, capped, strict=True)}
    table = np.broadcast_to(capped[None, :, None], (4, 3, 1)).astype(np.int64)
    return TablePolicy(prediction.points, table, prediction.row_of_prompt, facts)


def closed_form_budgets(
    settings: Settings, thresholds: Thresholds, context: Context, curve: DraftCurve
) -> tuple[tuple[int, int, int], dict[str, object]]:
    """Turn the optimal drafts per rollout into budgets per decode step by class, and say how well Eq. 3 fits.

    The optimum is that of one full batch whose lengths are evenly spaced quantiles of the history. A class's drafts per
    forward pass become the smallest budget under which the drafter proposed that much on the history.
    """
    every = np.broadcast_to(curve.lengths, curve.drafted.shape)
    pooled = fit(curve.drafted, curve.accepted, every)
    fits = [_fit_class(curve, thresholds, c) or pooled for c in range(3)]
    live = context.max_num_seqs
    length = np.quantile(context.output_tokens, (np.arange(live) + 0.5) / live)
    members = thresholds.classes(length)
    k, alpha = np.array([fits[c].k for c in members]), np.array([fits[c].alpha for c in members])
    c_base, c_tok = marginal_costs(context, float(length.mean()))
    n_fwd, p = optimum(length, k, alpha, c_base, c_tok, settings.form)
    passes = np.maximum(length - accepted(p, length, k, alpha), 1.0)
    curve_classes = thresholds.classes(curve.lengths)
    budgets = [0, 0, 0]
    for c in (1, 2):
        if (members == c).any() and (curve_classes == c).any():
            wanted = float(p[members == c].sum() / passes[members == c].sum())
            budgets[c] = _budget_that_drafts(wanted, curve, curve_classes == c)
    return (0, budgets[1], max(budgets[1:])), {
        "form": settings.form, "fit_k": pooled.k, "fit_alpha": pooled.alpha, "fit_r2": pooled.r2,
        "fit_rmse": pooled.rmse, "target_forward_passes": n_fwd, "c_base_s": c_base, "c_tok_s": c_tok,
    }  # fmt: skip


def marginal_costs(context: Context, mean_tokens: float) -> tuple[float, float]:
    """Return (c_base, c_tok) of Eq. 1 around a full batch: seconds of a pass without its tokens, seconds per token."""
    live = float(context.max_num_seqs)
    kv = live * mean_tokens / 2
    one, two = context.cost.step_time_s(
        StepWork(live=live, query_tokens=np.array([live, 2 * live]), kv_tokens=kv, pairs=np.array([kv, 2 * kv]))
    )
    c_tok = max(float(two - one) / live, 1e-12)
    return max(float(one) - c_tok * live, 1e-12), c_tok


def _fit_class(curve: DraftCurve, thresholds: Thresholds, which: int) -> Efficiency | None:
    """Fit Eq. 3 to the history rollouts of one class; None where it has fewer than 8."""
    member = thresholds.classes(curve.lengths) == which
    if member.sum() < 8:
        return None
    length = np.broadcast_to(curve.lengths[member], curve.drafted[:, member].shape)
    return fit(curve.drafted[:, member], curve.accepted[:, member], length)


def _budget_that_drafts(wanted: float, curve: DraftCurve, member: npt.NDArray[np.bool_]) -> int:
    """Return the smallest measured budget under which `wanted` tokens are drafted per decode step, else UNLIMITED."""
    if wanted <= 0:
        return 0
    steps = (curve.lengths[member] - curve.accepted[:, member]).sum(axis=1)
    per_step = curve.drafted[:, member].sum(axis=1) / np.maximum(steps, 1)
    enough = per_step >= wanted
    return int(curve.budgets[enough.argmax()]) if enough.any() else UNLIMITED
