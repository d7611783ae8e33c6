"""The length class of a rollout, before and while it is decoded: from its prompt's past and the tokens emitted so far."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from simulator.budgets.classes import Thresholds, initial_rows, mean_lengths, refreshed, upgrade_points
from simulator.budgets.context import Context

Int64 = npt.NDArray[np.int64]

Predictor = Literal["history", "ema"]

FIXED = Thresholds(256, 1024)
"""An independent implementation's, for want of a history or by its own predictor; the paper publishes none."""
EMA_WEIGHT = 0.2


@dataclass(frozen=True, eq=False)
class Prediction:
    """row_of_prompt: int64[prompts], the class a prompt's rollouts start in, 3 where its past is unknown.

    points: int64[4, 2], by row: emitted tokens from which a rollout is Medium, and Long. thresholds: what those mean.
    """

    thresholds: Thresholds
    row_of_prompt: Int64
    points: Int64


def predict(
    context: Context, short: int | None, long: int | None, predictor: Predictor = "history", refresh: int = 1
) -> Prediction:
    """Predict classes from what is known before an RL step.

    short, long: thresholds in tokens; None: the median and the 90th percentile of the history, 256 and 1024 without one
    and for `ema`. history: DAS's argmax P(class | longer than the tokens so far, Init). ema: Init is the class of the
    prompt's moving average length, and the tokens emitted so far alone upgrade it. refresh: emitted tokens between looks.
    """
    tokens = context.output_tokens
    defaults = (float(FIXED.short), float(FIXED.long))
    if predictor == "history" and tokens.size:
        median, tail = np.quantile(tokens, [0.5, 0.9])
        defaults = (float(median), float(tail))
    # thresholds that are not given give way to one that is
    low = int(defaults[0] if long is None else min(defaults[0], long)) if short is None else short
    thresholds = Thresholds(low, max(low, int(defaults[1])) if long is None else long)
    if predictor == "history":
        rows = initial_rows(context.prompt, tokens, context.n_prompts, thresholds)
        points = upgrade_points(rows[context.prompt], tokens, thresholds)
    else:
        mean = mean_lengths(context.prompt, tokens, context.n_prompts, EMA_WEIGHT)
        rows = np.where(np.isnan(mean), 3, thresholds.classes(mean)).astype(np.int64)
        by_tokens = [thresholds.short, thresholds.long]
        points = np.array([by_tokens, [0, thresholds.long], [0, 0], by_tokens])
    return Prediction(thresholds, rows, refreshed(points, refresh))
