"""NeMo-RL training data, `train_data_step{n}.jsonl` in the run's log folder: token ids, one JSON line for each rollout.

Written by Logger.log_batched_dict_as_jsonl from GRPO's loop (2026): token_ids of prompt and response, padded to the longest
of the batch, input_lengths before padding, token_loss_mask (1 where the policy wrote), rewards, generation_logprobs, idx.
"""

from collections.abc import Iterator
from typing import Any

from traces.errors import InputError
from traces.importers.extras import numeric_extras
from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.lines import cell, in_chunks, json_objects
from traces.importers.masked import Sequences
from traces.importers.source import Source
from traces.importers.text import prompt_id_of
from traces.importers.values import real, whole

KNOWN = ("token_ids", "token_loss_mask", "input_lengths", "rewards", "generation_logprobs")


def read_nemo_rl(source: Source, options: Options) -> Iterator[Imported]:
    """The rollouts of one file, in file order. Rows with the same prompt tokens are a group; the step is in the file's name."""
    for rows in in_chunks(json_objects(source), source):
        sequences, rewards = Sequences(), []
        for line, row in rows:
            place = f"{source}: line {line}"
            if "token_ids" not in row and "input_lengths" in row:
                raise InputError(
                    f"{place}: no 'token_ids': older NeMo-RL logged the text alone: update it and dump again"
                )
            length = whole(cell(row, "input_lengths", source, line), f"{place}, key 'input_lengths'", 0)
            ids, mask = (_numbers(row, name, source, line, length) for name in ("token_ids", "token_loss_mask"))
            logged = "generation_logprobs" in row
            logprobs = _numbers(row, "generation_logprobs", source, line, length) if logged else None
            sequences.add(ids, mask, logprobs, place)
            reward = row.get("rewards")
            rewards.append(None if reward is None else real(reward, f"{place}, key 'rewards'"))
        columns, assumed = sequences.columns()
        columns |= {"prompt_id": [prompt_id_of(ids) for ids in sequences.prompt_token_ids], "reward": rewards}
        places = [f"line {line}" for line, _ in rows]
        extras, ignored = numeric_extras([row for _, row in rows], KNOWN)
        yield Imported(
            arrow_table(columns, places, str(source), extras),
            places,
            ("rollouts of a step with the same prompt are a group", *assumed),
            {"ignored_columns": ignored},
        )


def _numbers(row: dict[str, Any], name: str, source: Source, line: int, length: int) -> list[Any]:
    """The first `length` of a list of numbers: what follows is padding."""
    values = cell(row, name, source, line)
    if not isinstance(values, list) or len(values) < length:
        what = f"{len(values)} elements" if isinstance(values, list) else type(values).__name__
        raise InputError(
            f"{source}: line {line}, key '{name}': is {what}, needs a list of input_lengths = {length}: dump again"
        )
    if not all(type(value) in (int, float) for value in values[:length]):
        raise InputError(f"{source}: line {line}, key '{name}': holds what is not a number: dump again")
    return values[:length]


NEMO_RL = Format(
    "nemo-rl",
    "NeMo-RL's train_data_step{n}.jsonl",
    read_nemo_rl,
    lambda head: head.kind == "json" and head.has("content", "rewards", "input_lengths", "generation_logprobs"),
    suffixes=(".jsonl",),
    step_in_name=True,
)
