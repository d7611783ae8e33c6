"""Responses of OpenAI's interface: output of its batches (also of `vllm run-batch`), and responses written down as they came.

Of each line (or of its response.body) are read: choices with text, finish_reason and, from vLLM with `return_token_ids`, token
ids; usage; and vLLM's metrics.speculative_decoding (--per-request-spec-decode-metrics). Prompts are not in responses.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from traces.errors import InputError
from traces.importers.finish import finish_of
from traces.importers.format import Format, Options
from traces.importers.head import Head
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import in_chunks, json_objects
from traces.importers.messages import text_of
from traces.importers.parts import ids_at, object_at, objects_at, text_at
from traces.importers.source import Source
from traces.importers.speculation import columns_of_vllm, counts_column
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
            usage = object_at(body, "usage", place)
            choices = objects_at(body, "choices", place) or [{}]
            identity = row.get("custom_id") or body.get("id") or f"line-{line}"
            for index, choice in enumerate(choices):
                columns["prompt_id"].append(str(identity))
                columns["sample"].append(whole(choice.get("index", index), f"{place}, choice {index}: index", 0))
                _tokens(columns, body, choice, len(choices), place, options)
                columns["finish_reason"].append(finish_of(choice.get("finish_reason")))
                columns["policy"].append(text_at(body, "model", place))
                places.append(f"line {line}")
                cached.append((place, object_at(usage, "prompt_tokens_details", place).get("cached_tokens")))
                speculation.append((place, object_at(body, "metrics.speculative_decoding", place)))
        assumed = ["prompt_id is the request's id: responses do not hold prompts"]
        assumed += drop_partial(columns, "token_ids", "prompt_token_ids")
        if options.encoder is not None and "token_ids" in columns:
            assumed.append(ASSUMED)
        extras = columns_of_vllm(speculation)
        if any(count is not None for _, count in cached):
            extras["cached_tokens"] = counts_column(cached, "cached_tokens")
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


def _tokens(
    columns: dict[str, list[Any]],
    body: Mapping[str, Any],
    choice: Mapping[str, Any],
    choices: int,
    place: str,
    options: Options,
) -> None:
    """Token ids where they are recorded or encoded, else the counts of usage, which are those of all choices together."""
    if not choice:  # the request failed
        for name, nothing in (("prompt_tokens", 0), ("output_tokens", 0), ("prompt_token_ids", []), ("token_ids", [])):
            columns[name].append(nothing)
        return
    ids = ids_at(choice, "token_ids", place)
    if ids is None and options.encoder is not None:
        ids = options.encoder.encode([text_of(choice.get("message", choice))])[0].tolist()
    prompt_ids = ids_at(choice, "prompt_token_ids", place) or ids_at(body, "prompt_token_ids", place)
    if ids is None and choices > 1:
        raise InputError(
            f"{place}: {choices} choices share one count of tokens: give the model's tokenizer.json (--tokenizer), or ask for "
            "token ids (return_token_ids in vLLM)"
        )
    for name, key, own in (("output_tokens", "completion_tokens", ids), ("prompt_tokens", "prompt_tokens", prompt_ids)):
        told = value_at(body, f"usage.{key}") if own is None else len(own)
        columns[name].append(whole(told, f"{place}, usage.{key}", 0))
    columns["token_ids"].append(ids)
    columns["prompt_token_ids"].append(prompt_ids)


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
