"""vLLM request logs: a folder of meta.json, requests.jsonl and, if kept, timeseries.csv, stamped by the engine itself.

Written by the benchmark runner of LLMServingSim (github.com/casys-kaist/LLMServingSim) around vLLM's AsyncLLM. Arrivals are
the client's wall clock, all other times the engine's monotonic one. meta.json has the arguments given, and in newer
versions also the KV cache as allocated and the configuration as resolved.
"""

from pathlib import Path
from typing import Any

import numpy as np

from calibration.runs.facts import NAMES, EngineFacts, checked
from calibration.runs.measured import MeasuredRun, Series, arranged, left_out
from calibration.runs.values import count, finite, json_object, text
from traces.errors import InputError
from traces.importers.lines import cell, csv_rows, json_objects

KIND = "vLLM request log"
STAMPS = {
    "queued_s": "queued_ts",
    "scheduled_s": "scheduled_ts",
    "first_token_s": "first_token_ts",
    "last_token_s": "last_token_ts",
}
SECTIONS = ("cache_config", "scheduler_config", "compilation_config", "parallel_config", "model_config")
NOT_SIMULATED = ("speculative_config", "lora_config", "enable_lora", "kv_transfer_config")
"""What changes the cost or the schedule of a step in ways that are not simulated."""


def read_vllm_log(folder: Path) -> MeasuredRun:
    """Read the log in a folder; requests that emitted nothing are left out, with a note.

    Raises InputError, with file, line and field, for whatever is missing, no number or out of order, and for an engine
    with speculation, adapters, KV transfer or pipeline stages, which are not simulated.
    """
    meta = json_object(folder / "meta.json")
    settings = settings_of(meta, f"{folder / 'meta.json'}")
    path = folder / "requests.jsonl"
    ids: list[str] = []
    rows: list[dict[str, float]] = []
    lines: dict[str, int] = {}
    failed = 0
    for line, row in json_objects(path):
        name = str(cell(row, "request_id", path, line))
        if name in lines:
            raise InputError(
                f"{path}: line {line}: request_id {name!r:.60} is on line {lines[name]} too: keep one of them"
            )
        lines[name] = line
        if (request := _request(row, path, line)) is None:
            failed += 1
        else:
            ids.append(name)
            rows.append(request)
    if not lines:
        raise InputError(f"{path}: holds no request: record a run that has served some")
    notes = list(left_out(failed, len(lines), path))
    expected = meta.get("num_requests")
    if expected not in (None, len(lines)):
        notes.append(
            f"meta.json tells of {expected} requests, requests.jsonl holds {len(lines)}: the log may be cut short"
        )
    requests = arranged(ids, _columns(rows, path), (("arrival_s",), tuple(STAMPS)))
    series = _series(folder / "timeseries.csv") if (folder / "timeseries.csv").exists() else None
    return MeasuredRun(folder, KIND, text(meta.get("model")), requests, settings, "queued", series, tuple(notes))


def _request(row: dict[str, Any], path: Path, line: int) -> dict[str, float] | None:
    """Columns of one line, or None where the request emitted nothing or broke off."""
    place = f"{path}: line {line}"
    tokens = count(cell(row, "output_toks", path, line), f"{place}, field 'output_toks'", 0)
    stamps = {field: cell(row, field, path, line) for field in ("first_token_ts", "last_token_ts")}
    if tokens == 0 or row.get("error") or any(stamp in (None, 0) for stamp in stamps.values()):
        return None
    request: dict[str, float] = {
        "prompt_tokens": count(cell(row, "input_toks", path, line), f"{place}, field 'input_toks'", 1),
        "output_tokens": tokens,
        "queued_s": finite(cell(row, "queued_ts", path, line), f"{place}, field 'queued_ts'"),
    }
    for column in ("scheduled_s", "first_token_s", "last_token_s"):
        value = row.get(STAMPS[column])
        known = column != "scheduled_s" or value is not None
        request[column] = finite(value, f"{place}, field '{STAMPS[column]}'") if known else float("nan")
    earlier = "queued_s"
    for column in ("scheduled_s", "first_token_s", "last_token_s"):
        if request[column] < request[earlier]:
            raise InputError(
                f"{place}, field '{STAMPS[column]}': {request[column]:.6f} is before {STAMPS[earlier]} "
                f"{request[earlier]:.6f}: correct the line, or leave it out"
            )
        if not np.isnan(request[column]):
            earlier = column
    if (arrival := row.get("arrival_time")) is not None:
        request["arrival_s"] = finite(arrival, f"{place}, field 'arrival_time'")
    return request


def _columns(rows: list[dict[str, float]], path: Path) -> dict[str, list[float]]:
    """Values by column; where no line has an arrival, requests arrive when they are queued."""
    arrivals = sum("arrival_s" in row for row in rows)
    if arrivals not in (0, len(rows)):
        raise InputError(
            f"{path}: {len(rows) - arrivals} of {len(rows)} lines lack 'arrival_time': give it on every line, or on none"
        )
    if not arrivals:
        rows = [row | {"arrival_s": row["queued_s"]} for row in rows]
    return {name: [row[name] for row in rows] for name in rows[0]}


def settings_of(meta: dict[str, Any], place: str) -> EngineFacts:
    """What meta.json says of the engine: as resolved, else as allocated, else as asked for."""
    given = _part(meta, "engine_kwargs", place)
    resolved = _part(meta, "resolved_config", place)
    sections = [(f"resolved_config.{name}", _part(resolved, name, f"{place}: resolved_config")) for name in SECTIONS]
    sources = [*sections, ("kv_cache", _part(meta, "kv_cache", place)), ("engine_kwargs", given)]
    for source, part in (("resolved_config", resolved), ("engine_kwargs", given)):
        for key in NOT_SIMULATED:
            if part.get(key) not in (None, False, {}):
                raise InputError(
                    f"{place}: {source}.{key}: {part[key]!r:.60} is not simulated: record a run without it"
                )
    found: dict[str, Any] = {"vllm_version": checked("vllm_version", meta.get("vllm_version"), place)}
    for source, part in sources:
        if (stages := part.get("pipeline_parallel_size", 1)) not in (None, 1):
            raise InputError(
                f"{place}: {source}.pipeline_parallel_size: {stages!r:.60} is not simulated: record a run with 1"
            )
        for name in NAMES:
            if found.get(name) is None and part.get(name) is not None:
                found[name] = checked(name, part[name], f"{place}: {source}")
        if part.get("enforce_eager") is True:
            found["cudagraph_capture_sizes"] = ()
    return EngineFacts(**found)


def _part(parent: dict[str, Any], key: str, place: str) -> dict[str, Any]:
    part = parent.get(key)
    if part is not None and not isinstance(part, dict):
        raise InputError(f"{place}: {key}: {part!r:.60} is not an object: write it as {{...}}, or leave it out")
    return part or {}


def _series(path: Path) -> Series:
    """The engine's own time series, a row for each tick."""
    columns = {
        "t_s": "t",
        "prompt_tokens_per_s": "prompt_throughput",
        "output_tokens_per_s": "gen_throughput",
        "running": "running",
        "waiting": "waiting",
        "kv_fraction": "kv_cache_pct",
    }
    rows = [
        [
            finite(cell(row, field, path, line), f"{path}: line {line}, column '{field}'", 0)
            for field in columns.values()
        ]
        for line, row in csv_rows(path)
    ]
    if not rows:
        raise InputError(f"{path}: holds no tick: remove the file if there is no time series")
    table = dict(zip(columns, np.array(rows).T, strict=True))
    if (backwards := np.flatnonzero(np.diff(table["t_s"], prepend=0.0) <= 0)).size:
        raise InputError(
            f"{path}: tick {backwards[0] + 1}, column 't': not later than the one before: correct the order"
        )
    table["kv_fraction"] /= 100.0
    return Series(**table)
