"""Recognise a measured run by its content, and read it."""

import json
from pathlib import Path
from typing import Any

from calibration.runs.bench import kind_of, read_bench
from calibration.runs.measured import MeasuredRun
from calibration.runs.recorded import is_recording, read_recorded
from calibration.runs.vllm_log import read_vllm_log
from traces.errors import InputError
from traces.importers.lines import json_objects
from traces.io import read_bytes

EXPECTED = (
    "a folder with meta.json and requests.jsonl, a recording of `rolloutsim calibrate vllm`, or the file that `vllm bench serve "
    "--save-result --save-detailed` or SGLang's `bench_serving --output-details` wrote"
)


def read_run(path: Path) -> MeasuredRun:
    """Read the run in a folder or a file: a vLLM request log, a run that `calibrate vllm` recorded, or the details of
    `vllm bench serve` or SGLang's bench.

    Raises InputError for what is none of these, for a folder or file with several runs, and as the readers do.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder: give {EXPECTED}")
    if is_recording(path):
        return read_recorded(path)
    if path.is_dir():
        return read_vllm_log(path) if _is_log(path) else _only_bench_in(path)
    if path.name in ("meta.json", "requests.jsonl") and _is_log(path.parent):
        return read_vllm_log(path.parent)
    found = _benches(path)
    if not found:
        raise InputError(f"{path}: is no run that can be read: give {EXPECTED}")
    if len(found) > 1:
        raise InputError(f"{path}: holds {len(found)} runs, one a line: put the line of one run into a file of its own")
    return read_bench(found[0], path)


def _is_log(folder: Path) -> bool:
    if not (folder / "requests.jsonl").exists():
        return False
    if not (folder / "meta.json").exists():
        raise InputError(f"{folder}: has requests.jsonl but no meta.json, which tells the engine's settings: add it")
    return True


def _only_bench_in(folder: Path) -> MeasuredRun:
    files = sorted(file for file in folder.iterdir() if file.suffix in (".json", ".jsonl") and file.is_file())
    runs = [file for file in files if _benches(file)]
    if len(runs) != 1:
        found = f"{len(runs)} runs ({', '.join(file.name for file in runs)})" if runs else "no run"
        raise InputError(f"{folder}: holds {found}: give {EXPECTED}")
    return read_run(runs[0])


def _benches(file: Path) -> list[dict[str, Any]]:
    """The objects of a benchmark client in a file: the whole of it, or a line each."""
    try:
        objects = [json.loads(read_bytes(file))]
    except (ValueError, RecursionError):
        try:
            objects = [row for _, row in json_objects(file)]
        except InputError as error:
            raise InputError(f"{error}; expected {EXPECTED}") from None
    return [one for one in objects if isinstance(one, dict) and kind_of(one) is not None]
