"""SkyRL's dumps of evaluation (`dumped_evals/global_step_N_evals/SOURCE.jsonl`) and of rollouts in the same layout.

Written by dump_per_dataset_eval_results (skyrl-train 0.3): text of prompt and response, with special tokens; score, one number
or one for each token; stop_reason. The number in the folder's name is the RL step.
"""

from collections.abc import Iterator
from typing import Any

from traces.importers.files import step_in_path
from traces.importers.finish import finish_of
from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import cell, in_chunks, json_objects
from traces.importers.source import Source
from traces.importers.text import is_text, prompt_id_of, token_columns
from traces.importers.values import real


def read_skyrl(source: Source, options: Options) -> Iterator[Imported]:
    """The rollouts of one data source, in file order; those with the same prompt are a group."""
    step = step_in_path(source.path)
    for rows in in_chunks(json_objects(source), source):
        columns: dict[str, list[Any]] = {name: [] for name in ("step", "prompt_id", "reward", "finish_reason")}
        prompts, outputs = [], []
        for line, row in rows:
            place = f"{source}: line {line}"
            prompts.append(is_text(cell(row, "input_prompt", source, line), f"{place}, key 'input_prompt'"))
            outputs.append(is_text(cell(row, "output_response", source, line), f"{place}, key 'output_response'"))
            score = row.get("score")
            scores = score if isinstance(score, list) else [] if score is None else [score]
            columns["step"].append(step)
            columns["prompt_id"].append(prompt_id_of(prompts[-1]))
            columns["reward"].append(sum(real(one, f"{place}, key 'score'") for one in scores) if scores else None)
            columns["finish_reason"].append(finish_of(row.get("stop_reason")))
        tokens, assumed = token_columns(source, rows, prompts, outputs, options)
        places = [f"line {line}" for line, _ in rows]
        sentences = (
            "rollouts of a step with the same prompt are a group",
            "reward is the sum of a response's scores",
            *assumed,
        )
        yield Imported(arrow_table(columns | tokens, places, str(source)), places, sentences)


SKYRL = Format(
    "skyrl",
    "SkyRL's dumped_evals/global_step_N_evals/SOURCE.jsonl",
    read_skyrl,
    lambda head: head.kind == "json" and head.has("input_prompt", "output_response", "score"),
    suffixes=(".jsonl",),
    takes_names=True,
    takes_tokenizer=True,
)
