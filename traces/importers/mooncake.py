"""Mooncake serving traces: arrivals, lengths and prefix block hashes, one JSON line for each request.

Keys timestamp (ms), input_length, output_length, hash_ids (github.com/kvcache-ai/Mooncake): equal hashes at the start
of two requests are a shared prefix, in blocks of 512 tokens. Each request becomes a prompt of its own in step 0.
"""

from collections.abc import Iterator
from typing import Any

from traces.errors import InputError
from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import cell, in_chunks, json_objects
from traces.importers.source import Source
from traces.importers.values import real, whole


def read_mooncake(source: Source, options: Options) -> Iterator[Imported]:
    """The requests of a Mooncake file, in file order; a request of 0 output tokens keeps its 0."""
    for rows in in_chunks(json_objects(source), source):
        columns: dict[str, list[Any]] = {"step": [0] * len(rows)}
        columns |= {name: [] for name in ("arrival_s", "prompt_tokens", "output_tokens", "block_hashes")}
        for line, row in rows:
            place = f"{source}: line {line}"
            time_ms = real(cell(row, "timestamp", source, line), f"{place}, key 'timestamp'")
            columns["arrival_s"].append(time_ms / 1000)
            for name, found in (("prompt_tokens", "input_length"), ("output_tokens", "output_length")):
                columns[name].append(whole(cell(row, found, source, line), f"{place}, key '{found}'", 0))
            columns["block_hashes"].append(_hashes(cell(row, "hash_ids", source, line), place))
        places = [f"line {line}" for line, _ in rows]
        yield Imported(arrow_table(columns, places, str(source)), places, notes={"block_tokens": 512})


def _hashes(value: object, place: str) -> list[int]:
    if not isinstance(value, list):
        raise InputError(f"{place}, key 'hash_ids': {value!r:.60} is not a list: write it as [1, 2, 3]")
    return [whole(item, f"{place}, key 'hash_ids'") for item in value]


MOONCAKE = Format(
    "mooncake",
    "Mooncake traces: conversation, tool and agent, synthetic (JSON lines)",
    read_mooncake,
    lambda head: head.has("timestamp", "input_length", "output_length", "hash_ids"),
    suffixes=(".jsonl", ".json"),
    own_clock=True,
)
