"""What a live engine's steps did, in the words that costs are given in."""

import numpy as np
import numpy.typing as npt

from calibration.live.recording import Recorded
from calibration.live.steps import Shares, flat, shares_of

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

DRAFTING = ("asking", "drafted_tokens", "emitted_tokens")
"""What drafting costs by: sequences that may draft, tokens drafted, and tokens emitted in the step before."""


def work_of(run: Recorded) -> dict[str, Float64]:
    """The work of each step as a profile prices it, and `DRAFTING`; float64[steps] by feature.

    All of a draft counts that was verified, whether or not the rollout ended within it.
    """
    shares, tokens, drafted, sampled = (
        shares_of(run), flat(run.steps, "tokens"), flat(run.steps, "drafted"), flat(run.steps, "emitted"),
    )  # fmt: skip
    chunk = tokens - drafted
    known = run.trace.prompt_tokens.astype(np.int64)[shares.rollout] + shares.position
    context = known - _uncomputed(shares, chunk, sampled)
    decoding = (shares.position > 0) & (chunk == 1) & (sampled > 0)
    pairs = np.where(decoding, context * tokens, chunk * (context - chunk) + chunk * (chunk + 1) // 2)
    features = {
        "live": np.ones_like(tokens), "query_tokens": tokens, "kv_tokens": context, "pairs": pairs,
        "prefill_tokens": np.where(decoding, 0, chunk), "asking": decoding & (run.about["speculative"] is not None),
        "drafted_tokens": drafted, "emitted_tokens": shares.emitted,
    }  # fmt: skip
    n = run.steps.num_rows
    summed = {name: np.bincount(shares.step, of, n).astype(np.float64) for name, of in features.items()}
    return {"constant": np.ones(n)} | summed


def _uncomputed(shares: Shares, chunk: Int64, sampled: Int64) -> Int64:
    """Tokens of each share's rollout that later chunks of its prefill compute."""
    found, left = np.zeros_like(chunk), np.zeros(int(shares.rollout.max()) + 1, np.int64)
    for i in np.lexsort((shares.step, shares.rollout))[::-1].tolist():
        rollout = shares.rollout[i]
        found[i] = 0 if sampled[i] else left[rollout]
        left[rollout] = found[i] + chunk[i]
    return found
