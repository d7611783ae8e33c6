"""Prometheus text, as engines serve their metrics, and the acceptance that it tells."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.curve_fits import check_even, from_counters, from_lengths, number
from simulator.drafting.engine_logs import draft_length
from traces.errors import InputError

_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+\S+)?$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

PER_POSITION = "vllm:spec_decode_num_accepted_tokens_per_pos"
DRAFTS, DRAFTED = "vllm:spec_decode_num_drafts", "vllm:spec_decode_num_draft_tokens"
LENGTH, RATE = "sglang:spec_accept_length", "sglang:spec_accept_rate"
STEPS, SLOTS = "sglang:spec_num_steps", "sglang:spec_num_draft_tokens"


class Sample(NamedTuple):
    """One value as it is written, with its labels; the name of a counter is without `_total`."""

    line: int
    name: str
    labels: dict[str, str]
    value: str


def samples(text: str) -> Iterator[Sample]:
    """The samples of a text, one by one; comments and what is none are left out."""
    for line_number, line in enumerate(text.splitlines(), 1):
        found = _SAMPLE.match(line.strip())
        if found is not None and not line.lstrip().startswith("#"):
            labels = dict(_LABEL.findall(found["labels"] or ""))
            yield Sample(line_number, found["name"].removesuffix("_total"), labels, found["value"])


def is_metrics(text: str) -> bool:
    """Whether a text is what vLLM or SGLang serve of their acceptance."""
    return PER_POSITION in text or LENGTH in text


def read_metrics(text: str, positions: int | None, name: str) -> AcceptanceCurve:
    """Return the curve of one scrape; `positions` says how many tokens SGLang drafts where its gauges do not."""
    found = _of_acceptance(text)
    if any(key == PER_POSITION for key, *_ in found):
        return _vllm(found, name)
    return _sglang(found, positions, name)


def _of_acceptance(text: str) -> list[tuple[str, dict[str, str], float]]:
    """Name, labels and value of the samples that matter, of one model and one scrape."""
    found, models = [], set()
    lines: dict[tuple[Any, ...], int] = {}
    for line, name, labels, written in samples(text):
        if name not in (PER_POSITION, DRAFTS, DRAFTED, LENGTH, RATE, STEPS, SLOTS):
            continue
        models.add(labels.get("model_name"))
        series = (name, *sorted(labels.items()))
        if series in lines:
            raise InputError(
                f"line {line}: {name} with the labels of line {lines[series]}: two scrapes or two servers in one file; keep one"
            )
        lines[series] = line
        found.append((name, labels, number(written, f"line {line}: {name}")))
        if name == PER_POSITION and not labels.get("position", "").isdecimal():
            raise InputError(f"line {line}: {name} has no position label: scrape vLLM's /metrics again")
    if len(models) > 1:
        raise InputError(f"counters of {len(models)} models ({', '.join(map(str, sorted(models, key=str)))}): keep one")
    return found


def _vllm(found: list[tuple[str, dict[str, str], float]], name: str) -> AcceptanceCurve:
    """Counters from the server's start, over all engines."""
    totals: dict[str, float] = defaultdict(float)
    by_position: dict[int, float] = defaultdict(float)
    for key, labels, value in found:
        if key == PER_POSITION:
            by_position[int(labels["position"])] += value
        else:
            totals[key] += value
    if DRAFTS not in totals:
        raise InputError(f"{DRAFTS} is missing: scrape it at the same moment as {PER_POSITION}")
    if sorted(by_position) != list(range(len(by_position))):
        raise InputError(f"{PER_POSITION} has positions {sorted(by_position)}: give every position from 0 on")
    if DRAFTED in totals:
        check_even(totals[DRAFTED], totals[DRAFTS], len(by_position))
    return from_counters(totals[DRAFTS], np.array([by_position[j] for j in range(len(by_position))]), name)


def _sglang(found: list[tuple[str, dict[str, str], float]], positions: int | None, name: str) -> AcceptanceCurve:
    """Gauges of the moment of the scrape; ranks count alike, and one that has not drafted yet does not count."""
    gauges: dict[str, list[float]] = defaultdict(list)
    for key, _, value in found:
        gauges[key].append(value)
    lengths = [length for length in gauges[LENGTH] if length > 0]
    if not lengths:
        raise InputError(f"{LENGTH} is 0: nothing was drafted before the scrape; scrape while the engine speculates")
    if len(drafting := {(key, value) for key in (STEPS, SLOTS) for value in gauges[key]}) > len(
        {key for key, _ in drafting}
    ):
        raise InputError(f"{SLOTS} or {STEPS} differ between ranks: keep those of one")
    if gauges[SLOTS] and gauges[SLOTS][0] > 1:
        drafted = int(gauges[SLOTS][0]) - 1
        if gauges[STEPS] and 0 < gauges[STEPS][0] < drafted:
            raise InputError(
                f"{drafted} drafted tokens in {gauges[STEPS][0]:g} steps are trees, of which a mean length tells no acceptance "
                "by position: give `strategies` instead"
            )
    else:
        pairs = list(zip(gauges[LENGTH], gauges[RATE], strict=False))
        drafted = draft_length([(length, rate) for length, rate in pairs if length > 0], positions, 1e-6)
    return from_lengths({drafted: float(np.mean(lengths))}, positions, name)
