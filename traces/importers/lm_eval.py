"""Samples of lm-evaluation-harness (`--log_samples`, samples_TASK_TIME.jsonl): text, a line for each document and filter.

Of each line, arguments (the prompt), resps (what was generated), filter and the task's metrics are read. Tasks that only
compare log-likelihoods generate nothing, and are refused.
"""

from collections.abc import Iterator
from typing import Any

from traces.errors import InputError
from traces.importers.extras import numeric_extras
from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import cell, in_chunks, json_objects
from traces.importers.messages import text_of
from traces.importers.source import Source
from traces.importers.text import is_text, prompt_id_of, token_columns
from traces.importers.values import value_at

KNOWN = (
    "doc_id",
    "doc",
    "target",
    "arguments",
    "resps",
    "filtered_resps",
    "filter",
    "doc_hash",
    "prompt_hash",
    "target_hash",
)


def read_lm_eval(source: Source, options: Options) -> Iterator[Imported]:
    """The responses of one task; of several filters, whose lines repeat the responses, the first is taken."""
    first_filter = None
    for rows in in_chunks(json_objects(source), source):
        prompts, outputs, taken, places = [], [], [], []
        for line, row in rows:
            place = f"{source}: line {line}"
            first_filter = first_filter or row.get("filter")
            if row.get("filter") != first_filter:
                continue
            prompt = value_at(row, "arguments.gen_args_0.arg_0")
            prompt = value_at(row, "arguments.0.0") if prompt is None else prompt
            responses = value_at({"resps": cell(row, "resps", source, line)}, "resps.0")
            if not isinstance(responses, list) or not all(isinstance(one, str) for one in responses):
                raise InputError(
                    f"{place}: resps hold no text: only tasks that generate (generate_until) can be imported"
                )
            for response in responses:
                prompts.append(is_text(text_of(prompt) if prompt is not None else None, f"{place}, key 'arguments'"))
                outputs.append(response)
                taken.append((line, row))
                places.append(f"line {line}")
        tokens, assumed = token_columns(source, taken, prompts, outputs, options)
        extras, ignored = numeric_extras([row for _, row in taken], KNOWN)
        columns: dict[str, Any] = {"step": [0] * len(taken), "prompt_id": [prompt_id_of(prompt) for prompt in prompts]}
        yield Imported(
            arrow_table(columns | tokens, places, str(source), extras), places, assumed, {"ignored_columns": ignored}
        )


LM_EVAL = Format(
    "lm-eval",
    "lm-evaluation-harness' --log_samples",
    read_lm_eval,
    lambda head: head.kind == "json" and head.has("doc_id", "arguments", "resps"),
    suffixes=(".jsonl",),
    takes_names=True,
    takes_tokenizer=True,
)
