"""What engines print of acceptance: vLLM's "SpecDecoding metrics", SGLang's decode batches, tables of their benchmarks."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.curve_fits import check_even, from_counters, from_lengths
from simulator.limits import LARGEST_BUDGET
from traces.errors import InputError

VLLM, SGLANG = "SpecDecoding metrics:", "accept len:"

_MEAN = re.compile(r"Mean acceptance length: (\d+\.\d\d)\b")
_ACCEPTED = re.compile(r"Accepted: (\d+) tokens")
_DRAFTED = re.compile(r"Drafted: (\d+) tokens")
_RATES = re.compile(r"Per-position acceptance rate: (\d\.\d+(?:, \d\.\d+)*)")
_VLLM_SERVES = re.compile(r"\bconfig: model='([^']*)', speculative_config=(SpeculativeConfig\([^)]*\)|None)")

_BATCH = re.compile(r"#running-req: (\d+)")
_LENGTH = re.compile(r"(?<!block )accept len: (\d+\.\d\d)(?=[,\s]|$)")
_RATE = re.compile(r"accept rate: (\d\.\d\d)(?=[,\s]|$)")
_SGLANG_SERVES = re.compile(
    r"\b(model_path|speculative_num_steps|speculative_eagle_topk|speculative_num_draft_tokens)=([^,\s)]+)"
)

_TABLE = re.compile(r"(?m)^Accept(?:ance)? length: +(\d+\.\d\d) *$")
_TABLE_DRAFTS = re.compile(r"(?m)^Drafts: +(\d+) *$")
_TABLE_DRAFTED = re.compile(r"(?m)^Draft tokens: +(\d+) *$")
_TABLE_RATES = re.compile(r"(?m)^  Position (\d+): +(\d+\.\d\d) *$")


def is_log(text: str) -> bool:
    """Whether a text is what either engine prints of acceptance."""
    return VLLM in text or SGLANG in text or _TABLE.search(text) is not None


def read_engine_log(text: str, positions: int | None, name: str) -> AcceptanceCurve:
    """Return the curve of a log or table of vLLM or SGLang; `positions`: tokens of a draft, where no line tells.

    Lines of several replicas count together; InputError where their models or draft lengths differ.
    """
    if VLLM in text and SGLANG in text:
        raise InputError("has lines of vLLM and of SGLang: keep those of one engine")
    if VLLM in text or SGLANG in text:
        return _vllm(text, positions, name) if VLLM in text else _sglang(text, positions, name)
    return _table(text, positions, name)


@dataclass(frozen=True)
class _Line:
    """One line of vLLM: tokens drafted and accepted since the one before it, and the share of drafts by position."""

    number: int
    drafted: int
    accepted: int
    rates: tuple[float, ...]


def _vllm(text: str, positions: int | None, name: str) -> AcceptanceCurve:
    """Drafts of a line are its drafted tokens over its positions; lines are added up."""
    _one("models", (found.groups() for found in _VLLM_SERVES.finditer(text)))
    lines = [_vllm_line(number, line) for number, line in enumerate(text.splitlines(), 1) if VLLM in line]
    lines = [line for line in lines if line.drafted]
    if not lines:
        raise InputError("no line counts a drafted token: take the log of a time when the engine speculates")
    by_length = {len(line.rates): line.number for line in lines}
    if len(by_length) > 1:
        places = ", ".join(f"{k or 'no'} in line {number}" for k, number in sorted(by_length.items()))
        raise InputError(f"lines differ in draft positions ({places}): keep those of one server and setting")
    drafted, accepted = sum(line.drafted for line in lines), sum(line.accepted for line in lines)
    (known,) = by_length
    if not known:  # vLLM before 0.9
        if positions is None:
            raise InputError(
                "lines without acceptance by position: say how many tokens were drafted with `draft_tokens`"
            )
        return from_lengths({positions: 1 + accepted / drafted * positions}, positions, name)
    weights = np.array([line.drafted / known for line in lines])
    return from_counters(float(weights.sum()), weights @ np.array([line.rates for line in lines]), name)


def _vllm_line(number: int, line: str) -> _Line:
    line = line[line.index(VLLM) :]
    rates = _RATES.search(line)
    mean, accepted, drafted = _MEAN.search(line), _ACCEPTED.search(line), _DRAFTED.search(line)
    if accepted is None or drafted is None or (rates is None and "Per-position" in line):
        raise InputError(f"line {number} is cut short ({line[-40:]!r}): remove it")
    shares = tuple(float(share) for share in rates[1].replace(",", " ").split()) if rates else ()
    found = _Line(number, int(drafted[1]), int(accepted[1]), shares)
    if rates is not None and mean is not None and found.drafted:
        told, rounding = float(mean[1]) - 1, 0.006 + 0.0005 * len(shares)
        if abs(told - sum(shares)) > rounding:
            raise InputError(
                f"line {number}: mean acceptance length {mean[1]} is not 1 and the sum of its rates by position, "
                f"{1 + sum(shares):.2f}: the line is cut short; remove it"
            )
        if told > rounding:
            try:
                check_even(found.drafted, found.accepted / (told + rounding), len(shares))
            except InputError as error:
                raise InputError(f"line {number}: {error}") from None
    return found


def _sglang(text: str, positions: int | None, name: str) -> AcceptanceCurve:
    """Mean acceptance length of decode batches, weighted by their requests: lines are as many decode steps apart."""
    served: dict[str, set[str]] = {}
    for key, value in _SGLANG_SERVES.findall(text):
        served.setdefault(key, set()).add(value.strip("'\""))
    for key, values in served.items():
        _one(f"values of {key}", ((value,) for value in values))
    weights, lengths, rates = [], [], []
    for number, line in enumerate(text.splitlines(), 1):
        if SGLANG not in line:
            continue
        length, rate, batch = _LENGTH.search(line), _RATE.search(line), _BATCH.search(line)
        if length is None or (rate is None and "accept rate" in line):
            raise InputError(f"line {number} is cut short ({line[-40:]!r}): remove it")
        weights.append(max(int(batch[1]), 1) if batch else 1)
        lengths.append(float(length[1]))
        rates.append(float(rate[1]) if rate else None)
    told = {key: next(iter(values)) for key, values in served.items()}
    drafted = drafted_by_settings(told)
    if drafted is None:
        pairs = [(length, rate) for length, rate in zip(lengths, rates, strict=True) if rate is not None]
        drafted = draft_length(pairs, positions, 0.0051)
    mean = float(np.average(lengths, weights=weights))
    return from_lengths({drafted: mean}, positions, name)


def _table(text: str, positions: int | None, name: str) -> AcceptanceCurve:
    """What `vllm bench serve` prints at its end, drafts in per cent by position, or the mean alone, as SGLang does."""
    lengths = _TABLE.findall(text)
    if len(lengths) > 1:
        raise InputError(f"has the tables of {len(lengths)} benchmarks: keep one")
    rates = [(int(position), float(rate) / 100) for position, rate in _TABLE_RATES.findall(text)]
    if not rates:
        if positions is None:
            raise InputError("a mean acceptance length alone: say how many tokens were drafted with `draft_tokens`")
        return from_lengths({positions: float(lengths[0])}, positions, name)
    shares = np.array([rate for _, rate in rates])
    drafts, drafted = _TABLE_DRAFTS.search(text), _TABLE_DRAFTED.search(text)
    if [position for position, _ in rates] != list(range(len(rates))) or abs(
        1 + shares.sum() - float(lengths[0])
    ) > 0.006 + (5e-5 * len(rates)):
        raise InputError(
            f"acceptance length {lengths[0]} is not 1 and the sum of its rates by position: copy the table whole"
        )
    if drafts and drafted:
        check_even(float(drafted[1]), float(drafts[1]), len(rates))
    return from_counters(1.0, shares, name)


def drafted_by_settings(told: Mapping[str, Any]) -> int | None:
    """Tokens of a draft as SGLang's arguments say; None where they do not. InputError where drafts are trees."""
    if (topk := str(told.get("speculative_eagle_topk"))) not in ("1", "None"):
        raise InputError(
            f"speculative_eagle_topk = {topk}: its drafts are trees, of which a mean length tells no acceptance by position: "
            "give `strategies` instead"
        )
    for key, less in (("speculative_num_draft_tokens", 1), ("speculative_num_steps", 0)):
        if (count := str(told.get(key))).isdecimal():
            return int(count) - less
    return None


def draft_length(pairs: Sequence[tuple[float, float]], positions: int | None, rounding: float) -> int:
    """Return how many tokens drafts had, from pairs of SGLang's accept length L and accept rate.

    The rate is (L - 1) / K of drafts of K tokens since 2026 and L / (K + 1) before; both are off by up to `rounding`.
    `positions`, if given, decides where several K fit. Raises InputError where none or several do.
    """
    if not pairs:
        if positions is None:
            raise InputError("no accept rate tells how many tokens were drafted: say it with `draft_tokens`")
        return positions

    def fits(k: int) -> bool:
        error = rounding
        new = all(abs(length - 1 - rate * k) <= error * (1 + k) for length, rate in pairs)
        old = all(abs(length - rate * (k + 1)) <= error * (2 + k) for length, rate in pairs)
        return new or old

    fitting = [k for k in range(1, LARGEST_BUDGET + 1) if fits(k)]
    if positions is not None and positions in fitting:
        return positions
    if not fitting:
        raise InputError(
            "accept lengths and rates fit no one draft length: drafts differ in length or are trees; keep lines of one "
            "server with drafts of one length"
        )
    if len(fitting) > 1:
        several = f"{fitting[0]} to {fitting[-1]}" if len(fitting) > 2 else f"{fitting[0]} or {fitting[1]}"
        raise InputError(f"drafts may have had {several} tokens, by accept length and rate: say it with `draft_tokens`")
    return fitting[0]


def _one(what: str, values: Iterable[tuple[str, ...]]) -> None:
    distinct = sorted({" ".join(value) for value in values})
    if len(distinct) > 1:
        raise InputError(f"is a log of {len(distinct)} {what} ({'; '.join(distinct)[:160]}): keep the lines of one")
