"""Arguments of SGLang: limits as the scenario has them, drafts as `sglang_drafts` has them; read in releases 0.5.1 to 0.5.23."""

from typing import Any

from simulator.deploy.settings.choice import Choice
from simulator.deploy.settings.engine import Engine
from simulator.deploy.settings.parts import Arguments, Check
from simulator.deploy.settings.sglang_drafts import ARGUMENTS, HOOK, sglang_drafts

KV_CACHE_DTYPE = {"auto": "auto", "fp8": "fp8_e4m3", "fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2", "bfloat16": "bf16"}
CAP = 48
"""Running requests that SGLang allows with speculation, unless told otherwise."""
BF16_KV_SINCE = "0.5.4"


def sglang_arguments(choice: Choice, engine: Engine) -> Arguments:
    """Return the arguments of `Engine` and `launch_server`, but for the model."""
    drafts = sglang_drafts(choice, engine)
    config, checks = _limits(choice, engine)
    if drafts.config:
        text = f"max_running_requests is said: without it SGLang runs {CAP} requests at most as soon as it speculates"
        checks.append(Check("ok", text, HOOK if engine.since("0.5.14") else ARGUMENTS))
    return Arguments(config | drafts.config, drafts.runs, (*drafts.checks, *checks), files=drafts.files)


def _limits(choice: Choice, engine: Engine) -> tuple[dict[str, Any], list[Check]]:
    """The limits that were given, by SGLang's names, and the requests that may run in any case."""
    limits, given = choice.engine, choice.engine.model_fields_set
    ranks = limits.data_parallel_size
    config: dict[str, Any] = {"max_running_requests": limits.max_num_seqs * ranks}
    checks = []
    if limits.max_model_len is not None:
        config["context_length"] = limits.max_model_len
    if not limits.enable_chunked_prefill:
        config["chunked_prefill_size"] = -1
    elif limits.max_num_batched_tokens is not None:
        config["chunked_prefill_size"] = limits.max_num_batched_tokens
        text = "SGLang counts tokens of prefill alone in chunked_prefill_size, and runs prefill and decode in steps of their own"
        checks.append(Check("warning", text, ARGUMENTS))
    if "block_size" in given:
        config["page_size"] = limits.block_size
    if "enable_prefix_caching" in given and not limits.enable_prefix_caching:
        config["disable_radix_cache"] = True
    if "async_scheduling" in given and not limits.async_scheduling:
        config["disable_overlap_schedule"] = True
    if isinstance(limits.num_gpu_blocks, int):
        config["max_total_tokens"] = limits.num_gpu_blocks * limits.block_size
    if choice.kv_cache_dtype is not None:
        kept = KV_CACHE_DTYPE.get(choice.kv_cache_dtype)
        if kept is None or (kept == "bf16" and not engine.since(BF16_KV_SINCE)):
            text = f"{engine} caches no keys and values in {choice.kv_cache_dtype}: left out, the model's own stands"
            checks.append(Check("warning", text, ARGUMENTS))
        else:
            config["kv_cache_dtype"] = kept
    if "cudagraph_capture_sizes" in given and limits.cudagraph_capture_sizes is not None:
        text = "cudagraph_capture_sizes are tokens in vLLM and sequences in SGLang: left out"
        checks.append(Check("warning", text, ARGUMENTS))
    if choice.tensor_parallel_size * ranks > 1:
        config["tp_size"] = choice.tensor_parallel_size * ranks
    if ranks > 1:
        config |= {"dp_size": ranks, "enable_dp_attention": True}
    return config, checks
