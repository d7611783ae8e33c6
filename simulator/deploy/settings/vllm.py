"""Arguments of vLLM: limits as the scenario has them, drafts as `vllm_drafts` has them; read in releases 0.10 to 0.33."""

from dataclasses import replace
from typing import Any

from simulator.deploy.settings.choice import Choice
from simulator.deploy.settings.engine import Engine
from simulator.deploy.settings.parts import Arguments, Check
from simulator.deploy.settings.vllm_drafts import VLLM_CONFIG, vllm_drafts
from simulator.scenario import EngineSettings

AS_THEY_ARE = (
    "max_num_batched_tokens", "max_model_len", "enable_chunked_prefill", "block_size", "enable_prefix_caching",
    "async_scheduling",
)  # fmt: skip
"""Limits of a scenario that are arguments of vLLM's by the same name."""
AHEAD_SINCE = {"eagle": "0.12", "eagle3": "0.12", "mtp": "0.12", "draft_model": "0.16", "dflash": "0.20"}
"""The release from which vLLM schedules a step ahead with a method; without drafts it does of itself from 0.14 on."""


def vllm_arguments(choice: Choice, engine: Engine) -> Arguments:
    """Return the arguments of `LLM` and `vllm serve`, but for the model."""
    drafts = vllm_drafts(choice, engine)
    limits = _limits(choice)
    method = drafts.config.get("speculative_config", {}).get("method")
    if method is None:
        return replace(drafts, config=limits)
    runs, checks = drafts.runs, [*drafts.checks, _requests(engine)]
    if not engine.since(AHEAD_SINCE.get(method, "9999")):
        text = f"with {method} drafts vLLM schedules no step ahead (async_scheduling)"
        if limits.get("async_scheduling"):
            del limits["async_scheduling"]
            others = {name: getattr(runs.engine, name) for name in runs.engine.model_fields_set - {"async_scheduling"}}
            runs = runs.model_copy(update={"engine": EngineSettings(**others)})
            checks.append(Check("refused", f"{text}, and does not start where it is asked for: left out", VLLM_CONFIG))
        elif engine.since("0.14"):
            text += ", as it does without drafts: hold them against none with async_scheduling"
            if method == "ngram" and engine.since("0.18"):
                text += "; method ngram_gpu does, whose costs are not simulated"
            checks.append(Check("warning", text, VLLM_CONFIG))
    return replace(drafts, config=limits | drafts.config, runs=runs, checks=tuple(checks))


def _requests(engine: Engine) -> Check:
    """Which requests are not drafted for."""
    if engine.since("0.14"):
        text = "requests with min_p or logit_bias are refused as soon as vLLM speculates"
        return Check("warning", text, "vllm/sampling_params.py")
    text = (
        "before 0.14 vLLM drafts for no request that asks for logprobs, as RL frameworks do: upgrade, or ask for none"
    )
    return Check("warning", text, "vllm/v1/spec_decode/utils.py; issue #34497")


def _limits(choice: Choice) -> dict[str, Any]:
    """The limits that were given, and the slots of a replica in any case."""
    engine, given = choice.engine, choice.engine.model_fields_set
    config: dict[str, Any] = {"max_num_seqs": engine.max_num_seqs}
    asked = {name: getattr(engine, name) for name in AS_THEY_ARE if name in given}
    config |= {name: value for name, value in asked.items() if value is not None}
    if engine.num_gpu_blocks == "auto":
        config["gpu_memory_utilization"] = engine.gpu_memory_utilization
    elif engine.num_gpu_blocks is not None:
        config["num_gpu_blocks_override"] = engine.num_gpu_blocks
    if isinstance(engine.cudagraph_capture_sizes, tuple):
        config["compilation_config"] = {"cudagraph_capture_sizes": list(engine.cudagraph_capture_sizes)}
    if choice.kv_cache_dtype is not None:
        config["kv_cache_dtype"] = choice.kv_cache_dtype
    if choice.tensor_parallel_size > 1:
        config["tensor_parallel_size"] = choice.tensor_parallel_size
    if engine.data_parallel_size > 1:
        config["data_parallel_size"] = engine.data_parallel_size
    return config
