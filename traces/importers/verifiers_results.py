"""results.jsonl of verifiers as it was before traces.jsonl, which prime-rl wrote as rollouts/step_N/train_rollouts.jsonl, too.

Written by save_outputs (verifiers 0.1): prompt, completion, reward, token_usage, and metrics under names of their own, one of
which is `turns`. The number in the folder's name is the RL step.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from traces.errors import InputError
from traces.importers.extras import numeric_extras
from traces.importers.files import step_in_path
from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import in_chunks, json_objects
from traces.importers.messages import TEMPLATE, split, text_of
from traces.importers.source import Source
from traces.importers.text import ASSUMED, prompt_id_of
from traces.importers.values import real, value_at, whole

KNOWN = (
    "example_id",
    "prompt",
    "completion",
    "reward",
    "prompt_tokens",
    "completion_tokens",
    "token_usage",
    "stop_condition",
)


def read_results(source: Source, options: Options) -> Iterator[Imported]:
    """The rows of results.jsonl; rows of one example are a group."""
    for rows in in_chunks(json_objects(source), source):
        columns: dict[str, list[Any]] = {
            name: [] for name in ("step", "prompt_id", "prompt_tokens", "output_tokens", "finish_reason", "reward")
        }
        prompts, outputs, answers = [], [], 0
        for line, row in rows:
            place = f"{source}: line {line}"
            prompt, (_, own) = text_of(row.get("prompt")), split(row.get("completion"))
            answers = max(answers, len(own))
            prompts.append(prompt)
            outputs.append("\n".join(own))
            columns["step"].append(step_in_path(source.path))
            columns["prompt_id"].append(str(row.get("example_id", prompt_id_of(prompt))))
            reward = row.get("reward")
            columns["reward"].append(None if reward is None else real(reward, f"{place}, key 'reward'"))
            cut = row.get("is_truncated")
            columns["finish_reason"].append(
                "aborted" if row.get("error") else None if cut is None else "length" if cut else "stop"
            )
            if options.encoder is None:
                columns["prompt_tokens"].append(_count(row, "prompt_tokens", "input_tokens", len(own), place))
                columns["output_tokens"].append(_count(row, "completion_tokens", "output_tokens", 1, place))
        places = [f"line {line}" for line, _ in rows]
        extras, ignored = numeric_extras([row for _, row in rows], KNOWN)
        assumed: tuple[str, ...] = ()
        if options.encoder is not None:
            columns["prompt_token_ids"] = options.encoder.encode(prompts)
            columns["token_ids"] = options.encoder.encode(outputs)
            columns["prompt_tokens"] = [len(ids) for ids in columns["prompt_token_ids"]]
            columns["output_tokens"] = [len(ids) for ids in columns["token_ids"]]
            assumed = (ASSUMED, TEMPLATE)
        yield Imported(arrow_table(columns, places, str(source), extras), places, assumed, {"ignored_columns": ignored})


def _count(row: Mapping[str, Any], own: str, usage: str, answers: int, place: str) -> int:
    """Tokens as a metric counts them, else as the provider did, whose input counts every turn's prompt anew."""
    if row.get(own) is not None:
        return whole(row[own], f"{place}, key '{own}'", 0)
    told = value_at(row, f"token_usage.{usage}")
    if told is None or answers > 1:
        what = "the prompt tokens of the first turn" if answers > 1 else own
        raise InputError(f"{place}: does not say {what}: give the model's tokenizer.json (--tokenizer)")
    return whole(told, f"{place}, token_usage.{usage}", 0)


RESULTS = Format(
    "verifiers-results",
    "results.jsonl of verifiers before traces.jsonl, and rollouts of prime-rl of that time",
    read_results,
    lambda head: head.kind == "json" and head.has("example_id", "prompt", "completion", "reward"),
    suffixes=(".jsonl",),
    takes_tokenizer=True,
)
