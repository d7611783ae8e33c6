"""SGLang's requests: `--export-metrics-to-file` (sglang-request-metrics-*.log), or answers of /generate a line each.

Of each line's meta_info (its top level in the exported files) are read: lengths, finish_reason, when the request was received,
cached tokens, counters of speculation and, where they were asked for, log-probabilities; of request_parameters, a JSON text,
the prompt. Response ids are in answers, and with return_logprob.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from traces.errors import InputError
from traces.importers.finish import finish_of
from traces.importers.format import Format, Options
from traces.importers.head import Head
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import in_chunks, json_objects
from traces.importers.source import Source
from traces.importers.speculation import Placed, columns_of, counts_column
from traces.importers.text import prompt_id_of
from traces.importers.values import real, whole
from traces.importers.whole import drop_partial

NAMES = (
    "prompt_id", "prompt_tokens", "output_tokens", "finish_reason", "arrival_s", "prompt_token_ids", "token_ids", "logprobs"
)  # fmt: skip


def read_sglang(source: Source, options: Options) -> Iterator[Imported]:
    """The requests in file order; requests with the same prompt are a group, where prompts are there."""
    for rows in in_chunks(json_objects(source), source):
        columns: dict[str, list[Any]] = {name: [] for name in NAMES}
        requests: list[tuple[str, Mapping[str, Any]]] = []
        places = []
        for line, row in rows:
            place = f"{source}: line {line}"
            found = row.get("meta_info", row)
            if not isinstance(found, dict) or "completion_tokens" not in found:
                raise InputError(
                    f"{place}: has no completion_tokens: give requests that generated tokens, in SGLang's own words"
                )
            asked = _asked(row, place)
            prompt, ids = asked.get("text"), asked.get("input_ids")
            requests.append((place, found))
            places.append(f"line {line}")
            columns["prompt_id"].append(
                prompt_id_of(prompt if isinstance(prompt, str) else json.dumps(ids)) if prompt or ids else None
            )
            columns["prompt_tokens"].append(whole(found.get("prompt_tokens"), f"{place}, prompt_tokens", 0))
            columns["output_tokens"].append(whole(found["completion_tokens"], f"{place}, completion_tokens", 0))
            columns["finish_reason"].append(finish_of(found.get("finish_reason")))
            received = found.get("request_received_ts")
            columns["arrival_s"].append(None if received is None else real(received, f"{place}, request_received_ts"))
            columns["prompt_token_ids"].append(ids if _whole_ids(ids, columns["prompt_tokens"][-1]) else None)
            sampled, log_probs = _sampled(row, found, columns["output_tokens"][-1])
            columns["token_ids"].append(sampled)
            columns["logprobs"].append(log_probs)
        lost = drop_partial(columns, "prompt_id", "arrival_s", "prompt_token_ids", "token_ids", "logprobs")
        columns["step"] = [0] * len(rows)
        table = arrow_table(columns, places, str(source), _extras(requests))
        yield Imported(table, places, ("all requests are in step 0", *lost))


def _asked(row: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """What was asked for, which is exported as JSON in a text."""
    asked = row.get("request_parameters", {})
    if isinstance(asked, str):
        try:
            asked = json.loads(asked)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}, request_parameters: is not JSON ({error}): export it again") from error
    return asked if isinstance(asked, dict) else {}


def _sampled(
    row: Mapping[str, Any], found: Mapping[str, Any], tokens: int
) -> tuple[list[int] | None, list[float] | None]:
    """Ids and log-probabilities of the response, where they are whole."""
    triples = found.get("output_token_logprobs")
    if (
        isinstance(triples, list)
        and len(triples) == tokens
        and all(isinstance(one, list) and len(one) > 1 for one in triples)
    ):
        return [one[1] for one in triples], [one[0] for one in triples]
    ids = row.get("output_ids")
    return (ids if _whole_ids(ids, tokens) else None), None


def _whole_ids(ids: object, tokens: int) -> bool:
    return isinstance(ids, list) and len(ids) == tokens and all(type(one) is int for one in ids)


def _extras(requests: Placed) -> dict[str, Any]:
    extras = columns_of(requests)
    cached = [(place, one.get("cached_tokens")) for place, one in requests]
    if any(count is not None for _, count in cached):
        extras["cached_tokens"] = counts_column(cached, "cached_tokens")
    latencies_s = [(place, one.get("e2e_latency")) for place, one in requests]
    if any(latency_s is not None for _, latency_s in latencies_s):
        told = [None if value is None else real(value, f"{place}, e2e_latency") for place, value in latencies_s]
        extras["latency_s"] = pa.array(told, pa.float64())
    return extras


def _recognises(head: Head) -> bool:
    meta = head.first.get("meta_info")
    exported = head.has("request_parameters", "prompt_tokens", "completion_tokens")
    return head.kind == "json" and (exported or (isinstance(meta, dict) and "completion_tokens" in meta))


SGLANG = Format(
    "sglang",
    "SGLang's --export-metrics-to-file, or answers of its /generate a line each",
    read_sglang,
    _recognises,
    suffixes=(".log", ".jsonl", ".json"),
    own_clock=True,
)
