"""Runs inside vLLM's own Python: reads command lines from stdin as `vllm serve` would, and tells what vLLM makes of each.

stdin: a JSON list of lists of words behind `vllm serve`; stdout: a JSON list of what the configuration of an engine then says, or
of {"error": ...}. Nothing is loaded.
"""

import json
import sys
from typing import Any


def read(words: list[str]) -> dict[str, Any]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    try:
        config = AsyncEngineArgs.from_cli_args(parser.parse_args(words)).create_engine_config()
    except (SystemExit, Exception) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    drafting = config.speculative_config
    names = ("method", "model", "num_speculative_tokens", "num_speculative_tokens_per_batch_size", "prompt_lookup_min",
             "prompt_lookup_max", "suffix_decoding_max_tree_depth", "suffix_decoding_max_cached_requests",
             "suffix_decoding_max_spec_factor", "suffix_decoding_min_token_prob")  # fmt: skip
    return {
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        "enable_chunked_prefill": config.scheduler_config.enable_chunked_prefill,
        "async_scheduling": bool(config.scheduler_config.async_scheduling),
        "max_model_len": config.model_config.max_model_len,
        "enable_prefix_caching": config.cache_config.enable_prefix_caching,
        "block_size": config.cache_config.block_size,
        "num_gpu_blocks_override": config.cache_config.num_gpu_blocks_override,
        "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
        "data_parallel_size": config.parallel_config.data_parallel_size,
        "additional_config": config.additional_config,
        "speculative_config": drafting and {name: getattr(drafting, name) for name in names},
    }


def look_at_models_here() -> None:
    """Look at each model's class in this process, not in one that imports vLLM anew: there is no GPU to keep out of."""
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = lambda look: look()


if __name__ == "__main__":
    look_at_models_here()
    json.dump([read(words) for words in json.load(sys.stdin)], sys.stdout)
