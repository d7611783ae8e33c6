"""What a benchmark client measured: `vllm bench serve --save-detailed`, and SGLang's `bench_serving --output-details`.

Both write one JSON object for a run, with a list entry for each request: input_lens, output_lens, ttfts (s since it was
sent), itls (s between the chunks that followed), errors ("" if none), and in vLLM since 2025 start_times (s, client's
clock). Sources: vllm/benchmarks/serve.py; sglang/bench_serving.py. Times are the client's: HTTP and detokenising included.
"""

import math
from pathlib import Path
from typing import Any

from calibration.runs.facts import NAMES, EngineFacts, checked
from calibration.runs.measured import MeasuredRun, arranged, left_out
from calibration.runs.values import count, finite, text
from simulator.strict_yaml import load_value
from traces.errors import InputError

VLLM, SGLANG = "vllm bench serve", "SGLang bench_serving"
DETAILS = ("input_lens", "output_lens", "ttfts", "itls", "errors")
FLAGS = {VLLM: "--save-detailed", SGLANG: "--output-details"}
SGLANG_NAMES = {
    "max_num_seqs": "max_running_requests",
    "max_num_batched_tokens": "chunked_prefill_size",
    "block_size": "page_size",
    "tensor_parallel_size": "tp_size",
    "data_parallel_size": "dp_size",
    "max_model_len": "context_length",
}
NOT_SIMULATED = {
    VLLM: ("spec_decode_acceptance_length", "spec_decode_acceptance_rate", "spec_decode_num_drafts", "lora_modules"),
    SGLANG: ("accept_length", "lora_name"),
}
"""What the client writes of a server that speculated or served adapters; nothing, None or 0 otherwise."""
SERVER_NOT_SIMULATED = {
    "speculative_algorithm": (None, ""),
    "enable_lora": (None, False),
    "lora_paths": (None, [], {}),
    "pp_size": (None, 1),
    "disaggregation_mode": (None, "null"),
}
"""SGLang's settings that change the cost or the schedule of a step in ways that are not simulated, and what is harmless."""
OVERHEAD = "times are the client's: HTTP and detokenising are in what was measured, not in what is simulated"
SCHEDULER = (
    "the run is of SGLang; what is simulated is vLLM's scheduler, with SGLang's settings where they mean the same"
)


def kind_of(document: dict[str, Any]) -> str | None:
    """Which client wrote the document, or None if neither did; SGLang says nothing of the model by `model_id`."""
    if "request_throughput" not in document and "ttfts" not in document:
        return None
    return VLLM if "model_id" in document or "endpoint_type" in document else SGLANG


def read_bench(document: dict[str, Any], path: Path) -> MeasuredRun:
    """Read one run of either client; failed requests are left out, with a note.

    Raises InputError, with file, field and entry, for missing details, for lists of unequal length, for values out of range,
    where nothing says when requests were sent, and for speculation, adapters and other things that are not simulated.
    """
    kind = kind_of(document)
    assert kind is not None
    _refuse_what_is_not_simulated(document, kind, path)
    details = _details(document, kind, path)
    kept = [row for row, tokens in enumerate(details["output_lens"]) if tokens != 0 and not details["errors"][row]]
    notes = left_out(len(details["errors"]) - len(kept), len(details["errors"]), path)
    starts_s, held = _starts_s(document, len(details["errors"]), path)
    columns: dict[str, list[float]] = {
        "arrival_s": [starts_s[row] for row in kept],
        "prompt_tokens": [count(details["input_lens"][row], f"{path}: input_lens[{row}]", 1) for row in kept],
        "output_tokens": [count(details["output_lens"][row], f"{path}: output_lens[{row}]", 1) for row in kept],
    }
    ttfts_s = [finite(details["ttfts"][row], f"{path}: ttfts[{row}]", 0) for row in kept]
    chunks_s = [_chunks_s(details["itls"][row], f"{path}: itls[{row}]") for row in kept]
    if not any(chunks_s) and max(columns["output_tokens"]) > 1:
        raise InputError(f"{path}: itls: all empty, so first tokens were not timed: record with streaming on")
    columns["first_token_s"] = [start + ttft for start, ttft in zip(columns["arrival_s"], ttfts_s, strict=True)]
    columns["last_token_s"] = [
        first + math.fsum(chunks) for first, chunks in zip(columns["first_token_s"], chunks_s, strict=True)
    ]
    model, settings = _server(document, kind, path)
    requests = arranged([str(row) for row in kept], columns, (("arrival_s", "first_token_s", "last_token_s"),))
    notes = (*notes, *held, OVERHEAD, *((SCHEDULER,) if kind == SGLANG else ()))
    return MeasuredRun(path, kind, model, requests, settings, "arrival", notes=notes)


def _refuse_what_is_not_simulated(document: dict[str, Any], kind: str, path: Path) -> None:
    """InputError where the run speculated, served adapters, or was spread in a way that plain decoding is not."""
    info = document.get("server_info")
    server = info if kind == SGLANG and isinstance(info, dict) else {}
    found = [
        (f"server_info.{key}", server[key])
        for key, harmless in SERVER_NOT_SIMULATED.items()
        if server.get(key) not in harmless
    ]
    found += [(key, document[key]) for key in NOT_SIMULATED[kind] if document.get(key)]
    if found:
        key, value = found[0]
        raise InputError(f"{path}: {key}: {value!r:.60} is not simulated: record a run without it")


def _details(document: dict[str, Any], kind: str, path: Path) -> dict[str, list[Any]]:
    """The lists by request, all of one length."""
    for name in DETAILS:
        if name not in document:
            raise InputError(f"{path}: no '{name}': run {kind} with {FLAGS[kind]}, which keeps every request")
        if not isinstance(document[name], list):
            raise InputError(f"{path}: {name}: {document[name]!r:.60} is not a list: it has an entry for each request")
    details: dict[str, list[Any]] = {name: document[name] for name in DETAILS}
    requests = len(details["input_lens"])
    if not requests:
        raise InputError(f"{path}: input_lens: is empty: record a run that has served requests")
    for name, values in details.items():
        if len(values) != requests:
            raise InputError(
                f"{path}: {name}: {len(values)} entries, but input_lens has {requests}: save the run again"
            )
    return details


def _starts_s(document: dict[str, Any], requests: int, path: Path) -> tuple[list[float], tuple[str, ...]]:
    """When each request was sent, and a note if the client held requests back; InputError where it cannot be known."""
    limit = document.get("max_concurrency")
    limit = None if limit is None else count(limit, f"{path}: max_concurrency", 1)
    held_back = limit is not None and limit < requests
    if "start_times" in document:
        starts = document["start_times"]
        if not isinstance(starts, list) or len(starts) != requests:
            raise InputError(
                f"{path}: start_times: need a list of {requests} times, one for each request: save the run again"
            )
        note = f"the client kept at most {limit} requests in flight: they arrive as recorded, however fast the simulation is"
        starts_s = [finite(start, f"{path}: start_times[{row}]") for row, start in enumerate(starts)]
        return starts_s, (note,) if held_back else ()
    rate = document.get("request_rate")
    at_once = rate in ("inf", math.inf) and document.get("ramp_up_strategy") is None
    if at_once and not held_back:
        return [0.0] * requests, ()
    ramp = ", a ramp-up" if document.get("ramp_up_strategy") else ""
    raise InputError(
        f"{path}: no 'start_times', and at request_rate {rate!r:.20}, max_concurrency {limit}{ramp} requests were not all "
        "sent at once, so their arrivals are unknown: record with a `vllm bench serve` that saves start_times, or at "
        "infinite rate without a limit"
    )


def _chunks_s(value: Any, place: str) -> list[float]:
    if not isinstance(value, list):
        raise InputError(f"{place}: {value!r:.60} is not a list: give the seconds between chunks")
    return [finite(one, f"{place}[{index}]", 0) for index, one in enumerate(value)]


def _server(document: dict[str, Any], kind: str, path: Path) -> tuple[str | None, EngineFacts]:
    """The model and what the file says of the engine: for vLLM what `--metadata` was given, for SGLang its server_info."""
    if kind == VLLM:
        found = {}
        for name in NAMES:
            value = document.get(name)
            found[name] = checked(name, load_value(value) if isinstance(value, str) else value, str(path))
        return text(document.get("model_id")), EngineFacts(**found)
    info = document.get("server_info")
    if not isinstance(info, dict):
        return None, EngineFacts()
    return text(info.get("served_model_name") or info.get("model_path")), _from_sglang(info, f"{path}: server_info")


def _from_sglang(info: dict[str, Any], place: str) -> EngineFacts:
    """SGLang's settings under vLLM's names, for those that mean the same; its page of tokens is vLLM's block."""
    found = {
        name: checked(name, info.get(key), f"{place}.{key}")
        for name, key in SGLANG_NAMES.items()
        if info.get(key) not in (None, -1)  # -1: prompts are not cut into chunks
    }
    if isinstance(off := info.get("disable_radix_cache"), bool):
        found["enable_prefix_caching"] = not off
    if info.get("chunked_prefill_size") == -1:
        found["enable_chunked_prefill"] = False
    if (tokens := info.get("max_total_num_tokens")) is not None and (block := found.get("block_size")):
        blocks = count(tokens, f"{place}.max_total_num_tokens", block) // block
        found["num_gpu_blocks"] = blocks + 1  # vLLM counts its null block
    return EngineFacts(**found)
