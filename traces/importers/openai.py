"""Responses of OpenAI's interface: output of its batches (also of `vllm run-batch`), and responses written down as they came.

Of each line (or of its response.body) are read: choices with text, finish_reason and, from vLLM with `return_token_ids`, token
ids; usage; and vLLM's metrics.speculative_decoding (--per-request-spec-decode-metrics). Prompts are not in responses.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from traces.errors import InputError
from traces.importers.finish import finish_of
from traces.importers.format import Format, Options
from traces.importers.head import Head
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import in_chunks, json_objects
from traces.importers.messages import text_of
from traces.importers.source import Source
from traces.importers.speculation import columns_of_vllm
from traces.importers.text import ASSUMED
from traces.importers.values import value_at, whole
from traces.importers.whole import drop_partial

NAMES = (
    "prompt_id", "sample", "prompt_tokens", "output_tokens", "finish_reason", "policy", "prompt_token_ids", "token_ids"
)  # fmt: skip


def read_openai(source: Source, options: Options) -> Iterator[Imported]:
    """A rollout for each choice, of 0 output tokens where the request failed; prompt_id is custom_id, else the response's id."""
    for rows in in_chunks(json_objects(source), source):
        columns: dict[str, list[Any]] = {name: [] for name in NAMES}
        places, cached, speculation = [], [], []
        for line, row in rows:
            place = f"{source}: line {line}"
            body = _body(row, place)
            choices = body.get("choices") or [{}]
            for index, choice in enumerate(choices):
                columns["prompt_id"].append(str(row.get("custom_id") or body.get("id") or f"line-{line}"))
                columns["sample"].append(whole(choice.get("index", index), f"{place}, choice {index}: index", 0))
                _lengths(columns, body, choice, len(choices), place, options)
                columns["finish_reason"].append(finish_of(choice.get("finish_reason")))
                columns["policy"].append(body.get("model"))
                places.append(f"line {line}")
                cached.append(value_at(body, "usage.prompt_tokens_details.cached_tokens"))
                speculation.append(value_at(body, "metrics.speculative_decoding") or {})
        assumed = [
            "prompt_id is the request's id: responses do not hold prompts",
            *drop_partial(columns, "token_ids", "prompt_token_ids"),
        ]
        if options.encoder is not None and "token_ids" in columns:
            assumed.append(ASSUMED)
        extras = columns_of_vllm(speculation)
        if any(type(count) is int for count in cached):
            extras["cached_tokens"] = pa.array([count if type(count) is int else None for count in cached], pa.int64())
        yield Imported(arrow_table(columns, places, str(source), extras), places, tuple(assumed))


def _body(row: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """The response of a line; an empty one where the request failed."""
    if "response" not in row:
        return row
    response = row["response"]
    if row.get("error") or not isinstance(response, dict) or response.get("status_code", 200) != 200:
        return {}
    body = response.get("body")
    if not isinstance(body, dict):
        raise InputError(f"{place}: response.body is {type(body).__name__}, not an object: use the batch's output file")
    return body


def _lengths(
    columns: dict[str, list[Any]],
    body: Mapping[str, Any],
    choice: Mapping[str, Any],
    choices: int,
    place: str,
    options: Options,
) -> None:
    """Token ids where they are recorded or encoded, else the counts of usage, which are those of all choices together."""
    ids = choice.get("token_ids")
    if ids is None and options.encoder is not None and choice:
        (ids,) = options.encoder.encode([text_of(choice.get("message", choice))])
    prompt_ids = choice.get("prompt_token_ids", body.get("prompt_token_ids"))
    usage = body.get("usage") or {}
    if not choice:
        tokens = 0
    elif ids is not None:
        tokens = len(ids)
    elif choices > 1:
        raise InputError(
            f"{place}: {choices} choices share one count of tokens: give the model's tokenizer.json (--tokenizer), or ask for "
            "token ids (return_token_ids in vLLM)"
        )
    else:
        tokens = whole(usage.get("completion_tokens"), f"{place}, usage.completion_tokens", 0)
    columns["output_tokens"].append(tokens)
    columns["token_ids"].append(ids if choice else [])
    prompt = 0 if not choice else len(prompt_ids) if prompt_ids else usage.get("prompt_tokens")
    columns["prompt_tokens"].append(whole(prompt, f"{place}, usage.prompt_tokens", 0))
    columns["prompt_token_ids"].append(prompt_ids if choice else [])


def _recognises(head: Head) -> bool:
    response = head.first.get("response")
    batch = head.has("custom_id", "response") and (response is None or isinstance(response, dict))
    return head.kind == "json" and (batch or (head.has("choices", "usage") and isinstance(head.first["choices"], list)))


OPENAI = Format(
    "openai",
    "output of OpenAI's batches (vllm run-batch), or its responses a line each",
    read_openai,
    _recognises,
    suffixes=(".jsonl", ".json"),
    takes_tokenizer=True,
)
