"""TRL completions, `completions/completions_{step}.parquet` in the output folder (`log_completions`): text and rewards.

Written by GRPOTrainer.log (TRL 1.16): step, prompt and completion (text, or messages of a conversation), a column for each
reward function, what those logged besides, and advantage. A file holds the last generation batch at that step.
"""

from collections.abc import Iterator
from typing import Any

from traces.importers.columns import batches_of
from traces.importers.extras import numeric_extras
from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.messages import TEMPLATE, split, text_of
from traces.importers.source import Source
from traces.importers.text import is_text, prompt_id_of, token_columns
from traces.importers.values import whole

KNOWN = ("step", "prompt", "completion")


def read_trl(source: Source, options: Options) -> Iterator[Imported]:
    """The completions of one file, in file order; rows of a step with the same prompt are a group."""
    for start, batch in batches_of(source):
        rows = list(enumerate(batch.to_pylist(), start))
        columns: dict[str, list[Any]] = {"step": [], "prompt_id": []}
        prompts, completions, chat = [], [], False
        for index, row in rows:
            place = f"{source}: row {index}"
            _, answers = split(_said(row["completion"], f"{place}, column 'completion'"))
            prompts.append(text_of(_said(row["prompt"], f"{place}, column 'prompt'")))
            completions.append("\n".join(answers))
            chat |= isinstance(row["completion"], list)
            columns["step"].append(whole(row["step"], f"{place}, column 'step'", 0))
            columns["prompt_id"].append(prompt_id_of(prompts[-1]))
        extras, ignored = numeric_extras([row for _, row in rows], KNOWN)
        columns["reward"], assumed = _reward(extras, len(rows))
        tokens, assumed_tokens = token_columns(source, rows, prompts, completions, options)
        places = [f"row {index}" for index, _ in rows]
        yield Imported(
            arrow_table(columns | tokens, places, str(source), extras),
            places,
            (
                "rollouts of a step with the same prompt are a group",
                *assumed,
                *assumed_tokens,
                *((TEMPLATE,) if chat else ()),
            ),
            {"ignored_columns": ignored},
        )


def _said(value: object, place: str) -> object:
    """Text or messages; InputError for what is neither."""
    return value if isinstance(value, list) else is_text(value, place)


def _reward(extras: dict[str, Any], rows: int) -> tuple[list[float | None], tuple[str, ...]]:
    """The reward: the sum of what is called a reward, or the only number there is; its weights were not logged."""
    others = [name for name in extras if name != "advantage"]
    rewards = [name for name in others if "reward" in name.lower()] or (others if len(others) == 1 else [])
    if not rewards:
        return [None] * rows, ("the reward is unknown: no column is called a reward",) if others else ()
    values = zip(*(extras[name].to_pylist() for name in rewards), strict=True)
    sums = [sum(found) if (found := [one for one in row if one is not None]) else None for row in values]
    return sums, (f"the reward is the sum of {', '.join(rewards)}, unweighted",) if len(rewards) > 1 else ()


TRL = Format(
    "trl",
    "TRL's completions_{step}.parquet (log_completions)",
    read_trl,
    lambda head: head.kind == "parquet" and head.has("step", "prompt", "completion", "advantage"),
    suffixes=(".parquet",),
    takes_names=True,
    takes_tokenizer=True,
)
