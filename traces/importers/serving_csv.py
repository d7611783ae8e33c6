"""Serving traces that are a CSV of arrivals and lengths: BurstGPT, Vidur, Splitwise. Each request is its own prompt in step 0.

BurstGPT (github.com/HPMLL/BurstGPT): Timestamp (s), Request tokens, Response tokens, Model; 0 response tokens are failed
requests. Vidur (github.com/microsoft/vidur): arrived_at (s) where it was recorded, num_prefill_tokens, num_decode_tokens.
splitwise-sim (github.com/mutinifni/splitwise-sim): arrival_timestamp (s), prompt_size, token_size.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import cell, csv_rows, in_chunks
from traces.importers.source import Source
from traces.importers.values import real, whole

Reader = Callable[[Source, Options], Iterator[Imported]]


def _reader(prompt: str, output: str, arrival: str, policy: str | None = None) -> Reader:
    """The reader of a CSV in which these columns are prompt and output tokens, seconds, and the model."""

    def read(source: Source, options: Options) -> Iterator[Imported]:
        for rows in in_chunks(csv_rows(source), source):
            columns: dict[str, Any] = {"step": np.zeros(len(rows), np.int32), "prompt_tokens": [], "output_tokens": []}
            timed = arrival in rows[0][1]
            if timed:
                columns["arrival_s"] = [
                    real(row[arrival], f"{source}: line {line}, column '{arrival}'") for line, row in rows
                ]
            if policy is not None and policy in rows[0][1]:
                columns["policy"] = [row[policy] for _, row in rows]
            for name, found in (("prompt_tokens", prompt), ("output_tokens", output)):
                for line, row in rows:
                    place = f"{source}: line {line}, column '{found}'"
                    columns[name].append(whole(cell(row, found, source, line), place, 0))
            used = {prompt, output, arrival, policy}
            places = [f"line {line}" for line, _ in rows]
            yield Imported(
                arrow_table(columns, places, str(source)),
                places,
                () if timed else (f"all requests are there at once (no {arrival})",),
                {"ignored_columns": [name for name in rows[0][1] if name not in used]},
            )

    return read


def _format(name: str, about: str, prompt: str, output: str, arrival: str, policy: str | None = None) -> Format:
    return Format(
        name,
        about,
        _reader(prompt, output, arrival, policy),
        lambda head: head.kind == "csv" and head.has(prompt, output),
        suffixes=(".csv",),
        own_clock=True,
    )


BURSTGPT = _format(
    "burstgpt", "BurstGPT's served requests (CSV)", "Request tokens", "Response tokens", "Timestamp", "Model"
)
VIDUR = _format(
    "vidur",
    "Vidur's traces, and Splitwise's as it converts them (CSV)",
    "num_prefill_tokens",
    "num_decode_tokens",
    "arrived_at",
)
SPLITWISE = _format("splitwise", "splitwise-sim's traces (CSV)", "prompt_size", "token_size", "arrival_timestamp")
