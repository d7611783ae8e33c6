"""Acceptance as JSON of engines tells it: a benchmark's result, or what was counted for each request."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.drafting.curve import AcceptanceCurve
from simulator.drafting.curve_fits import check_even, from_counters, from_lengths, from_tried, number
from simulator.drafting.engine_logs import drafted_by_settings
from simulator.limits import LARGEST_BUDGET
from traces.errors import InputError
from traces.importers.speculation import ACCEPTED_PROPOSED, HISTOGRAMS, VERIFIED, accepted_of, first_of

Int64 = npt.NDArray[np.int64]


def read_json(text: str, positions: int | None, name: str) -> AcceptanceCurve:
    """Return the curve of one JSON object, or of a line of JSON for each request or benchmark.

    - `{"num_drafts": n, "accepted_per_pos": [...]}`
    - `vllm bench serve --save-result`, SGLang's `bench_serving`
    - responses of vLLM with `metrics.speculative_decoding`, of SGLang with `meta_info`, and SGLang's request metrics

    Requests add up. `positions` says how many tokens were drafted where nothing else does.
    """
    objects = _objects(text)
    first = objects[0][1]
    if "accepted_per_pos" in first or "num_drafts" in first:
        return from_counters(*_own(objects), name)
    if "spec_decode_num_drafts" in first or "accept_length" in first:
        return _of_benchmarks(objects, positions, name)
    if any("speculative_decoding" in _inner(one, "metrics") or "per_step_accepted" in one for _, one in objects):
        return _of_vllm_requests(objects, name)
    if any(VERIFIED in _inner(one, "meta_info") for _, one in objects):
        return _of_sglang_requests(objects, positions, name)
    if "input_lens" in first or "request_parameters" in first or "meta_info" in first:
        raise InputError("counts no drafts: record it again with speculation")
    raise InputError(
        'JSON without acceptance: give {"num_drafts": 1000, "accepted_per_pos": [800, 550, 370]}, the result of a benchmark, or '
        "requests with vLLM's or SGLang's counters of speculation"
    )


def _objects(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Objects of a JSON or JSON Lines text, each with where it was found."""
    try:
        found = [("", json.loads(text))]
    except (ValueError, RecursionError) as whole:
        found = []
        for line_number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                found.append((f"line {line_number}: ", json.loads(line)))
            except (ValueError, RecursionError) as error:
                reason = whole if len(found) == 0 else error
                raise InputError(f"line {line_number}: not JSON ({str(reason)[:80]}): correct the syntax") from None
    for where, one in found:
        if not isinstance(one, dict):
            raise InputError(f"{where}{str(one)[:40]} is no JSON object: give {{...}}")
    return found


def _own(objects: Sequence[tuple[str, dict[str, Any]]]) -> tuple[float, npt.NDArray[np.float64]]:
    document = objects[0][1]
    if len(objects) != 1 or set(document) != {"num_drafts", "accepted_per_pos"}:
        raise InputError('give {"num_drafts": 1000, "accepted_per_pos": [800, 550, 370]}, those two keys alone')
    counts = document["accepted_per_pos"]
    if not isinstance(counts, list):
        raise InputError(f"accepted_per_pos = {counts!r}: give a list of counts, one for each draft position")
    numbers = [number(count, f"accepted_per_pos[{j}]") for j, count in enumerate(counts)]
    return number(document["num_drafts"], "num_drafts"), np.array(numbers)


def _of_benchmarks(objects: Sequence[tuple[str, dict[str, Any]]], positions: int | None, name: str) -> AcceptanceCurve:
    """vLLM counts drafts and shares of them by position, SGLang the mean acceptance length since the server's start."""
    if len(objects) > 1:
        raise InputError(f"holds {len(objects)} benchmarks: keep the line of one")
    document = objects[0][1]
    if "spec_decode_num_drafts" in document:
        rates = document.get("spec_decode_per_position_acceptance_rates")
        if not isinstance(rates, list) or not rates:
            raise InputError(f"spec_decode_per_position_acceptance_rates = {rates!r}: nothing was drafted; speculate")
        shares = np.array([number(rate, f"per_position_acceptance_rates[{j}]") for j, rate in enumerate(rates)])
        drafts = number(document["spec_decode_num_drafts"], "spec_decode_num_drafts")
        check_even(number(document.get("spec_decode_draft_tokens"), "spec_decode_draft_tokens"), drafts, shares.size)
        return from_counters(drafts, drafts * shares, name)
    if document["accept_length"] is None:
        raise InputError("accept_length is null: the server did not speculate")
    length = number(document["accept_length"], "accept_length")
    drafted = drafted_by_settings(_inner(document, "server_info")) or positions
    if drafted is None:
        raise InputError("does not say how many tokens were drafted: say it with `draft_tokens`")
    return from_lengths({drafted: length}, positions, name)


def _of_vllm_requests(objects: Sequence[tuple[str, dict[str, Any]]], name: str) -> AcceptanceCurve:
    """Every verify step where they are recorded, else the histogram of accepted drafts."""
    tried, accepted = np.zeros(LARGEST_BUDGET), np.zeros(LARGEST_BUDGET)
    widest = 0
    for where, one in objects:
        found = _inner(one, "metrics").get("speculative_decoding", one if "per_step_accepted" in one else None)
        if found is None:
            continue  # a request of several sequences, for which vLLM counts nothing
        if (
            not isinstance(found, dict)
            or not isinstance(k := found.get("num_spec_tokens"), int)
            or not 1 <= k <= LARGEST_BUDGET
        ):
            raise InputError(
                f"{where}speculative_decoding has no num_spec_tokens from 1 to {LARGEST_BUDGET}: give it whole"
            )
        widest = max(widest, k)
        if found.get("per_step_accepted") is not None:
            steps = _counts(found, "per_step_accepted", where, k)
            drafted = _counts(found, "per_step_drafted", where, k)
            if steps.size != drafted.size or (steps > drafted).any():
                raise InputError(
                    f"{where}per_step_accepted is longer or larger than per_step_drafted: give both as recorded"
                )
            for j in range(k):
                tried[j] += np.count_nonzero((drafted > j) & (steps >= j))
                accepted[j] += np.count_nonzero(steps > j)
            continue
        histogram = _counts(found, "acceptance_histogram", where)
        if histogram.size != k + 1:
            raise InputError(
                f"{where}acceptance_histogram has {histogram.size} entries for {k} drafted tokens: give {k + 1}"
            )
        try:
            check_even(number(found.get("num_draft_tokens"), "num_draft_tokens"), float(histogram.sum()), k)
        except InputError as error:
            raise InputError(f"{where}{error}, or with --per-request-spec-decode-metrics detailed") from None
        at_least = histogram[::-1].cumsum()[::-1]
        tried[:k] += at_least[:-1]
        accepted[:k] += at_least[1:]
    return from_tried(tried[:widest], accepted[:widest], name)


def _of_sglang_requests(
    objects: Sequence[tuple[str, dict[str, Any]]], positions: int | None, name: str
) -> AcceptanceCurve:
    """By position where every request has a histogram, else from the mean."""
    requests = [(where, _inner(one, "meta_info")) for where, one in objects]
    requests = [(where, one) for where, one in requests if one.get(VERIFIED)]
    if not requests:
        raise InputError("no request was verified (spec_verify_ct is 0): record it again with speculation")
    verified = sum(number(one[VERIFIED], f"{where}{VERIFIED}") for where, one in requests)
    drafted = _draft_tokens(requests, positions)
    keys = [next((key for key in HISTOGRAMS if one.get(key)), None) for _, one in requests]
    if all(keys):
        histogram = np.zeros(drafted + 1)
        for (where, one), key in zip(requests, keys, strict=True):
            counts = _counts(one, str(key), where)
            if counts.size > drafted + 1:
                raise InputError(
                    f"{where}{key} has {counts.size} entries for {drafted} drafted tokens: one server's requests alone"
                )
            histogram[: counts.size] += counts
        return from_counters(float(histogram.sum()), histogram[::-1].cumsum()[::-1][1:], name)
    accepted = sum(_accepted(where, one) for where, one in requests)
    return from_lengths({drafted: 1 + accepted / verified}, positions, name)


def _draft_tokens(requests: Sequence[tuple[str, Mapping[str, Any]]], positions: int | None) -> int:
    """Tokens of a draft: proposed ones over verify steps, which SGLang sets so."""
    found = {}
    for where, one in requests:
        proposed = first_of(one, [proposed for _, proposed in ACCEPTED_PROPOSED])
        if proposed is not None:
            each = number(proposed, f"{where}proposed drafts") / number(one[VERIFIED], f"{where}{VERIFIED}")
            found[round(each, 6)] = where
    if len(found) > 1 or not all(each.is_integer() and 1 <= each <= LARGEST_BUDGET for each in found):
        places = ", ".join(f"{where}{each:g}" for each, where in sorted(found.items())[:2])
        raise InputError(
            f"requests drafted unlike numbers of tokens ({places}): keep those of one server with one draft length"
        )
    if found:
        return int(next(iter(found)))
    if positions is None:
        raise InputError("no request says how many tokens were proposed: say how many are drafted with `draft_tokens`")
    return positions


def _accepted(where: str, one: Mapping[str, Any]) -> float:
    """Accepted drafts of a request; where the count is missing, the tokens that neither the prefill nor a bonus gave."""
    told = accepted_of(one)
    if told is not None:
        return number(told, f"{where}accepted drafts")
    if one.get("completion_tokens") is None:
        raise InputError(f"{where}has neither accepted drafts nor completion_tokens: record it again, or leave it out")
    completed, steps = (number(one[name], f"{where}{name}") for name in ("completion_tokens", VERIFIED))
    return max(completed - 1 - steps, 0.0)


def _inner(one: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under a key, or the one itself where there is none: what was pasted may be the inner part alone."""
    inner = one.get(key, one)
    return inner if isinstance(inner, dict) else {}


def _counts(one: Mapping[str, Any], key: str, where: str, most: int | None = None) -> Int64:
    values = one.get(key)
    if not isinstance(values, list) or not all(
        type(value) is int and 0 <= value <= (most or 2**53) for value in values
    ):
        raise InputError(
            f"{where}{key} is not a list of counts{f' from 0 to {most}' if most else ''}: give it as recorded"
        )
    return np.array(values, np.int64)
