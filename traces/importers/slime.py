"""slime rollout dumps (`--save-debug-rollout-data`): one torch file for each rollout step, with a list of samples.

Written by RolloutManager._save_debug_rollout_data (and miles' twin): `rollout_id` and `samples`, each what Sample.to_dict gives:
prompt, tokens of prompt and response, response_length, loss_mask (0 where a tool wrote), status, reward, rollout_log_probs,
group_index, spec_info.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from traces.errors import InputError
from traces.importers.extras import numeric_extras
from traces.importers.files import number_in_name
from traces.importers.format import Format, Options
from traces.importers.imported import Imported, arrow_table
from traces.importers.masked import Sequences
from traces.importers.source import Source
from traces.importers.text import prompt_id_of
from traces.importers.torch_file import Array, beginning, load
from traces.importers.values import real, whole

STATUS = {"completed": "stop", "truncated": "length", "aborted": "aborted", "failed": "aborted", "pending": None}
KNOWN = ("tokens", "response_length", "loss_mask", "status", "reward", "rollout_log_probs", "prompt", "response")
REWARD_KEY = "score"
CHUNK_SAMPLES = 256


def read_slime(source: Source, options: Options) -> Iterator[Imported]:
    """The samples of one file, in file order; samples with the same prompt tokens are a group."""
    dump = load(source)
    samples = dump.get("samples") if isinstance(dump, dict) else None
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise InputError(f"{source}: holds no list of 'samples': give files of slime's --save-debug-rollout-data")
    step = whole(_single(dump.get("rollout_id", number_in_name(source.path))), f"{source}: key 'rollout_id'", 0)
    for start in range(0, len(samples), CHUNK_SAMPLES):
        yield _chunk(samples[start : start + CHUNK_SAMPLES], start, step, source)
    source.read_bytes = source.path.stat().st_size


def _chunk(samples: list[dict[str, Any]], start: int, step: int, source: Source) -> Imported:
    sequences = Sequences()
    columns: dict[str, list[Any]] = {"step": [step] * len(samples), "finish_reason": [], "reward": []}
    places = [f"sample {start + index}" for index in range(len(samples))]
    for place, sample in zip(places, samples, strict=True):
        _add(sequences, sample, f"{source}: {place}")
        columns["finish_reason"].append(_finish_reason(sample.get("status"), f"{source}: {place}"))
        columns["reward"].append(_reward(sample.get("reward"), f"{source}: {place}"))
    columns["prompt_id"] = [prompt_id_of(ids) for ids in sequences.prompt_token_ids]
    tokens, assumed = sequences.columns()
    extras, ignored = numeric_extras([_flat(sample) for sample in samples], KNOWN)
    return Imported(
        arrow_table(columns | tokens, places, str(source), extras),
        places,
        ("rollouts of a step with the same prompt are a group", *assumed),
        {"ignored_columns": ignored},
    )


def _add(sequences: Sequences, sample: Mapping[str, Any], place: str) -> None:
    """Prompt and response of a sample. A token with a log-probability was generated, whatever the mask of the loss says."""
    for key in ("tokens", "response_length"):
        if key not in sample:
            raise InputError(
                f"{place}: no '{key}'; found {', '.join(map(str, sample))[:200]}: check the format that was given"
            )
    tokens = _numbers(sample["tokens"], f"{place}, key 'tokens'")
    length = whole(_single(sample["response_length"]), f"{place}, key 'response_length'", 0)
    if length > len(tokens):
        raise InputError(f"{place}, key 'response_length': {length} of {len(tokens)} tokens: dump again")
    generated, logprobs = np.ones(length), None
    if sample.get("rollout_log_probs") is not None:
        logprobs = _aligned(sample["rollout_log_probs"], length, f"{place}, key 'rollout_log_probs'")
    if sample.get("loss_mask") is not None:
        mask = _aligned(sample["loss_mask"], length, f"{place}, key 'loss_mask'") != 0
        wrote = mask | (logprobs != 0) if logprobs is not None else mask
        generated = wrote if wrote.any() else generated  # masked as a whole: kept out of the loss, but generated
    prompt = np.zeros(len(tokens) - length)
    padded = None if logprobs is None else np.concatenate([prompt, logprobs])
    sequences.add(tokens, np.concatenate([prompt, generated]), padded, place)


def _aligned(values: Any, length: int, place: str) -> Any:
    numbers = _numbers(values, place)
    if len(numbers) != length:
        raise InputError(f"{place}: {len(numbers)} elements but response_length is {length}: dump again")
    return numbers


def _numbers(values: Any, place: str) -> Any:
    try:
        numbers = np.asarray(values)
    except ValueError:
        numbers = np.asarray(None)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iufb"):
        raise InputError(f"{place}: is not a list of numbers: dump again")
    return numbers


def _finish_reason(status: Any, place: str) -> str | None:
    if status is not None and not (isinstance(status, str) and status in STATUS):
        raise InputError(
            f"{place}, key 'status': {_single(status)!r:.60} is not one of {', '.join(STATUS)}: correct the value"
        )
    return STATUS[status] if status is not None else None


def _reward(reward: Any, place: str) -> float | None:
    """A reward of several parts is its `score`, where it has one; the parts are columns of their own."""
    if isinstance(reward, dict):
        reward = reward.get(REWARD_KEY)
    return None if reward is None else real(_single(reward), f"{place}, key 'reward'")


def _single(value: Any) -> Any:
    """The number of a tensor or array that holds one; of another its lines as one, for an error."""
    if not isinstance(value, np.ndarray | Array):
        return value
    numbers = np.asarray(value)
    return numbers.item() if numbers.size == 1 else " ".join(str(numbers).split())


def _flat(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample with the parts of what it holds in mappings beside the rest: spec_info.spec_verify_ct."""
    flat = dict(sample)
    for name, value in sample.items():
        if isinstance(value, dict):
            del flat[name]
            flat |= {f"{name}.{part}": inner for part, inner in value.items()}
    return flat


SLIME = Format(
    "slime",
    "slime's (and miles') --save-debug-rollout-data: {rollout_id}.pt",
    read_slime,
    lambda head: (
        head.kind == "zip" and all(word in beginning(head.path) for word in (b"samples", b"tokens", b"response"))
    ),
    suffixes=(".pt",),
    step_in_name=True,
)
