"""rLLM's episodes (`trainer.episode_log_dir`): a JSON file each, `episodes/train_step_N_epoch_M/episode_hash…_id….json`.

Written by EpisodeLogger.log_episode (rLLM 0.3): training_step, epoch, task and trajectories of steps, of which model_response is
what was generated and chat_completions the messages up to there. Token ids and counts are not in it, unless steps hold
prompt_ids and response_ids, as other writers of the same objects add.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from traces.errors import InputError
from traces.importers.files import step_in_path
from traces.importers.finish import finish_of
from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.messages import TEMPLATE, split, text_of
from traces.importers.parts import ids_at, objects_at, text_at
from traces.importers.source import Source
from traces.importers.text import ASSUMED, prompt_id_of
from traces.importers.values import real, whole

NAMES = ("step", "epoch", "prompt_id", "reward", "finish_reason", "turns", "prompt_token_ids", "token_ids")


def read_rllm(source: Source, options: Options) -> Iterator[Imported]:
    """The trajectories of an episode, each a rollout of its task; their steps are turns."""
    try:
        episode = json.loads(source.content())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: is not JSON ({error}): export the episode again") from error
    if not isinstance(episode, dict) or "trajectories" not in episode:
        raise InputError(f"{source}: has no trajectories: give rLLM's episode files")
    trajectories = objects_at(episode, "trajectories", str(source))
    task = text_at(episode, "task_hash", str(source)) or prompt_id_of(json.dumps(episode.get("task"), sort_keys=True))
    names = [text_at(trajectory, "name", str(source)) or "agent" for trajectory in trajectories]
    columns: dict[str, list[Any]] = {name: [] for name in NAMES}
    places, encoded = [], False
    for index, trajectory in enumerate(trajectories):
        place = f"{source}: trajectory {index}"
        prompt, outputs, was_encoded = _tokens(objects_at(trajectory, "steps", place), options, place)
        encoded |= was_encoded
        reward = trajectory.get("reward")
        columns["step"].append(
            whole(episode.get("training_step", step_in_path(source.path)), f"{source}: training_step", 0)
        )
        columns["epoch"].append(whole(episode.get("epoch", 0), f"{source}: epoch", 0))
        columns["prompt_id"].append(task if len(set(names)) == 1 else f"{task}/{names[index]}")
        columns["reward"].append(None if reward is None else real(reward, f"{place}, reward"))
        columns["finish_reason"].append(finish_of(episode.get("termination_reason")))
        columns["prompt_token_ids"].append(prompt)
        columns["token_ids"].append([token for ids in outputs for token in ids])
        columns["turns"].append(_turns(outputs))
        places.append(f"trajectory {index}")
    assumed = ["what the environment answered between turns is not in the lengths"]
    assumed += [ASSUMED, TEMPLATE] if encoded else []
    yield Imported(arrow_table(columns, places, str(source)), places, tuple(assumed))


def _tokens(
    steps: Sequence[Mapping[str, Any]], options: Options, place: str
) -> tuple[list[int], list[list[int]], bool]:
    """Ids of the first prompt and of every response; whether they had to be encoded."""
    recorded = [ids_at(step, "response_ids", place) for step in steps]
    if recorded and None not in recorded:
        return ids_at(steps[0], "prompt_ids", place) or [], [ids for ids in recorded if ids is not None], False
    if options.encoder is None:
        raise InputError(f"{place}: holds text without token ids: give the model's tokenizer.json (--tokenizer)")
    messages = steps[0].get("chat_completions") or [] if steps else []
    prompt, _ = split(messages)
    responses = [text_of(step.get("model_response")) for step in steps]
    first, *outputs = (ids.tolist() for ids in options.encoder.encode([prompt, *responses]))
    return first, outputs, True


def _turns(outputs: Sequence[Sequence[int]]) -> list[dict[str, Any]] | None:
    """Tokens of each step; how long the environment took is not logged."""
    generated = [len(ids) for ids in outputs if len(ids)]
    return [{"generated_tokens": count, "wait_s": 0.0} for count in generated] if len(generated) > 1 else None


RLLM = Format(
    "rllm",
    "rLLM's episodes, a JSON file each",
    read_rllm,
    lambda head: head.kind == "json" and head.has("trajectories", "episode_id"),
    suffixes=(".json",),
    takes_tokenizer=True,
)
