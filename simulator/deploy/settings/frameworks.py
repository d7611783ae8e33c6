"""How RL frameworks hand arguments to the engines that they start, and what of speculation they know to look after.

Read in verl 0.9.1, SkyRL 0.3.0 and TRL 1.16.0 as released, and in the repositories of slime, NeMo-RL, prime-rl and ROLL.
"""

import difflib

from simulator.deploy.settings.engine import Engine
from simulator.deploy.settings.framework import Framework, Note, behind_a_prefix, by_keys, per_rank, vllm_server
from simulator.deploy.settings.snippets import as_yaml, dotlist, hydra, toml
from traces.errors import InputError

VERL, SKYRL, NEMO, PRIME, ROLL = (
    "actor_rollout_ref.rollout", "generator.inference_engine", "policy.generation", "inference",
    "actor_infer.strategy_args",
)  # fmt: skip


FRAMEWORKS = (
    Framework(
        name="verl",
        rest={"vllm": f"{VERL}.engine_kwargs.vllm", "sglang": f"{VERL}.engine_kwargs.sglang"},
        source={
            "vllm": "verl/workers/rollout/vllm_rollout/vllm_async_server.py",
            "sglang": "verl/workers/rollout/sglang_rollout/async_sglang_server.py",
        },
        own={
            "max_num_seqs": f"{VERL}.max_num_seqs", "max_running_requests": f"{VERL}.max_num_seqs",
            "max_num_batched_tokens": f"{VERL}.max_num_batched_tokens", "max_model_len": f"{VERL}.max_model_len",
            "enable_chunked_prefill": f"{VERL}.enable_chunked_prefill",
            "enable_prefix_caching": f"{VERL}.enable_prefix_caching",
            "gpu_memory_utilization": f"{VERL}.gpu_memory_utilization",
            "tensor_parallel_size": f"{VERL}.tensor_model_parallel_size", "tp_size": f"{VERL}.tensor_model_parallel_size",
            "data_parallel_size": f"{VERL}.data_parallel_size", "dp_size": f"{VERL}.data_parallel_size",
        },
        always={"vllm": {f"{VERL}.name": "vllm"}, "sglang": {f"{VERL}.name": "sglang"}},
        write=per_rank(by_keys(hydra)),
        notes=(
            Note(
                "verl syncs weights into drafters of method mtp alone: a head of its own stays as loaded, and needs "
                "rollout.load_format=auto, not dummy",
                "verl/workers/rollout/vllm_rollout/utils.py", by=("head",),
            ),
            Note(
                "rollout.mtp sets these arguments too, and on SGLang overrides them: leave its enable_rollout off, or set the "
                "same there",
                "verl/workers/config/model.py", by=("mtp",),
            ),
            Note(
                "weights must not be synced as deltas (delta weight transfer), which refuses speculation",
                "verl/workers/rollout/vllm_rollout/delta_weight_transfer.py", engine="vllm",
            ),
        ),
    ),
    Framework(
        name="slime",
        rest={"sglang": "--sglang-"},
        write=behind_a_prefix,
        source={"sglang": "slime/backends/sglang_utils/arguments.py"},
        own={"tp_size": "--rollout-num-gpus-per-engine"},
        notes=(
            Note(
                "--enable-mtp-training --mtp-num-layers 1 --mtp-loss-scaling-factor 0.2 trains MTP layers along, from a "
                "checkpoint that has them",
                "docs/zh/advanced/speculative-decoding.md", by=("mtp",),
            ),
            Note(
                "slime trains no head but MTP layers: an external one stays as it is",
                "docs/zh/advanced/speculative-decoding.md", by=("head",),
            ),
        ),
    ),
    Framework(
        name="nemo-rl",
        rest={"vllm": f"{NEMO}.vllm_kwargs", "sglang": f"{NEMO}.sglang_cfg"},
        source={
            "vllm": "nemo_rl/models/generation/vllm/config.py",
            "sglang": "nemo_rl/models/generation/sglang/sglang_worker.py, _compute_server_args",
        },
        own={
            "tensor_parallel_size": f"{NEMO}.vllm_cfg.tensor_parallel_size",
            "gpu_memory_utilization": f"{NEMO}.vllm_cfg.gpu_memory_utilization",
            "max_model_len": f"{NEMO}.vllm_cfg.max_model_len", "kv_cache_dtype": f"{NEMO}.vllm_cfg.kv_cache_dtype",
            "tp_size": f"{NEMO}.sglang_cfg.sglang_server_config.num_gpus_per_engine",
        },
        always={"vllm": {f"{NEMO}.backend": "vllm"}, "sglang": {f"{NEMO}.backend": "sglang"}},
        write=by_keys(as_yaml),
        mute=("sglang",),
        notes=(
            Note(
                "policy.draft.enabled=true trains an EAGLE head and refits it with the policy; else the head is loaded from its "
                "files and stays",
                "nemo_rl/models/generation/interfaces.py", by=("head",),
            ),
            Note(
                "MTP layers are refitted where the trainer trains them, else loaded from the checkpoint",
                "nemo_rl/models/generation/interfaces.py", by=("mtp",),
            ),
        ),
    ),
    Framework(
        name="skyrl",
        rest={"vllm": f"{SKYRL}.engine_init_kwargs"},
        source={"vllm": "skyrl/backends/skyrl_train/inference_servers/utils.py"},
        own={
            name: f"{SKYRL}.{name}"
            for name in (
                "max_num_seqs", "max_num_batched_tokens", "enable_prefix_caching", "enable_chunked_prefill",
                "gpu_memory_utilization", "tensor_parallel_size", "data_parallel_size", "speculative_config",
            )
        },
        always={"vllm": {f"{SKYRL}.backend": "vllm"}},
        write=by_keys(dotlist),
        notes=(
            Note(
                "trainer.mtp.enabled=true trains MTP heads and syncs them; a speculative_config of one's own goes before its",
                "skyrl/train/utils/utils.py", by=("mtp",),
            ),
        ),
    ),
    Framework(
        name="trl",
        rest={"vllm": ""},
        source={"vllm": "trl/scripts/vllm_serve.py"},
        write=vllm_server,
        notes=(
            Note(
                "TRL drafts with vllm_mode=server alone: the engine that it starts beside training (colocate) has no such key",
                "trl/generation/vllm_generation.py",
            ),
        ),
    ),
    Framework(
        name="prime-rl",
        rest={"vllm": f"{PRIME}.vllm_extra"},
        source={"vllm": "packages/prime-rl-configs/src/prime_rl/configs/inference.py"},
        own={
            "tensor_parallel_size": f"{PRIME}.parallel.tp", "data_parallel_size": f"{PRIME}.parallel.dp",
            "max_model_len": f"{PRIME}.model.max_model_len", "enable_prefix_caching": f"{PRIME}.enable_prefix_caching",
            "gpu_memory_utilization": f"{PRIME}.gpu_memory_utilization",
        },
        write=by_keys(toml),
    ),
    Framework(
        name="roll",
        rest={"vllm": f"{ROLL}.strategy_config", "sglang": f"{ROLL}.strategy_config"},
        source={
            "vllm": "roll/distributed/strategy/vllm_strategy.py", "sglang": "roll/distributed/strategy/sglang_strategy.py",
        },
        write=by_keys(as_yaml),
        own={"tp_size": f"{ROLL}.strategy_config.tensor_parallel_size"},
        always={"vllm": {f"{ROLL}.strategy_name": "vllm"}, "sglang": {f"{ROLL}.strategy_name": "sglang"}},
        notes=(
            Note(
                "ROLL starts engines with load_format dummy, which a head would start from, too: set load_format: auto",
                "roll/distributed/strategy/vllm_strategy.py", by=("head",),
            ),
        ),
    ),
)  # fmt: skip
"""All that are known; a name of them is what `--framework` takes."""


def framework_named(name: str, engine: Engine) -> Framework:
    """Return the framework of this name; InputError where there is none, or where it does not start this engine."""
    key = name.strip().lower().replace("_", "-")
    known = {framework.name: framework for framework in FRAMEWORKS}
    if key not in known:
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"framework {name[:60]!r}: {hint}use one of {', '.join(known)}")
    framework = known[key]
    if engine.name not in framework.rest:
        raise InputError(f"framework {key!r} starts {' or '.join(framework.rest)}, not {engine.name}: name that engine")
    return framework
