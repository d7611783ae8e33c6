"""verl rollout and validation dumps (`trainer.rollout_data_dir`): text, one JSON line for each rollout, one file for each step.

The dump holds decoded text without special tokens, so token ids come from encoding it again: close to what was sampled, not
certain to equal it, and without the end-of-text token. Written by RayPPOTrainer._write_generations (verl 0.9): input, output,
gts, score, step, and whatever the reward function returned besides.
"""

from collections.abc import Iterator
from typing import Any

from traces.importers.extras import numeric_extras
from traces.importers.files import number_in_name
from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import cell, in_chunks, json_objects
from traces.importers.source import Source
from traces.importers.text import is_text, prompt_id_of, token_columns
from traces.importers.values import real, whole

KNOWN = ("input", "output", "score", "step")


def read_verl(source: Source, options: Options) -> Iterator[Imported]:
    """The rollouts of one `{step}.jsonl`, in file order. Rows of a step with the same input are a group."""
    for rows in in_chunks(json_objects(source), source):
        columns: dict[str, list[Any]] = {name: [] for name in ("step", "prompt_id", "reward")}
        inputs, outputs = [], []
        for line, row in rows:
            place = f"{source}: line {line}"
            inputs.append(is_text(cell(row, "input", source, line), f"{place}, key 'input'"))
            outputs.append(is_text(cell(row, "output", source, line), f"{place}, key 'output'"))
            score = row.get("score")
            columns["step"].append(whole(row.get("step", number_in_name(source.path)), f"{place}, key 'step'", 0))
            columns["prompt_id"].append(prompt_id_of(inputs[-1]))
            columns["reward"].append(None if score is None else real(score, f"{place}, key 'score'"))
        tokens, assumed = token_columns(source, rows, inputs, outputs, options)
        places = [f"line {line}" for line, _ in rows]
        extras, ignored = numeric_extras([row for _, row in rows], KNOWN)
        table = arrow_table(columns | tokens, places, str(source), extras)
        yield Imported(
            table,
            places,
            ("rollouts of a step with the same prompt are a group", *assumed),
            {"ignored_columns": ignored},
        )


VERL = Format(
    "verl",
    "verl's rollout_data_dir or validation_data_dir: {step}.jsonl",
    read_verl,
    lambda head: head.kind == "json" and head.has("input", "output", "score", "step"),
    suffixes=(".jsonl",),
    takes_names=True,
    takes_tokenizer=True,
    step_in_name=True,
)
