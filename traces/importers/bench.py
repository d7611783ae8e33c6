"""Results of serving benchmarks: an object of lists, an entry for each request.

`vllm bench serve --save-result --save-detailed` (one object a file, or a line each with --append-result) and SGLang's
`bench_serving --output-details` (a line for each run). vLLM logs when requests were sent since 0.11. Prompts are not logged.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from traces.errors import InputError
from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import json_objects
from traces.importers.source import Source
from traces.importers.text import ASSUMED, is_text
from traces.importers.values import real, whole

NO_ARRIVAL = "all requests are there at once: the benchmark logged no start_times"


def read_bench(source: Source, options: Options) -> Iterator[Imported]:
    """The requests of each benchmark, in order; a failed one has 0 output tokens. Each benchmark is a step of its own."""
    for step, (place, result) in enumerate(_results(source)):
        yield _requests(f"{source}{place}", result, step, options)


def _results(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        whole_file = json.loads(source.content())
    except (ValueError, RecursionError):
        yield from ((f": line {line}", result) for line, result in json_objects(Source(source.path)))
        return
    if not isinstance(whole_file, dict):
        raise InputError(f"{source}: is {type(whole_file).__name__}, not the object of a benchmark: save it again")
    yield "", whole_file


def _requests(where: str, result: Mapping[str, Any], step: int, options: Options) -> Imported:
    inputs = _list(where, result, "input_lens")
    count = len(inputs)
    outputs = _list(where, result, "output_lens", count)
    places = [f"request {index}" for index in range(count)]
    columns: dict[str, Any] = {"step": np.full(count, step, np.int32)}
    for name, key, values in (("prompt_tokens", "input_lens", inputs), ("output_tokens", "output_lens", outputs)):
        columns[name] = [whole(value, f"{where}: {key}[{index}]", 0) for index, value in enumerate(values)]
    errors = _list(where, result, "errors", count) if result.get("errors") else [""] * count
    failed = zip(errors, columns["output_tokens"], strict=True)
    columns["output_tokens"] = [0 if error else tokens for error, tokens in failed]
    assumed = []
    if result.get("start_times"):
        times_s = _list(where, result, "start_times", count)
        columns["arrival_s"] = [real(value, f"{where}: start_times[{index}]") for index, value in enumerate(times_s)]
    else:
        assumed.append(NO_ARRIVAL)
    if options.encoder is not None:
        texts = _list(where, result, "generated_texts", count)
        texts = [is_text(text, f"{where}: generated_texts[{index}]") for index, text in enumerate(texts)]
        columns["token_ids"] = options.encoder.encode(texts)
        columns["output_tokens"] = [len(ids) for ids in columns["token_ids"]]
        assumed.append(ASSUMED)
    return Imported(arrow_table(columns, places, where), places, tuple(assumed))


def _list(where: str, result: Mapping[str, Any], key: str, count: int | None = None) -> list[Any]:
    values = result.get(key)
    if not isinstance(values, list):
        raise InputError(
            f"{where}: has no {key}: run vLLM's benchmark with --save-detailed, SGLang's with --output-details"
        )
    if count is not None and len(values) != count:
        raise InputError(f"{where}: {count} input_lens, but {len(values)} {key}: save the benchmark again")
    return values


BENCH = Format(
    "bench",
    "vllm bench serve --save-detailed, SGLang's bench_serving --output-details",
    read_bench,
    lambda head: head.kind == "json" and head.has("total_input_tokens", "duration", "completed"),
    suffixes=(".json", ".jsonl"),
    takes_tokenizer=True,
    own_clock=True,
)
