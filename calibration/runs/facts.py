"""Settings of the engine of a run: as recorded, as overridden by the user, and completed by vLLM's defaults."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

from calibration.runs.values import count, text
from simulator.engine.serving import capture_sizes
from simulator.limits import (
    BATCHED_TOKENS,
    BLOCK_SIZE,
    ENGINE,
    GPU_BLOCKS,
    MAX_NUM_SEQS,
    MODEL_LEN,
    REPLICAS,
    TENSOR_PARALLEL,
)
from simulator.strict_yaml import load_value
from traces.errors import InputError

WHOLE = {
    "max_num_seqs": MAX_NUM_SEQS,
    "max_num_batched_tokens": BATCHED_TOKENS,
    "block_size": BLOCK_SIZE,
    "num_gpu_blocks": GPU_BLOCKS,
    "tensor_parallel_size": TENSOR_PARALLEL,
    "data_parallel_size": REPLICAS,
    "max_model_len": MODEL_LEN,
}
"""Range of each whole number."""
TEXTS = ("dtype", "vllm_version")


@dataclass(frozen=True)
class EngineFacts:
    """Settings of one engine by their names in vLLM; None where nobody said.

    `num_gpu_blocks` counts vLLM's null block; `cudagraph_capture_sizes` is ascending, and empty without CUDA graphs.
    """

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_size: int | None = None
    num_gpu_blocks: int | None = None
    gpu_memory_utilization: float | None = None
    enable_prefix_caching: bool | None = None
    enable_chunked_prefill: bool | None = None
    async_scheduling: bool | None = None
    cudagraph_capture_sizes: tuple[int, ...] | None = None
    scheduler_reserve_full_isl: bool | None = None
    tensor_parallel_size: int | None = None
    data_parallel_size: int | None = None
    enable_expert_parallel: bool | None = None
    max_model_len: int | None = None
    dtype: str | None = None
    vllm_version: str | None = None


NAMES = tuple(one.name for one in fields(EngineFacts))


def checked(name: str, value: Any, place: str) -> Any:
    """The value as the setting `name` holds it (None stays None); InputError, begun by `place`, where it cannot."""
    place = f"{place}, {name}"
    if value is None:
        return None
    if name in WHOLE:
        least, most = WHOLE[name]
        number = count(value, place, least)
        if most is not None and number > most:
            raise InputError(f"{place}: {number:,} is more than {most:,}, which no engine has: correct it")
        return number
    if name in TEXTS:
        return str(text(value)).removeprefix("torch.")
    if name == "gpu_memory_utilization":
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise InputError(f"{place}: {value!r:.60} is not a share of the memory: give a number above 0, at most 1")
        return float(value)
    if name == "cudagraph_capture_sizes":
        if not isinstance(value, list | tuple):
            raise InputError(f"{place}: {value!r:.60} is not a list of sizes: write it as [1, 2, 4, 8], or [] for none")
        sizes = tuple(sorted(count(size, place, 1) for size in value))
        if repeated := [size for size, following in pairwise(sizes) if size == following]:
            raise InputError(f"{place}: {repeated[0]} is there twice: list each size once")
        return sizes
    if not isinstance(value, bool):
        raise InputError(f"{place}: {value!r:.60} is neither true nor false: give one of them")
    return value


def overridden(facts: EngineFacts, settings: Iterable[str]) -> EngineFacts:
    """The facts with each `KEY=VALUE` of `settings` put in; values are YAML, and null is "nobody said"."""
    seen: set[str] = set()
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"--set {setting!r} is not KEY=VALUE: write for example num_gpu_blocks=2588")
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
            fix = f"did you mean {near[0]}?" if near else f"use one of {', '.join(NAMES)}"
            raise InputError(f"--set {setting!r}: {name!r} is no setting: {fix}")
        if name in seen:
            raise InputError(f"--set {setting!r}: {name} is set twice: set it once")
        seen.add(name)
        try:
            value = load_value(text)
        except InputError as error:
            raise InputError(f"--set {setting!r}: {error}") from None
        facts = replace(facts, **{name: checked(name, value, f"--set {setting!r}")})
    return facts


def completed(facts: EngineFacts, large_device: bool = False) -> tuple[EngineFacts, tuple[str, ...]]:
    """The facts with vLLM 0.19's defaults where nobody said, and the names of the settings filled so.

    A device of at least 70 GiB that is no A100 is large: `vllm serve` admits more there. Without speculation by a drafter
    on the CPU, scheduling is asynchronous. `num_gpu_blocks`, `max_model_len`, `dtype` and `vllm_version` stay unsaid:
    they have no default. Source: vllm/engine/arg_utils.py and vllm/config of vLLM 0.19.
    """
    defaults: dict[str, Any] = {
        "max_num_seqs": 1024 if large_device else 256,
        "max_num_batched_tokens": 8192 if large_device else 2048,
        "block_size": 16,
        "gpu_memory_utilization": ENGINE.gpu_memory_utilization,
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,
        "async_scheduling": True,
        "scheduler_reserve_full_isl": True,
        "tensor_parallel_size": 1,
        "data_parallel_size": 1,
        "enable_expert_parallel": False,
    }
    missing = {name: value for name, value in defaults.items() if getattr(facts, name) is None}
    filled = replace(facts, **missing)
    if filled.cudagraph_capture_sizes is None:
        assert filled.max_num_seqs is not None
        assert filled.max_num_batched_tokens is not None
        missing["cudagraph_capture_sizes"] = capture_sizes(filled.max_num_seqs, filled.max_num_batched_tokens)
    filled = replace(facts, **missing)
    return filled, tuple(name for name in NAMES if name in missing)
