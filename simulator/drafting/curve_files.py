"""Acceptance curves in files: our own YAML, an engine's counters by draft position, mean lengths by draft length."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.curve_fits import from_lengths, number
from simulator.drafting.engine_logs import is_log, read_engine_log
from simulator.drafting.prometheus import is_metrics, read_metrics
from simulator.drafting.request_counts import read_json
from simulator.strict_yaml import load_mapping
from traces.errors import InputError
from traces.io import read_bytes

FORMAT = "rolloutsim.acceptance/1"
KEYS = ("format", "name", "source", "conditional", "spread", "drift_per_step", "drift_from")


def read_curve(path: Path, positions: int | None = None, mode: str | None = None) -> AcceptanceCurve:
    """Read a curve, cut to its first `positions` draft positions; the content says which format it is.

    - YAML with `format: rolloutsim.acceptance/1`: name, source, conditional, spread, drift_per_step, drift_from
    - log lines: vLLM's `SpecDecoding metrics`, SGLang's `accept len`; whole logs, several replicas of one model
    - Prometheus text with vLLM's counters, which run from the server's start, engines added up, or SGLang's gauges
    - JSON of counters, benchmarks and requests (`request_counts.read_json`)
    - YAML `model: {mode: {1: 1.8, 2: 2.4, ...}}`: mean acceptance length, bonus included, by draft length (the golden
      lengths of InferenceX); `mode` chooses where there are several

    What tells a mean length alone gives a curve that says what it assumes. Raises InputError naming file, value and fix.
    """
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text (byte {error.start}): give a log, YAML, JSON or Prometheus text") from None
    try:
        return _of_text(text, positions, mode, str(path)).cut(positions)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _of_text(text: str, positions: int | None, mode: str | None, name: str) -> AcceptanceCurve:
    readers = (
        (text.lstrip().startswith("{"), read_json),
        (is_log(text), read_engine_log),
        (is_metrics(text), read_metrics),
    )
    reader = next((reader for fits, reader in readers if fits), None)
    if reader is None and re.search(r"\bINFO\b|Decode batch", text):
        raise InputError(
            "a log in which no line tells of acceptance (vLLM's 'SpecDecoding metrics', SGLang's 'accept len'): take it from a "
            "server that speculates, and with its statistics on"
        )
    document = {} if reader else load_mapping(text, f"format: {FORMAT}")
    if mode is not None and (reader or "format" in document):
        raise InputError(f"mode {mode!r} chooses between mean lengths, of which this file has none: leave it out")
    if reader is not None:
        return reader(text, positions, name)
    if "format" in document:
        return _own(document)
    return from_lengths(_chosen_mode(document, mode), positions, name)


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
        tuple(number(p, f"conditional[{j}]") for j, p in enumerate(conditional)),
        number(document.get("spread", 0.0), "spread"),
        number(document.get("drift_per_step", 0.0), "drift_per_step"),
        drift_from,
        document["name"],
        document["source"],
    )


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
    return {k: number(length, f"{chosen}.{k}") for k, length in lengths.items()}
