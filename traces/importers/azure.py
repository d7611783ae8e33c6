"""Azure LLM inference traces: arrivals and lengths of served requests, one CSV row each.

Columns TIMESTAMP, ContextTokens, GeneratedTokens (github.com/Azure/AzurePublicDataset, 2023 and 2024). Each request
becomes a prompt of its own in step 0; times count from the earliest request, to the microsecond.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from traces.errors import InputError
from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import cell, csv_rows, in_chunks
from traces.importers.source import Source
from traces.importers.values import whole


def read_azure(source: Source, options: Options) -> Iterator[Imported]:
    """The requests of an Azure CSV, in file order; a request of 0 generated tokens keeps its 0."""
    for rows in in_chunks(csv_rows(source), source):
        columns: dict[str, list[Any]] = {name: [] for name in ("arrival_s", "prompt_tokens", "output_tokens")}
        for line, row in rows:
            place = f"{source}: line {line}"
            columns["arrival_s"].append(_moment_s(cell(row, "TIMESTAMP", source, line), place))
            for name, found in (("prompt_tokens", "ContextTokens"), ("output_tokens", "GeneratedTokens")):
                columns[name].append(whole(cell(row, found, source, line), f"{place}, column '{found}'", 0))
        places = [f"line {line}" for line, _ in rows]
        yield Imported(arrow_table(columns | {"step": [0] * len(rows)}, places, str(source)), places)


def _moment_s(text: str, place: str) -> float:
    """Seconds since 1970; a time without a zone is taken as UTC."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise InputError(f"{place}, column 'TIMESTAMP': {text!r:.60} is not a time: write it as ISO 8601") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


AZURE = Format(
    "azure",
    "Azure LLM inference traces, 2023 and 2024 (CSV)",
    read_azure,
    lambda head: head.has("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    suffixes=(".csv",),
    own_clock=True,
)
