"""Arguments of vLLM: limits as the scenario has them, drafts as `vllm_drafts` has them; read in releases 0.10 to 0.33."""

from typing import Any

from simulator.deploy.settings.choice import Choice
from simulator.deploy.settings.engine import Engine
from simulator.deploy.settings.parts import Arguments, Check
from simulator.deploy.settings.vllm_drafts import VLLM_CONFIG, vllm_drafts

AS_THEY_ARE = (
    "max_num_batched_tokens", "max_model_len", "enable_chunked_prefill", "block_size", "enable_prefix_caching",
    "async_scheduling",
)  # fmt: skip
"""Limits of a scenario that are arguments of vLLM's by the same name."""
ASYNC = ("eagle", "eagle3", "mtp", "draft_model", "dflash", "ngram_gpu")
"""Methods with which vLLM schedules a step ahead."""


def vllm_arguments(choice: Choice, engine: Engine) -> Arguments:
    """Return the arguments of `LLM` and `vllm serve`, but for the model."""
    drafts = vllm_drafts(choice, engine)
    method = drafts.config.get("speculative_config", {}).get("method")
    limits, checks = _limits(choice), list(drafts.checks)
    if limits.get("async_scheduling") and method is not None and method not in ASYNC:
        del limits["async_scheduling"]
        text = f"async_scheduling is left out: with {method} drafts vLLM refuses it"
        checks.append(Check("refused", text, VLLM_CONFIG))
    if method is not None and not engine.since("0.14"):
        text = "before 0.14 vLLM drafts for no request that asks for logprobs, as RL frameworks do: upgrade, or ask for none"
        checks.append(Check("warning", text, "vllm/v1/spec_decode/utils.py, is_spec_decode_unsupported"))
    return Arguments(limits | drafts.config, drafts.runs, tuple(checks), drafts.install)


def _limits(choice: Choice) -> dict[str, Any]:
    """The limits that were given, and the slots of a replica in any case."""
    engine, given = choice.engine, choice.engine.model_fields_set
    config: dict[str, Any] = {"max_num_seqs": engine.max_num_seqs}
    config |= {
        name: getattr(engine, name) for name in AS_THEY_ARE if name in given and getattr(engine, name) is not None
    }
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
