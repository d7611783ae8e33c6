"""Acceptance curves in files: our own YAML, an engine's counters by draft position, mean lengths by draft length."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # loads its parts when they are first used

from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.prometheus import samples
from simulator.strict_yaml import load_mapping
from traces.errors import InputError
from traces.io import read_bytes

Float64 = npt.NDArray[np.float64]

FORMAT = "rolloutsim.acceptance/1"
KEYS = ("format", "name", "source", "conditional", "spread", "drift_per_step", "drift_from")
PER_POSITION = "vllm:spec_decode_num_accepted_tokens_per_pos"
DRAFTS, DRAFTED = "vllm:spec_decode_num_drafts", "vllm:spec_decode_num_draft_tokens"
UNEVEN = 0.01
"""Share of drafted tokens that may be missing from drafts of one length before counters by position mislead."""
MISFIT_TOKENS = 0.05
"""How far fitted mean acceptance lengths may lie from those in the file, which come from a run each and are rounded."""


def read_curve(path: Path, positions: int | None = None, mode: str | None = None) -> AcceptanceCurve:
    """Read a curve, cut to its first `positions` draft positions; the content says which format it is.

    - YAML with `format: rolloutsim.acceptance/1`: name, source, conditional, spread, drift_per_step, drift_from
    - JSON `{"num_drafts": n, "accepted_per_pos": [...]}`: drafts, and in how many each position was accepted
    - Prometheus text with vLLM's `spec_decode_num_drafts` and `spec_decode_num_accepted_tokens_per_pos`; counters run
      from the server's start, engines are added up
    - YAML `model: {mode: {1: 1.8, 2: 2.4, ...}}`: mean acceptance length, bonus included, by draft length (the golden
      lengths of InferenceX); `mode` chooses where there are several

    Raises InputError naming file, value and fix.
    """
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text (byte {error.start}): give YAML, JSON or Prometheus text") from None
    try:
        if mode is not None and not _is_lengths(text):
            raise InputError(f"mode {mode!r} chooses between mean lengths, of which this file has none: leave it out")
        if text.lstrip().startswith("{"):
            return from_counters(*_json_counters(text), str(path)).cut(positions)
        if PER_POSITION in text:
            return from_counters(*_prometheus_counters(text), str(path)).cut(positions)
        document = load_mapping(text, f"format: {FORMAT}")
        if "format" in document:
            return _own(document).cut(positions)
        return from_lengths(_chosen_mode(document, mode), positions, str(path))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def from_counters(num_drafts: float, accepted_per_pos: Float64, name: str) -> AcceptanceCurve:
    """Return the curve of an engine's counters: drafts, and how many of them had their j-th token accepted, float64[K]."""
    if not num_drafts > 0:
        raise InputError(f"num_drafts = {num_drafts:g}: no draft was counted: record while the engine speculates")
    before = np.concatenate([[num_drafts], accepted_per_pos])
    if accepted_per_pos.size == 0 or accepted_per_pos.min() < 0:
        raise InputError("accepted_per_pos: give a count of 0 or more for each draft position")
    if (rising := np.flatnonzero(np.diff(before) > 0)).size:
        j = int(rising[0])
        what = f"position {j}" if j else "drafts"
        raise InputError(
            f"{before[j + 1]:g} drafts had position {j + 1} accepted but only {before[j]:g} {what}: a token counts only "
            "where all before it were accepted; check that both counters come from the same moment"
        )
    # where nothing is accepted at a position, what would follow is never tried: 0
    ratio = np.divide(before[1:], before[:-1], out=np.zeros(accepted_per_pos.size), where=before[:-1] > 0)
    return AcceptanceCurve(tuple(ratio.tolist()), name=name, source="accepted tokens by draft position")


def from_lengths(lengths: Mapping[int, float], positions: int | None, name: str) -> AcceptanceCurve:
    """Return the curve whose mean acceptance lengths AL(k) = 1 + S_1 + ... + S_k are those of drafts of k = 1..K tokens.

    AL(k) - AL(k - 1) = S_k, where the differences fall: then the fit is exact. Each length was measured in a run of its
    own, so they need not; then the distribution of accepted tokens whose lengths are nearest (least squares) is taken,
    if it comes within MISFIT_TOKENS. This supposes that token j of a draft does not depend on the draft's length.
    """
    known = sorted(lengths)
    if known != list(range(1, len(known) + 1)):
        raise InputError(f"mean lengths for drafts of {known} tokens: give every length from 1 on")
    if positions is not None and positions > len(known):
        raise InputError(
            f"mean lengths are known up to {len(known)} drafted tokens, {positions} are asked for: nothing is extrapolated"
        )
    given = np.array([lengths[k] for k in known[:positions]])
    k = np.arange(1, given.size + 1)
    for wrong in k[(given < 1) | (given > k + 1)].tolist():
        raise InputError(f"mean length {given[wrong - 1]:g} of {wrong} drafted tokens is not between 1 and {wrong + 1}")
    # unknowns: P(exactly 0, 1, ..., K tokens accepted), none below 0, summing to 1 (a row of great weight)
    system = np.vstack([np.minimum(k[:, None], np.arange(given.size + 1)), np.full(given.size + 1, 1e4)])
    exactly, _ = scipy.optimize.nnls(system, np.append(given - 1, 1e4))
    survival = (exactly / exactly.sum())[::-1].cumsum()[::-1][1:]
    misfit = float(np.abs(1 + survival.cumsum() - given).max())
    if misfit > MISFIT_TOKENS:
        shown = " ".join(f"{length:g}" for length in given)
        raise InputError(
            f"mean lengths {shown} rise by more at some draft length than at a shorter one, so no acceptance by position "
            f"has them: the nearest is {misfit:.2f} tokens off, more than {MISFIT_TOKENS:g}: draft fewer tokens"
        )
    before = np.concatenate([[1.0], survival[:-1]])
    ratio = np.divide(survival, before, out=np.zeros(survival.size), where=before > 1e-9)
    exact = "" if misfit < 1e-6 else f", fitted within {misfit:.3f} tokens"
    return AcceptanceCurve(
        tuple(np.clip(ratio, 0, 1).tolist()), name=name, source=f"mean acceptance length by draft length{exact}"
    )


def _own(document: dict[Any, Any]) -> AcceptanceCurve:
    for key in document:
        if key not in KEYS:
            raise InputError(f"{key!r} is not a key of an acceptance curve: use {', '.join(KEYS)}")
    if document["format"] != FORMAT:
        raise InputError(f"format = {document['format']!r}: this version reads 'format: {FORMAT}'")
    for key in ("name", "source", "conditional"):
        if key not in document:
            raise InputError(f"{key} is missing: a curve says its name, its source and its conditional probabilities")
    for key in ("name", "source"):
        if not isinstance(document[key], str) or not document[key].strip():
            raise InputError(f"{key} = {document[key]!r} is not text: say it in words")
    conditional = document["conditional"]
    if not isinstance(conditional, list) or not conditional:
        raise InputError(f"conditional = {conditional!r}: give a list of probabilities, one for each draft position")
    drift_from = document.get("drift_from", 0)
    if not isinstance(drift_from, int) or isinstance(drift_from, bool):
        raise InputError(f"drift_from = {drift_from!r}: give the RL step at which the curve holds")
    return AcceptanceCurve(
        tuple(_number(p, f"conditional[{j}]") for j, p in enumerate(conditional)),
        _number(document.get("spread", 0.0), "spread"),
        _number(document.get("drift_per_step", 0.0), "drift_per_step"),
        drift_from,
        document["name"],
        document["source"],
    )


def _json_counters(text: str) -> tuple[float, Float64]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON ({str(error)[:80]}): correct the syntax") from None
    if not isinstance(document, dict) or set(document) != {"num_drafts", "accepted_per_pos"}:
        raise InputError('give {"num_drafts": 1000, "accepted_per_pos": [800, 550, 370]}, those two keys alone')
    counts = document["accepted_per_pos"]
    if not isinstance(counts, list):
        raise InputError(f"accepted_per_pos = {counts!r}: give a list of counts, one for each draft position")
    numbers = [_number(count, f"accepted_per_pos[{j}]") for j, count in enumerate(counts)]
    return _number(document["num_drafts"], "num_drafts"), np.array(numbers)


def _prometheus_counters(text: str) -> tuple[float, Float64]:
    """Counters over all engines of one model."""
    totals: dict[str, float] = defaultdict(float)
    by_position: dict[int, float] = defaultdict(float)
    models = set()
    for number, name, labels, written in samples(text):
        if name not in (PER_POSITION, DRAFTS, DRAFTED):
            continue
        models.add(labels.get("model_name"))
        value = _number(written, f"line {number}: {name}")
        if name == PER_POSITION:
            if not labels.get("position", "").isdecimal():
                raise InputError(f"line {number}: {name} has no position label: scrape vLLM's /metrics again")
            by_position[int(labels["position"])] += value
        else:
            totals[name] += value
    if len(models) > 1:
        raise InputError(f"counters of {len(models)} models ({', '.join(map(str, sorted(models, key=str)))}): keep one")
    if DRAFTS not in totals:
        raise InputError(f"{DRAFTS} is missing: scrape it at the same moment as {PER_POSITION}")
    if sorted(by_position) != list(range(len(by_position))):
        raise InputError(f"{PER_POSITION} has positions {sorted(by_position)}: give every position from 0 on")
    full = totals[DRAFTS] * len(by_position)
    if DRAFTED in totals and totals[DRAFTED] < (1 - UNEVEN) * full:
        raise InputError(
            f"{totals[DRAFTED]:g} tokens in {totals[DRAFTS]:g} drafts of up to {len(by_position)}: the drafts differ in "
            "length, and counters by position cannot tell 'rejected' from 'not drafted': record with drafts of one length"
        )
    return totals[DRAFTS], np.array([by_position[j] for j in range(len(by_position))])


def _is_lengths(text: str) -> bool:
    return not (text.lstrip().startswith("{") or PER_POSITION in text or re.search(r"(?m)^format\s*:", text))


def _chosen_mode(document: Mapping[Any, Any], mode: str | None) -> dict[int, float]:
    """The mean length by draft length of a model's one or chosen mode."""
    if len(document) != 1 or not isinstance(modes := next(iter(document.values())), dict) or not modes:
        raise InputError(
            f"top-level keys {list(document)[:4]}: give a curve ('format: {FORMAT}'), or mean lengths of one model by mode"
        )
    if mode is None and len(modes) > 1:
        raise InputError(f"has modes {', '.join(map(str, modes))}: choose one with `mode`")
    chosen = next(iter(modes)) if mode is None else mode
    if chosen not in modes:
        raise InputError(f"has no mode {chosen!r}: choose from {', '.join(map(str, modes))}")
    lengths = modes[chosen]
    if not isinstance(lengths, dict) or not all(isinstance(k, int) for k in lengths):
        raise InputError(f"{chosen}: give mean acceptance lengths by number of drafted tokens, such as 1: 1.8")
    return {k: _number(length, f"{chosen}.{k}") for k, length in lengths.items()}


def _number(value: Any, where: str) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not np.isfinite(number):
        raise InputError(f"{where} = {str(value)[:40]!r} is not a finite number: correct it")
    return number
