"""Mooncake serving traces: arrivals, lengths and prefix block hashes, one JSON line for each request.

Keys timestamp (ms), input_length, output_length, hash_ids (github.com/kvcache-ai/Mooncake): equal hashes at the start
of two requests are a shared prefix, in blocks of 512 tokens. Each request becomes a prompt of its own in step 0.
"""

from pathlib import Path
from typing import Any

from traces.errors import InputError
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import cell, json_objects
from traces.importers.values import real, whole


def read_mooncake(path: Path) -> Imported:
    """The requests of a Mooncake file, in file order; a request of 0 output tokens keeps its 0."""
    times_ms, prompts, outputs, hashes, places = [], [], [], [], []
    for line, row in json_objects(path):
        place = f"{path}: line {line}"
        times_ms.append(real(cell(row, "timestamp", path, line), f"{place}, key 'timestamp'"))
        prompts.append(whole(cell(row, "input_length", path, line), f"{place}, key 'input_length'", 0))
        outputs.append(whole(cell(row, "output_length", path, line), f"{place}, key 'output_length'", 0))
        hashes.append(_hashes(cell(row, "hash_ids", path, line), place))
        places.append(f"line {line}")
    first_ms = min(times_ms, default=0.0)
    columns: dict[str, list[Any]] = {
        "step": [0] * len(places),
        "prompt_id": [f"request-{index}" for index in range(len(places))],
        "sample": [0] * len(places),
        "prompt_tokens": prompts,
        "output_tokens": outputs,
        "arrival_s": [(time_ms - first_ms) / 1000 for time_ms in times_ms],
        "block_hashes": hashes,
    }
    assumed = ("all requests are in step 0, each its own prompt",)
    return Imported(arrow_table(columns, places, str(path)), places, assumed, {"block_tokens": 512})


def _hashes(value: object, place: str) -> list[int]:
    if not isinstance(value, list):
        raise InputError(f"{place}, key 'hash_ids': {value!r:.60} is not a list: write it as [1, 2, 3]")
    return [whole(item, f"{place}, key 'hash_ids'") for item in value]
