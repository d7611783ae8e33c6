"""The acceptance curve behind what was counted: accepted tokens by position, decode steps, mean acceptance lengths."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are first used

from simulator.drafting.curve import AcceptanceCurve
from simulator.limits import LARGEST_BUDGET
from traces.errors import InputError

Float64 = npt.NDArray[np.float64]

UNEVEN = 0.01
"""Share of drafted tokens that may be missing from drafts of one length before counters by position mislead."""
MISFIT_TOKENS = 0.05
"""How far fitted mean acceptance lengths may lie from those in the file, which come from a run each and are rounded."""


def from_counters(num_drafts: float, accepted_per_pos: Float64, name: str) -> AcceptanceCurve:
    """Return the curve of an engine's counters: drafts, and how many of them had their j-th token accepted, float64[K]."""
    if not num_drafts > 0:
        raise InputError(f"num_drafts = {num_drafts:g}: no draft was counted: record while the engine speculates")
    before = np.concatenate([[num_drafts], accepted_per_pos])
    if accepted_per_pos.size == 0 or accepted_per_pos.min() < 0:
        raise InputError("accepted_per_pos: give a count of 0 or more for each draft position")
    if (rising := np.flatnonzero(np.diff(before) > 1e-9 * num_drafts)).size:
        j = int(rising[0])
        what = f"position {j}" if j else "drafts"
        raise InputError(
            f"{before[j + 1]:g} drafts had position {j + 1} accepted but only {before[j]:g} {what}: a token counts only "
            "where all before it were accepted; check that both counters come from the same moment"
        )
    return _conditional(accepted_per_pos, before[:-1], name)


def from_tried(tried_per_pos: Float64, accepted_per_pos: Float64, name: str) -> AcceptanceCurve:
    """Return the curve of drafts of any lengths: how many had a j-th token behind accepted ones, and had it accepted."""
    if not tried_per_pos.size or not tried_per_pos[0] > 0:
        raise InputError("no draft was counted: record while the engine speculates")
    return _conditional(accepted_per_pos, tried_per_pos, name)


def _conditional(accepted: Float64, tried: Float64, name: str) -> AcceptanceCurve:
    # where nothing is accepted at a position, what would follow is never tried: 0
    ratio = np.divide(accepted, tried, out=np.zeros(accepted.size), where=tried > 0)
    return AcceptanceCurve(tuple(np.minimum(ratio, 1).tolist()), name=name, source="accepted tokens by draft position")


def check_even(drafted_tokens: float, num_drafts: float, positions: int) -> None:
    """Raise InputError where drafts differ in length, so that counters by position tell nothing of the later ones."""
    if drafted_tokens < (1 - UNEVEN) * num_drafts * positions:
        raise InputError(
            f"{drafted_tokens:g} tokens in {num_drafts:g} drafts of up to {positions}: the drafts differ in length, and "
            "counters by position cannot tell 'rejected' from 'not drafted': record with drafts of one length"
        )


def from_lengths(lengths: Mapping[int, float], positions: int | None, name: str) -> AcceptanceCurve:
    """Return the curve whose mean acceptance lengths AL(k) = 1 + S_1 + ... + S_k are those of drafts of k = 1..K tokens.

    AL(k) - AL(k - 1) = S_k, where the differences fall: then the fit is exact. Each length was measured in a run of its
    own, so they need not; then the distribution of accepted tokens whose lengths are nearest (least squares) is taken,
    if it comes within MISFIT_TOKENS. This supposes that token j of a draft does not depend on the draft's length.

    Between draft lengths that are given, one conditional probability is assumed for all positions: a lone AL(K) is met
    by p + p^2 + ... + p^K = AL(K) - 1.
    """
    known = sorted(lengths)
    if wrong := [count for count in known if not 1 <= count <= LARGEST_BUDGET]:
        raise InputError(
            f"mean length of {wrong[0]} drafted tokens: give lengths of drafts of 1 to {LARGEST_BUDGET} tokens"
        )
    for count in known:
        if not 1 <= lengths[count] <= count + 1:
            raise InputError(
                f"mean length {lengths[count]:g} of {count} drafted tokens is not between 1 and {count + 1}"
            )
    if positions is not None and positions > known[-1]:
        raise InputError(
            f"mean lengths are known up to {known[-1]} drafted tokens, {positions} are asked for: nothing is extrapolated"
        )
    given = _filled(lengths)[:positions]
    k = np.arange(1, given.size + 1)
    # unknowns: P(exactly 0, 1, ..., K tokens accepted), none below 0, summing to 1 (a row of great weight)
    system = np.vstack([np.minimum(k[:, None], np.arange(given.size + 1)), np.full(given.size + 1, 1e4)])
    exactly, _ = scipy.optimize.nnls(system, np.append(given - 1, 1e4))
    survival = (exactly / exactly.sum())[::-1].cumsum()[::-1][1:]
    misfit = float(np.abs(1 + survival.cumsum() - given).max())
    if misfit > MISFIT_TOKENS:
        shown = " ".join(f"{lengths[count]:g}" for count in known if count <= given.size)
        raise InputError(
            f"mean lengths {shown} rise by more at some draft length than at a shorter one, so no acceptance by position "
            f"has them: the nearest is {misfit:.2f} tokens off, more than {MISFIT_TOKENS:g}: draft fewer tokens"
        )
    before = np.concatenate([[1.0], survival[:-1]])
    ratio = np.divide(survival, before, out=np.zeros(survival.size), where=before > 1e-9)
    exact = "" if misfit < 1e-6 else f", fitted within {misfit:.3f} tokens"
    return AcceptanceCurve(
        tuple(np.clip(ratio, 0, 1).tolist()),
        name=name,
        source=f"mean acceptance length by draft length{exact}",
        assumed=_spans_assumed_alike(known, given.size),
    )


def _filled(lengths: Mapping[int, float]) -> Float64:
    """Mean lengths of drafts of 1, 2, ..., K tokens: those not given rise by equal ratios between those that are."""
    filled: list[float] = []
    reached, survival = 1.0, 1.0
    for k in sorted(lengths):
        missing, rise = k - len(filled), lengths[k] - reached
        powers = np.arange(1, missing + 1)
        ratio = _ratio(rise / survival, missing) if survival > 0 else 0.0
        filled += (reached + survival * np.cumsum(ratio**powers)).tolist()
        survival *= ratio**missing
        reached = lengths[k]
        filled[-1] = reached
    return np.array(filled)


def _ratio(rise: float, count: int) -> float:
    """The p with p + p^2 + ... + p^count = rise, both at least 0; above 1 where the lengths given are at odds."""
    if rise <= 0 or count == 1:
        return max(rise, 0.0)
    powers = np.arange(1, count + 1)
    most = max(1.0, rise ** (1 / count))  # the last of the powers is no more than their sum
    root: Any = scipy.optimize.brentq(lambda p: float((p**powers).sum()) - rise, 0.0, most, xtol=1e-12)
    return float(root)


def _spans_assumed_alike(known: list[int], positions: int) -> str:
    edges = zip([0, *known], known, strict=False)
    spans = [
        f"{begin + 1} to {min(end, positions)}" for begin, end in edges if end - begin > 1 and begin < positions - 1
    ]
    return f"positions {' and '.join(spans)} are accepted alike" if spans else ""


def number(value: Any, where: str) -> float:
    """Return the value as a finite float; InputError begins with `where`."""
    try:
        found = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = float("nan")
    if not np.isfinite(found):
        raise InputError(f"{where} = {str(value)[:40]!r} is not a finite number: correct it")
    return found
