"""Azure LLM inference traces: arrivals and lengths of served requests, one CSV row each.

Columns TIMESTAMP, ContextTokens, GeneratedTokens (github.com/Azure/AzurePublicDataset, 2023 and 2024). Each request
becomes a prompt of its own in step 0; times count from the earliest request, to the microsecond.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from traces.errors import InputError
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import cell, csv_rows
from traces.importers.values import whole


def read_azure(path: Path) -> Imported:
    """The requests of an Azure CSV, in file order; a request of 0 generated tokens keeps its 0."""
    times, prompts, outputs, places = [], [], [], []
    for line, row in csv_rows(path):
        place = f"{path}: line {line}"
        times.append(_moment(cell(row, "TIMESTAMP", path, line), place))
        prompts.append(whole(cell(row, "ContextTokens", path, line), f"{place}, column 'ContextTokens'", 0))
        outputs.append(whole(cell(row, "GeneratedTokens", path, line), f"{place}, column 'GeneratedTokens'", 0))
        places.append(f"line {line}")
    first = min(times, default=None)
    columns: dict[str, list[Any]] = {
        "step": [0] * len(times),
        "prompt_id": [f"request-{index}" for index in range(len(times))],
        "sample": [0] * len(times),
        "prompt_tokens": prompts,
        "output_tokens": outputs,
        "arrival_s": [(time - first).total_seconds() for time in times if first],
    }
    assumed = ("all requests are in step 0, each its own prompt",)
    return Imported(arrow_table(columns, places, str(path)), places, assumed)


def _moment(text: str, place: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise InputError(f"{place}, column 'TIMESTAMP': {text!r:.60} is not a time: write it as ISO 8601") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
